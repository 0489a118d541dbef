import { progress } from "./client/sdk.gen";

const { stream } = await progress({ baseUrl, path: { job: 1 } });
for await (const event of stream) {
  if (event.type === "progress") console.log(event.percent);
  else console.log(event.result);
}
