// Reads one JSON line per stream, `{stream: base64, step: bytes per chunk}`, and answers with what was parsed.
import { createInterface } from "node:readline";

import { createParser } from "eventsource-parser";

for await (const line of createInterface({ input: process.stdin })) {
  const { stream, step } = JSON.parse(line);
  const seen = { events: [], comments: [], retries: [], errors: [] };
  const parser = createParser({
    onEvent: (event) => seen.events.push(event),
    onComment: (comment) => seen.comments.push(comment),
    onRetry: (retry) => seen.retries.push(retry),
    onError: (error) => seen.errors.push(error.message),
  });
  const decoder = new TextDecoder();
  const bytes = Buffer.from(stream, "base64");
  for (let start = 0; start < bytes.length; start += step) {
    parser.feed(decoder.decode(bytes.subarray(start, start + step), { stream: true }));
  }
  process.stdout.write(JSON.stringify(seen) + "\n");
}
