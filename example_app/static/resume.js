// The feed comes by EventSource, which reconnects by itself and says by Last-Event-ID what it has had.
// That nothing is missing or doubled is not taken from the log: every publisher numbers its events, and they are checked.

const COLUMNS = 150;
const COLUMN_WIDTH = 12; // with its gap
const ROWS = 100;
const CHAPTERS = 8;
const HUES = 6;
const SILENT_AFTER = 3000;
const YOUNG = 6000;
const WORKERS = 6;

const $ = (selector, root = document) => root.querySelector(selector);
const plural = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const post = (url) => fetch(url, { method: "POST" });
const clock = (at) => new Date(at).toLocaleTimeString("en-GB");

const workers = new Map(); // by their id, in the order in which they were first heard of
const expected = new Map(); // for each publisher the number that comes next
const gaps = new Set(); // numbers that were passed over
const totals = { received: 0, missing: 0, doubled: 0, resumed: 0 };

let met = 0;
let source = null;
let connection = null; // { worker, at } as the server said hello
let storage = null;
let began = null; // the first hello of all
let last = null; // the event that arrived last, and where it stands
let lost = null; // { at, worker, why } from the loss of a connection to the next hello
let chapter = null; // the resumption that is being told
let away = false;
let killing = null; // { worker, until }
let advice = "";

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

function announce(text) {
  $("#announcer").textContent = text;
}

// --- Workers ---------------------------------------------------------------------------------------------------------

function meet(worker) {
  let known = workers.get(worker.id);
  if (!known) {
    const element = $("#worker-template").content.firstElementChild.cloneNode(true);
    known = { ...worker, hue: met % HUES, published: 0, heardAt: 0, metAt: performance.now(), killed: false, element };
    met += 1;
    element.dataset.hue = known.hue;
    write($("b", element), String(worker.pid));
    workers.set(worker.id, known);
    $("#workers").append(element);
    for (const [id, { element: old, killed, heardAt }] of workers) {
      if (workers.size <= WORKERS) break;
      if (killed || performance.now() - heardAt > SILENT_AFTER) {
        old.remove();
        workers.delete(id);
      }
    }
  }
  return known;
}

const alive = () =>
  [...workers.values()].filter(({ killed, heardAt }) => !killed && heardAt && performance.now() - heardAt < SILENT_AFTER);

function showWorkers() {
  for (const worker of workers.values()) {
    const delivers = connection?.worker.id === worker.id && !lost;
    const silent = performance.now() - (worker.heardAt || worker.metAt) > SILENT_AFTER && !lost && !away;
    worker.element.dataset.state = worker.killed ? "killed" : silent ? "silent" : "alive";
    worker.element.toggleAttribute("data-delivers", delivers);
    const states = [worker.killed ? "killed" : silent ? "silent" : `published ${worker.published.toLocaleString("en")}`];
    if (delivers) states.push("delivers to this page");
    write($("span", worker.element), states.join(" · "));
  }
}

// --- Whether the worker can be killed --------------------------------------------------------------------------------

function whyNot() {
  if (!storage) return "";
  if (storage === "memory")
    return "The log is in this process’s memory, so a killed worker would take it along. Hanging up works; to kill, have " +
      "Redis keep the log, and two workers: EXAMPLE_REDIS_URL=redis://localhost:6379/0 ./scripts/example --workers 2";
  if (killing && performance.now() < killing.until) return `Worker ${killing.worker.pid} is being sent SIGKILL…`;
  if (lost || away || !connection) return "";
  if (!alive().length) return "Nothing has been published for a while. Once Redis is back, it all comes.";
  if (alive().length < 2) return "There is no other worker to come back to yet. Start with --workers 2, or wait for the next.";
  const age = performance.timeOrigin + performance.now() - connection.worker.since;
  if (age < YOUNG) return `Worker ${connection.worker.pid} has only just started, and can be killed in a moment.`;
  return null;
}

function showControls() {
  const reason = whyNot();
  const button = $("#kill");
  button.disabled = reason !== null;
  write(button, connection && storage === "redis" ? `Kill worker ${connection.worker.pid}` : "Kill its worker");
  write($("#advice"), advice || reason || "");
  $("#publish").disabled = away || Boolean(lost) || !connection;
  write($("#leave"), away ? "Come back" : "Hang up");
  if (!storage) return;
  const log = storage === "redis" ? "Redis Streams" : "memory of one process";
  write($("#storage"), `${plural(alive().length, "worker")} · log in ${storage === "redis" ? log : `the ${log}`}`);
}

async function kill() {
  const { worker } = connection;
  advice = "";
  try {
    const response = await post(`/feed/workers/${worker.id}/kill`);
    if (response.ok) killing = { worker, until: performance.now() + 5000 };
    else advice = (await response.json()).detail;
  } catch {
    // The answer may have died with the worker.
  }
  showControls();
}

async function publish() {
  try {
    const response = await post("/feed/notes");
    advice = response.ok ? "" : (await response.json()).detail;
  } catch {
    advice = "The server could not be reached.";
  }
  showControls();
}

// --- One event -------------------------------------------------------------------------------------------------------

const label = ({ worker, number }) => `${worker.pid}·${number}`;

/** Look whether the number is the one that had to come; returns what is wrong with it. */
function check({ worker, number }) {
  const next = expected.get(worker.id) ?? (worker.since > began ? 1 : number);
  const key = `${worker.id}·${number}`;
  if (number >= next) {
    for (let gap = next; gap < number && gaps.size < 10000; gap += 1) gaps.add(`${worker.id}·${gap}`);
    expected.set(worker.id, number + 1);
    count("missing", number - next);
    return number > next ? "gap" : "";
  }
  if (gaps.delete(key)) {
    count("missing", -1);
    return "late";
  }
  count("doubled", 1);
  return "doubled";
}

function count(what, by) {
  totals[what] += by;
  if (chapter) chapter[what] += by;
}

function receive(event, id) {
  const publisher = meet(event.worker);
  const wrong = check(event);
  const replayed = Boolean(chapter) && event.at < connection.at;
  totals.received += 1;
  publisher.heardAt = performance.now();
  publisher.published = Math.max(publisher.published, event.number);
  if (event.victim) {
    meet(event.victim).killed = true;
  }
  if (chapter) {
    if (replayed) chapter.replayed += 1;
    else chapter.done = true;
    showChapter(chapter);
  }
  last = { id, label: label(event) };
  addColumn(event, replayed, wrong);
  addRow(event, replayed, wrong);
}

function addColumn(event, replayed, wrong) {
  const column = make("li", "column");
  column.dataset.kind = event.kind;
  const upper = make("i", "published");
  const lower = make("i", "delivered");
  upper.dataset.hue = meet(event.worker).hue;
  lower.dataset.hue = meet(connection.worker).hue;
  column.toggleAttribute("data-replayed", replayed);
  if (wrong) column.dataset.wrong = wrong;
  column.append(upper, lower);
  addToRibbon(column);
}

function addToRibbon(column) {
  const ribbon = $("#ribbon");
  ribbon.append(column);
  while (ribbon.childElementCount > COLUMNS) ribbon.firstElementChild.remove();
  ribbon.toggleAttribute("data-full", ribbon.childElementCount * COLUMN_WIDTH > ribbon.clientWidth);
}

function chip(worker) {
  const element = make("span", "chip", String(worker.pid));
  element.dataset.hue = meet(worker).hue;
  return element;
}

function addRow(event, replayed, wrong) {
  const row = document.createElement("tr");
  const cell = (...content) => {
    const td = document.createElement("td");
    td.append(...content);
    row.append(td);
  };
  const what = event.kind === "kill" ? `SIGKILL for ${event.victim.pid}` : event.kind;
  cell(make("time", "", clock(event.at)));
  cell(make("span", "what", what), make("span", "number", ` #${event.number}`));
  cell(chip(event.worker));
  cell(chip(connection.worker));
  if (replayed) row.lastElementChild.append(make("em", "", "replayed"));
  if (wrong === "doubled") row.lastElementChild.append(make("em", "tone-bad", "doubled"));
  row.dataset.kind = event.kind;
  row.dataset.key = `${event.worker.id}·${event.number}`;
  addToRows(row);
}

function addToRows(row) {
  $("#arrived").prepend(row);
  while ($("#arrived").childElementCount > ROWS) $("#arrived").lastElementChild.remove();
}

function addBreak(text, tone) {
  addToRibbon(make("li", `break ${tone}`));
  const row = make("tr", `break ${tone}`);
  const cell = make("td", "", text);
  cell.colSpan = 4;
  row.append(cell);
  addToRows(row);
}

function showTotals() {
  for (const name of Object.keys(totals)) write($(`#${name}`), totals[name].toLocaleString("en"));
  for (const name of ["missing", "doubled"]) $(`#${name}`).dataset.tone = totals[name] ? "bad" : "good";
}

// --- The story of what was resumed -----------------------------------------------------------------------------------

function beginChapter(title, ...how) {
  const element = $("#story-template").content.firstElementChild.cloneNode(true);
  chapter = { element, after: last?.label, replayed: 0, missing: 0, doubled: 0, reset: null, done: false };
  write($("h3", element), title);
  $("[data-how]", element).append(clock(Date.now()), ...how);
  $("#story").prepend(element);
  while ($("#story").childElementCount > CHAPTERS) $("#story").lastElementChild.remove();
  $("#story-empty").hidden = true;
}

function tellResumption({ worker }) {
  const titles = { killed: `Worker ${lost.worker.pid} was killed`, left: "You hung up", lost: "The connection was lost" };
  const seconds = ((performance.now() - lost.at) / 1000).toFixed(1);
  const which = worker.id === lost.worker.id ? "the same" : "another";
  beginChapter(titles[lost.why], ` · ${seconds} s later back on ${which} worker, `, chip(worker));
  totals.resumed += 1;
  addBreak(`resumed after #${chapter.after ?? "0"}, on worker ${worker.pid}`, "");
  showChapter(chapter);
}

function showChapter({ element, after, replayed, missing, doubled, reset, done }) {
  const verdict = $(".verdict", element);
  const where = after ? `Resumed after #${after}` : "Began anew";
  const text = `${where}: ${plural(replayed, "event")} replayed, ${missing}\u00a0missing, ${doubled}\u00a0doubled`;
  const trimmed = "events after its last are no longer stored";
  const cause = reset && Object.values(reset.topics).includes("trimmed") ? trimmed : "the log does not know its last event";
  const anew = reset?.resumed === "oldest" ? "all that is stored" : "what comes next";
  write(verdict, reset ? `Reset: ${cause}. It went on with ${anew}: ${plural(replayed, "event")} replayed.` : text);
  verdict.dataset.tone = reset || missing || doubled ? "bad" : done ? "good" : "";
  if (done && !element.dataset.told) {
    element.dataset.told = "yes";
    announce(verdict.textContent);
  }
}

// --- The connection --------------------------------------------------------------------------------------------------

function linkState(state) {
  const link = $("#link");
  link.dataset.state = state;
  write(link, state);
}

function lose(why) {
  if (connection && !lost) {
    const { worker } = connection;
    const killed = why !== "left" && workers.get(worker.id)?.killed;
    lost = { at: performance.now(), worker, why: killed ? "killed" : why };
    addBreak(killed ? `worker ${worker.pid} was killed` : why === "left" ? "you hung up" : "the connection was lost", "end");
  }
  show();
}

function listen() {
  // A new EventSource has no Last-Event-ID; one that reconnects has, and the server prefers it.
  const query = last ? `?after=${encodeURIComponent(last.id)}` : "";
  source = new EventSource(`/feed/events${query}`);
  const mine = source;
  source.onerror = () => {
    linkState("reconnecting");
    lose("lost");
    // Refused, not cut off: then it has given up, and leaves it to us.
    if (mine.readyState === EventSource.CLOSED) setTimeout(() => mine === source && !away && listen(), 1000);
  };
  source.addEventListener("hello", ({ data }) => {
    const hello = JSON.parse(data);
    linkState("live");
    began ??= hello.at;
    storage = hello.storage;
    killing = null;
    connection = hello;
    meet(hello.worker);
    if (lost) tellResumption(hello);
    lost = null;
    show();
  });
  source.addEventListener("reset", ({ data, lastEventId }) => {
    const reset = JSON.parse(data);
    // What comes may have come before, and what was missed is gone: the numbers begin anew.
    expected.clear();
    began = Infinity;
    last = { id: lastEventId, label: last?.label ?? "" };
    addBreak("reset: the log can’t go on from there", "end");
    if (!chapter || chapter.done) {
      beginChapter("The log has lost what was in it", " · noticed while connected");
    }
    chapter.reset = reset;
    showChapter(chapter);
    show();
  });
  source.addEventListener("published", ({ data, lastEventId }) => {
    receive(JSON.parse(data), lastEventId);
    show();
  });
}

function leave() {
  away = true;
  source.close();
  linkState("hung up");
  lose("left");
}

function comeBack() {
  away = false;
  linkState("connecting");
  listen();
  show();
}

function show() {
  showTotals();
  showWorkers();
  showControls();
}

// A tab that nobody looks at leaves its connection to those that somebody does look at, and resumes when it is back.
let hid = false;
document.addEventListener("visibilitychange", () => {
  if (document.hidden && !away) {
    hid = true;
    leave();
  } else if (!document.hidden && hid) {
    hid = false;
    comeBack();
  }
});

$("#publish").addEventListener("click", publish);
$("#leave").addEventListener("click", () => (away ? comeBack() : leave()));
$("#kill").addEventListener("click", kill);
setInterval(show, 500);
listen();
