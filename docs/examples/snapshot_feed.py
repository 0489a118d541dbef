"""A page that is rendered with what there is, and goes on from there: nothing is missing, nothing is shown twice."""

import os
import sqlite3
from html import escape

from litestar import Litestar, MediaType, get, post
from msgspec import Struct

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin, SSEMessage, StreamContext
from litestar_safe_sse.sources import EventLog, MemoryEventLog, RedisEventLog, RedisPlugin

PAGE = """<!doctype html>
<title>Comments</title>
<ol data-after="{after}">{items}</ol>
<script>
  const list = document.querySelector("ol");
  const events = new EventSource("/comments?after=" + list.dataset.after);
  events.addEventListener("comment", (event) => {{
    const {{ number, text }} = JSON.parse(event.data);
    if (document.getElementById(number)) return;  // it was in the database by then, and in the log later
    list.append(Object.assign(document.createElement("li"), {{ id: number, textContent: text }}));
  }});
  events.addEventListener("reset", () => location.reload());  // what is missing is in the database
</script>
"""


class Comment(Struct):
    text: str


plugins: list[SafeSSEPlugin | RedisPlugin] = [SafeSSEPlugin()]
log: EventLog
if url := os.environ.get("REDIS_URL"):
    redis = RedisPlugin(url)
    log = RedisEventLog(redis)
    plugins.append(redis)
else:
    log = MemoryEventLog()

database = sqlite3.connect(os.environ.get("DATABASE", ":memory:"), check_same_thread=False)
database.execute("CREATE TABLE IF NOT EXISTS comments (number INTEGER PRIMARY KEY, text TEXT NOT NULL)")


@get("/", media_type=MediaType.HTML)
async def page() -> str:
    after = await log.position("comments")  # first where the stream will begin,
    rows = database.execute("SELECT number, text FROM comments ORDER BY number")  # and only then what there is
    return PAGE.format(after=after, items="".join(f'<li id="{number}">{escape(text)}</li>' for number, text in rows))


@get("/comments")
async def comments(stream: StreamContext, after: str) -> SafeServerSentEvent:
    # A page that comes back has been sent an ID, which is further than the one in its address.
    events = log.subscribe("comments", after=stream.last_event_id or after)
    return SafeServerSentEvent(events, retry_duration=500)


@post("/comments")
async def add(data: Comment) -> dict[str, int | None]:
    with database:
        number = database.execute("INSERT INTO comments (text) VALUES (?)", (data.text,)).lastrowid
    await log.append("comments", SSEMessage({"number": number, "text": data.text}, event="comment"))
    return {"number": number}


app = Litestar([page, comments, add], plugins=plugins)
