import { jobsProgress } from "./client/sdk.gen";

export async function follow(baseUrl: string, job: number): Promise<string> {
  const { stream } = await jobsProgress({ baseUrl, path: { job } });
  for await (const event of stream) {
    if (event.type === "done") return event.result;
    console.log(`${event.percent} %`);
  }
  throw new Error("the stream was cut");
}
