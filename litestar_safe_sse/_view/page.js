const byId = (id) => document.getElementById(id);
const tries = 20; // a request to close may reach another process, which does not know the stream

function cell(text, className = "") {
  const made = document.createElement("td");
  made.textContent = text;
  made.className = className;
  return made;
}

function duration(seconds) {
  const whole = Math.floor(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

async function close(wanted) {
  for (let count = 0; count < tries; count++) {
    const headers = { "Content-Type": "application/json" };
    const response = await fetch("close", { method: "POST", headers, body: JSON.stringify(wanted) });
    if (!response.ok) {
      say("lost", `closing was answered ${response.status}`);
      return;
    }
    if ((await response.json()).closed) return;
  }
}

function button(text, title, wanted) {
  const made = document.createElement("button");
  made.textContent = text;
  made.title = title;
  made.onclick = () => close(wanted);
  return made;
}

function keysOf(stream) {
  return stream.keys.map(({ key }) => key).join(", ");
}

function liveRow(stream) {
  const row = document.createElement("tr");
  row.dataset.id = stream.id;
  row.append(
    cell(stream.handler), cell(stream.path), cell(stream.who), cell(keysOf(stream)), cell(stream.reason ? `${stream.state}: ${stream.reason}` : stream.state),
    cell(duration(stream.age), "n"), cell(`${stream.events - stream.heartbeats} + ${stream.heartbeats} ♥`, "n"),
    cell(`${stream.pending} B`, "n"),
  );
  const actions = cell("");
  actions.append(
    button("Close", `Close the stream ${stream.id}`, { id: stream.id }),
    button("Close all", `Close all streams of ${stream.handler}`, { handler: stream.handler }),
    ...stream.keys.map(({ by, key }) => button(`Close all of ${key}`, `Close all streams of the key ${key}`, { key, by })),
  );
  row.append(actions);
  return row;
}

function endedRow(stream) {
  const row = document.createElement("tr");
  row.append(
    cell(stream.handler), cell(stream.path), cell(stream.who), cell(keysOf(stream)), cell(stream.reason ?? ""), cell(duration(stream.age), "n"),
    cell(stream.events - stream.heartbeats, "n"), cell(new Date(stream.ended * 1000).toLocaleTimeString()),
  );
  return row;
}

function fill(body, rows, columns) {
  if (rows.length === 0) {
    const none = cell("none", "none");
    none.colSpan = columns;
    rows = [document.createElement("tr")];
    rows[0].append(none);
  }
  body.replaceChildren(...rows);
}

function show({ process, counts, streams, ended }) {
  const reasons = Object.entries(counts.closed).map(([reason, count]) => `${count} ${reason}`);
  byId("counts").textContent =
    `Process ${process}: ${counts.open} open, ${counts.opened} opened, ${counts.refused} refused; closed: ${reasons.join(", ") || "none"}`;
  if (!byId("live").querySelector(":active")) fill(byId("live"), streams.map(liveRow), 9); // else a click would be lost
  fill(byId("ended"), ended.map(endedRow), 8);
}

function say(state, text) {
  byId("status").dataset.state = state;
  byId("status").textContent = text;
}

const events = new EventSource("events");
events.addEventListener("snapshot", (event) => {
  say("live", "live");
  show(JSON.parse(event.data));
});
events.onerror = () => say("lost", events.readyState === EventSource.CLOSED ? "lost; reload the page" : "reconnecting");
addEventListener("pagehide", () => events.close());
