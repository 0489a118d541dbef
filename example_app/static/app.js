// The page: your streams are read with fetch, so that what is on the wire can be shown, comments included;
// the page's own numbers come by EventSource, which reconnects by itself when the server is restarted.

const SLOTS = 4;
const DOTS = 100;
const LINES = 60;
const SENDERS = { safe: "SafeServerSentEvent", litestar: "ServerSentEvent" };

const $ = (selector, root = document) => root.querySelector(selector);
const plural = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const pause = (ms) => new Promise((resume) => setTimeout(resume, ms));
const post = (url) => fetch(url, { method: "POST" });

const kinds = {};
let latest = { kinds: {}, unheard_tokens: 0, live_streams: 0, ended: [] };

function write(element, text) {
  // Twenty snapshots a second: touching only what differs leaves selections and screen readers in peace.
  if (element.textContent !== text) element.textContent = text;
}

function announce(text) {
  $("#announcer").textContent = text;
}

function milliseconds(ms) {
  if (ms < 1) return "less than 1 ms";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

// --- One stream of yours ---------------------------------------------------------------------------------------------

class Slot {
  constructor() {
    this.element = $("#slot-template").content.firstElementChild.cloneNode(true);
    this.wire = $(".wire", this.element);
    this.closeButton = $("[data-close]", this.element);
    this.revokeButton = $("[data-revoke]", this.element);
    this.closeButton.addEventListener("click", () => this.close());
    this.revokeButton.addEventListener("click", () => this.revoke());
    this.notifyButton = $("[data-notify]", this.element);
    this.notifyButton.addEventListener("click", () => post("/notifications"));
    this.clear();
  }

  get busy() {
    return this.state === "connecting" || this.state === "open";
  }

  clear() {
    this.kind = null;
    this.via = null;
    this.number = null;
    this.endedAt = 0;
    this.events = 0;
    this.partial = "";
    this.fields = false;
    this.settled = false;
    this.stale = false;
    this.wire.replaceChildren();
    this.show("free", "");
  }

  show(state, outcome, tone = "") {
    this.state = state;
    this.element.dataset.state = state;
    this.element.dataset.via = this.via ?? "";
    const name = this.kind ? `${this.kind.title}${this.number ? ` #${this.number}` : ""}` : "Free";
    write($("h3", this.element), name);
    write($("[data-sender]", this.element), this.kind ? SENDERS[this.via] : "");
    write($("[data-count]", this.element), this.kind ? plural(this.events, "event") : "");
    const line = $("[data-outcome]", this.element);
    write(line, outcome);
    line.dataset.tone = tone;
    this.wire.scrollTop = this.wire.scrollHeight;
    this.wire.setAttribute("aria-label", this.kind ? `${name}, on the wire` : "No stream");
    this.closeButton.hidden = this.revokeButton.hidden = !this.busy;
    this.notifyButton.hidden = state !== "open" || this.kind.name !== "notifications";
    this.revokeButton.disabled = this.via === "litestar" || state === "connecting";
    this.revokeButton.title =
      this.via === "litestar" ? "The server has no way to end Litestar’s own streams" : "End it from the server’s side";
    showCounts();
  }

  async open(kind, via) {
    this.clear();
    this.kind = kind;
    this.via = via;
    this.controller = new AbortController();
    const { signal } = this.controller;
    this.show("connecting", "Connecting…");
    this.element.scrollIntoView({ block: "nearest", behavior: "smooth" });
    try {
      const response = await fetch(`/streams/${via}/${kind.name}`, { signal });
      if (!response.ok) {
        const { detail } = await response.json();
        return this.ended(detail, "bad");
      }
      this.number = Number(response.headers.get("X-Stream"));
      this.show("open", "");
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (signal.aborted) return;
        if (done) break;
        this.read(value);
        if (kind.slow_reader) await pause(400);
      }
      this.ended("Ended by the server");
    } catch (error) {
      if (!signal.aborted) this.ended("The connection was lost", "bad");
    }
  }

  read(text) {
    const lines = (this.partial + text).split(/\r\n|\n/);
    this.partial = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) this.fields = true;
      if (line === "" && this.fields) {
        this.fields = false;
        this.events += 1;
      }
    }
    const rows = lines.slice(-LINES).filter(Boolean).map((line) => {
      const row = document.createElement("span");
      row.textContent = line.slice(0, 120);
      if (line.startsWith(":")) row.className = "comment";
      return row;
    });
    this.wire.append(...rows);
    while (this.wire.childElementCount > LINES) this.wire.firstElementChild.remove();
    this.wire.scrollTop = this.wire.scrollHeight;
    write($("[data-count]", this.element), plural(this.events, "event"));
  }

  close() {
    if (!this.busy) return;
    if (this.number) post(`/streams/${this.number}/left`).catch(() => {});
    this.controller.abort();
    this.ended("Closed");
  }

  async revoke() {
    this.revokeButton.disabled = true;
    await post(`/streams/${this.number}/revoke`).catch(() => {});
  }

  ended(outcome, tone) {
    this.endedAt = performance.now();
    this.show("closed", outcome, tone);
    this.update(latest.ended);
  }

  update(ended) {
    const row = this.stale ? null : ended.find(({ number }) => number === this.number);
    if (!row) return;
    if (this.busy) {
      // Others come to their end by reading; a slow reader has megabytes before it still, of a stream that is over.
      if (!this.kind.slow_reader) return;
      this.controller.abort();
      this.endedAt = performance.now();
    }
    const { text, tone } = outcomeOf(row);
    this.show("closed", text, tone);
    if (!this.settled && row.state !== "leaving") {
      this.settled = true;
      announce(`${this.kind.title}, stream ${this.number}: ${text}`);
    }
  }
}

function outcomeOf(row) {
  const reason = row.reason ? ` · ${row.reason}` : "";
  if (row.state === "leaked") return { text: `Leaked: still held after ${row.leaked_seconds} s`, tone: "bad" };
  if (row.state === "leaving") return { text: "Being given back…", tone: "" };
  if (row.cleanup_ms === null) return { text: `Given back as it ended${reason}`, tone: "good" };
  const tone = row.cleanup_ms < 1000 ? "good" : "bad";
  return { text: `Given back after ${milliseconds(row.cleanup_ms)}${reason}`, tone };
}

const slots = [];

function openStream(kind, via) {
  const slot =
    slots.find(({ state }) => state === "free") ??
    slots.filter(({ busy }) => !busy).sort((a, b) => a.endedAt - b.endedAt)[0];
  slot?.open(kind, via);
}

function showCounts() {
  const open = slots.filter(({ busy }) => busy).length;
  write($("#open-count"), String(open));
  $("#close-all").disabled = open === 0;
  for (const button of document.querySelectorAll("[data-open]")) {
    button.disabled = open >= SLOTS;
    button.title = open >= SLOTS ? "Close one of your four streams first" : "";
  }
}

// --- The kinds -------------------------------------------------------------------------------------------------------

function kindRow(kind) {
  const row = $("#kind-template").content.firstElementChild.cloneNode(true);
  row.dataset.kind = kind.name;
  $("h3", row).textContent = kind.title;
  $("[data-about]", row).textContent = `${kind.about} Holds ${kind.holds}.`;
  $("legend", row).textContent = `${kind.title}, sent by`;
  for (const radio of row.querySelectorAll("input")) radio.name = `via-${kind.name}`;
  const open = $("[data-open]", row);
  open.setAttribute("aria-label", `Open ${kind.title}`);
  open.addEventListener("click", () => openStream(kind, $("input:checked", row).value));
  return row;
}

function showKinds({ kinds: held, unheard_tokens }) {
  for (const row of document.querySelectorAll(".kind")) {
    const sides = Object.values(held[row.dataset.kind] ?? {});
    const open = sides.reduce((sum, side) => sum + side.open, 0);
    const leaked = sides.reduce((sum, side) => sum + side.leaked, 0);
    const parts = [];
    if (open > leaked) parts.push(`${(open - leaked).toLocaleString("en")} in use`);
    if (leaked) parts.push(`${leaked.toLocaleString("en")} leaked`);
    if (row.dataset.kind === "answer" && unheard_tokens)
      parts.push(`${plural(unheard_tokens, "token")} billed while nobody listens`);
    const counts = $("[data-counts]", row);
    write(counts, parts.join(" · "));
    counts.dataset.tone = leaked ? "bad" : open ? "live" : "";
  }
}

// --- The crowd -------------------------------------------------------------------------------------------------------

function showSides({ kinds: held }) {
  for (const side of document.querySelectorAll(".side")) {
    let open = 0;
    let leaked = 0;
    for (const sides of Object.values(held)) {
      open += sides[side.dataset.via].open;
      leaked += sides[side.dataset.via].leaked;
    }
    side.dataset.tone = leaked ? "bad" : open ? "live" : "";
    write($("[data-held]", side), open.toLocaleString("en"));
    const note = $("[data-leaked]", side);
    note.hidden = $("[data-reset]", side).hidden = leaked === 0;
    write(note, `${leaked.toLocaleString("en")} leaked`);
    const dots = $(".dots", side);
    [...dots.children].forEach((dot, index) => {
      dot.className = index < Math.min(leaked, DOTS) ? "leaked" : index < open ? "held" : "";
    });
    dots.dataset.more = open > DOTS ? `and ${(open - DOTS).toLocaleString("en")} more` : "";
  }
}

function showResult(via, what, outcome = "", tone = "") {
  const line = $(`.side[data-via=${via}] [data-result]`);
  write($("span", line), what);
  write($("b", line), outcome);
  line.dataset.tone = tone;
}

function crowdResult({ opened, held, slowest_ms, watched_seconds }) {
  const what = `${plural(opened, "visitor")} hung up at once.`;
  if (!opened) return ["Nobody got in."];
  if (held) return [what, `${held} of ${opened} still held ${watched_seconds} s later.`, "bad"];
  return [what, `All given back within ${milliseconds(slowest_ms)}.`, "good"];
}

async function sendCrowd() {
  const button = $("#crowd-send");
  const kind = kinds[$("#crowd-kind").value];
  button.disabled = true;
  for (const via in SENDERS) showResult(via, "");
  // One side after the other, so that neither is measured under the other's load.
  for (const via in SENDERS) {
    showResult(via, `${plural(kind.crowd, "visitor")} listening…`);
    try {
      const response = await post(`/crowds/${via}/${kind.name}`);
      const answer = await response.json();
      showResult(via, ...(response.ok ? crowdResult(answer) : [answer.detail]));
    } catch {
      showResult(via, "The server could not be reached.");
    }
  }
  button.disabled = false;
}

async function reset() {
  await post("/reset");
  for (const slot of slots) if (slot.state === "closed") slot.clear();
  for (const via in SENDERS) showResult(via, "Nobody has come yet.");
}

function showCrowdSize() {
  const { crowd } = kinds[$("#crowd-kind").value];
  $("#crowd-send").textContent = `Send ${crowd} visitors to each`;
}

// --- What became of them ---------------------------------------------------------------------------------------------

function showEnded({ ended }) {
  const cell = (label, text, className = "") => {
    const td = document.createElement("td");
    td.dataset.label = label;
    const inner = document.createElement("span");
    inner.textContent = text;
    inner.className = className;
    td.append(inner);
    return td;
  };
  const rows = ended.map((row) => {
    const { tone } = outcomeOf(row);
    const given =
      row.state === "leaked" ? `not in ${row.leaked_seconds} s: leaked`
      : row.state === "leaving" ? "…"
      : row.cleanup_ms === null ? "as it ended"
      : `after ${milliseconds(row.cleanup_ms)}`;
    const tr = document.createElement("tr");
    tr.append(
      cell("Stream", `${kinds[row.kind]?.title ?? row.kind} #${row.number}`),
      cell("Sent by", SENDERS[row.via], "mono"),
      cell("Why it ended", row.reason ?? "it does not say", row.reason ? "reason" : "muted"),
      cell("Given back", given, `tone-${tone || "none"}`),
    );
    return tr;
  });
  $("#ended tbody").replaceChildren(...rows);
  $("#ended").hidden = rows.length === 0;
  $("#ended-empty").hidden = rows.length > 0;
}

// --- The page's own stream -------------------------------------------------------------------------------------------

let source = null;
let shownEnded = "";

function linkState(state) {
  const link = $("#link");
  link.dataset.state = state;
  write(link, state);
}

function listen() {
  source = new EventSource("/numbers");
  source.onopen = () => {
    linkState("live");
    // It may be another server now, with a ledger and numbers of its own.
    for (const slot of slots) slot.stale = slot.state === "closed";
  };
  source.onerror = () => linkState("reconnecting");
  source.addEventListener("numbers", ({ data }) => {
    latest = JSON.parse(data);
    showSides(latest);
    showKinds(latest);
    for (const slot of slots) slot.update(latest.ended);
    const ended = JSON.stringify(latest.ended);
    if (ended !== shownEnded) showEnded(latest);
    shownEnded = ended;
    const live = latest.live_streams;
    $("#many").hidden = latest.workers === 1;
    write($("#many"), `${latest.workers} workers answer here, each with a ledger of its own: this page shows one of them, and is at its best with one.`);
    write($("#live"), `${plural(live, "stream")} of the plugin ${live === 1 ? "is" : "are"} open now, this one included.`);
  });
}

// A tab that nobody looks at leaves its connection to those that somebody does look at.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    source?.close();
    linkState("paused");
  } else if (source?.readyState === EventSource.CLOSED) {
    listen();
  }
});

// --- Start -----------------------------------------------------------------------------------------------------------

for (let i = 0; i < SLOTS; i += 1) {
  const slot = new Slot();
  slots.push(slot);
  $("#slots").append(slot.element);
}
for (const dots of document.querySelectorAll(".dots"))
  dots.append(...Array.from({ length: DOTS }, () => document.createElement("i")));

for (const kind of await (await fetch("/kinds")).json()) {
  kinds[kind.name] = kind;
  $("#kinds").append(kindRow(kind));
  $("#crowd-kind").append(new Option(kind.title, kind.name));
}
showCounts();
showCrowdSize();
$("#crowd-kind").addEventListener("change", showCrowdSize);
$("#crowd-send").addEventListener("click", sendCrowd);
$("#close-all").addEventListener("click", () => slots.forEach((slot) => slot.close()));
for (const button of document.querySelectorAll("[data-reset]")) button.addEventListener("click", reset);
listen();
