// Runs the client of the documentation, and says what must be an error in one.

import { jobsProgress } from "./client/sdk.gen";
import { follow } from "./job_client";

declare const process: { argv: string[] };

export async function wrong(): Promise<void> {
  const { stream } = await jobsProgress({ path: { job: 1 } });
  for await (const event of stream) {
    // @ts-expect-error: events of this type have no result
    if (event.type === "progress") console.log(event.result);
    // @ts-expect-error: there is no such type of events
    if (event.type === "failed") console.log(event);
  }
}

follow(process.argv[2], 1).then(console.log);
