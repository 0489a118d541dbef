// Opens an EventSource as npm's `eventsource` has it, and tells each change, a line of JSON each.
import { EventSource } from "eventsource";

const source = new EventSource(process.argv[2]);
const tell = (what, more = {}) => console.log(JSON.stringify({ what, state: source.readyState, ...more }));
source.onopen = () => tell("open");
source.onerror = () => tell("error");
source.onmessage = (event) => tell("message", { data: event.data });
