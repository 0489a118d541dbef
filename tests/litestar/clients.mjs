// Reads an event stream from stdin, and answers with the data of the events that each client makes of it.
// Bytes are fed one by one, as a slow connection might.
import { getBytes, getLines, getMessages } from "@microsoft/fetch-event-source/lib/cjs/parse.js";
import { createParser } from "eventsource-parser";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const stream = Buffer.concat(chunks);

function eventsourceParser() {
  const seen = [];
  const parser = createParser({ onEvent: (event) => seen.push(event.data) });
  const decoder = new TextDecoder();
  for (const byte of stream) parser.feed(decoder.decode(Uint8Array.of(byte), { stream: true }));
  return seen;
}

async function fetchEventSource() {
  const seen = [];
  const body = new ReadableStream({
    start(controller) {
      for (const byte of stream) controller.enqueue(Uint8Array.of(byte));
      controller.close();
    },
  });
  const ignore = () => {};
  await getBytes(body, getLines(getMessages(ignore, ignore, (message) => seen.push(message.data))));
  return seen;
}

const seen = { "eventsource-parser": eventsourceParser(), "fetch-event-source": await fetchEventSource() };
process.stdout.write(JSON.stringify(seen));
