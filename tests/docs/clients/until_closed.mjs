// Opens an EventSource as npm's `eventsource` has it, tells each event, and ends when it has been told not to come again.
import { EventSource } from "eventsource";

const source = new EventSource(process.argv[2]);
const tell = (what, data = "") => console.log(JSON.stringify({ what, data }));
for (const type of ["progress", "finished", "reset"]) source.addEventListener(type, (event) => tell(type, event.data));
source.onerror = () => {
  if (source.readyState === EventSource.CLOSED) tell("closed");
};
