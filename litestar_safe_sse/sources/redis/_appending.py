"""What is sent to Redis to append to an event log, by whatever client, and what its replies mean.

The script is the format's keeper: who appends in another language runs it too.
"""

from __future__ import annotations

from functools import lru_cache
from pkgutil import get_data
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from litestar_safe_sse.config import check_integer, check_text
from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError, SSEError, TopicFinishedError
from litestar_safe_sse.sources._cursor import cursor, record, tag
from litestar_safe_sse.sources._lives import Lives
from litestar_safe_sse.sources._stored import REMEMBERED, Renderer, check_key, check_topic, end_of
from litestar_safe_sse.sources.redis._commands import Argument, Framed, frame, plain
from litestar_safe_sse.sources.redis._entries import as_fields, to_position
from litestar_safe_sse.sources.redis._errors import code_of
from litestar_safe_sse.sources.redis._scripts import Script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from litestar_safe_sse._core.messages import SSEMessage

__all__ = ("APPEND", "DELETE", "Appending", "Keys", "ids", "last_id", "refusal")

APPEND = Script.of((get_data("litestar_safe_sse.sources.redis", "append.lua") or b"").decode())
"""Stores events, and publishes them to the channel of the topic's key: ID, nonce, the nonce before, and the fields, or
the ID alone if they are large. That nobody may be told is no reason not to store it.
"""

DELETE = Script.of("""
redis.call('DEL', KEYS[1], KEYS[2])
local heard = redis.pcall('SPUBLISH', KEYS[1], '')
if type(heard) == 'table' and heard.err then redis.pcall('PUBLISH', KEYS[1], '') end
""")
"""KEYS: the topic, and its end."""


_OTHERS = frozenset({"queue", "group"})
"""What the keys of queues begin with."""

_KNOWN = 4096
"""Topics of which the arguments are kept that are the same for each append."""

_PARTS = (".finished", ".once", ".present", ".secret")
"""What follows a log's name in those of its keys that are no topics."""


_NO_PLACE = "equal or smaller than the target stream top item"
"""What Redis says of an ID that a stream has given before, be it of an entry that was removed by ``XDEL``."""


class Keys:
    """The names of a log's keys.

    Args:
        prefix: What the names of all keys begin with, without its braces.
        name: The log's name.

    Raises:
        InvalidFieldError: A name can't be used.
    """

    def __init__(self, prefix: str, name: str) -> None:
        if not check_text("name", name) or ":" in name:
            raise InvalidFieldError("name", f"must be a name without a colon, not {name!r:.40}")
        if name in _OTHERS or name.endswith(_PARTS):
            raise InvalidFieldError("name", f"must be another than {name!r:.40}, of which others' keys are made")
        self._log = f"{{{prefix}}}:{name}"
        self.secret = f"{self._log}.secret"
        self.topics = f"{self._log}:"
        """What the keys of topics begin with."""
        self.present = f"{self._log}.present:"
        """What the keys begin with that say who is subscribed to a topic."""

    def topic(self, topic: str) -> str:
        """Returns the key of a topic."""
        return self.topics + topic

    def end(self, topic: str) -> str:
        """Returns the key that says where a topic ended."""
        return f"{self._log}.finished:{topic}"

    def once(self, topic: str, key: str) -> str:
        """Returns the key of an idempotency key."""
        return f"{self._log}.once:{len(topic)}:{topic}:{key}"


class Appending:
    """Makes the arguments of scripts, and reads their replies.

    Args:
        keys: The log's.
        lives: What is kept of topics.
        max_bytes: Bytes that one event may have.
        enc_hook: As in ``msgspec.json.Encoder``.

    Raises:
        InvalidFieldError: An argument can't be used.
    """

    def __init__(self, keys: Keys, lives: Lives, max_bytes: int, enc_hook: Callable[[Any], Any] | None) -> None:
        check_integer("max_bytes", max_bytes, minimum=1)
        self._keys = keys
        self._lives = lives
        self._renderer = Renderer(max_bytes, enc_hook)
        self._times = lives.keys, round(REMEMBERED * 1000)
        self._of_topic = lru_cache(_KNOWN)(self._find_of_topic)

    def append(self, topic: str, message: object, idempotency_key: str | None) -> list[Argument]:
        """Returns the arguments of ``APPEND`` for one message; see :meth:`EventLog.append`."""
        check_topic(topic)
        return self._arguments(topic, (self._renderer.render(message),), idempotency_key)

    def render_all(self, messages: Iterable[object]) -> list[SSEMessage]:
        """Returns what is stored of messages that are appended together."""
        return self._renderer.render_all(messages)

    def append_many(self, topic: str, rendered: list[SSEMessage], idempotency_key: str | None) -> list[Argument]:
        """Returns the arguments of ``APPEND`` for several."""
        return self._arguments(check_topic(topic), rendered, idempotency_key)

    def queue(self, pipeline: Any, topic: str, message: object, idempotency_key: str | None) -> None:
        """Adds one message to a pipeline of redis-py's; see :meth:`RedisEventLog.queue_append`."""
        if not hasattr(pipeline, "execute") or not hasattr(pipeline, "execute_command"):
            raise InvalidFieldError("pipeline", f"must be a pipeline of redis-py's, not {type(pipeline).__name__}")
        if getattr(pipeline, "watching", False) and not getattr(pipeline, "explicit_transaction", False):
            raise InvalidFieldError("pipeline", "must not be watching keys only: call its multi() first")
        arguments = self.append(topic, message, idempotency_key)
        pipeline.execute_command("EVAL", APPEND.text, *plain(arguments))  # whole: what is queued can't be tried again

    def finish(self, topic: str) -> list[Argument]:
        """Returns the arguments of ``APPEND`` for the last event of a topic."""
        return self._arguments(topic, (end_of(check_topic(topic)),), None)

    def delete(self, topic: str) -> list[Argument]:
        """Returns the arguments of ``DELETE``."""
        return [2, self._keys.topic(check_topic(topic)), self._keys.end(topic)]

    def _arguments(self, topic: str, messages: Sequence[SSEMessage], idempotency_key: str | None) -> list[Argument]:
        head = self._of_topic(topic)
        key = check_key(idempotency_key)
        arguments: list[Argument] = [head] if key is None else _with_key(head, self._keys.once(topic, key))
        # The secret is another one each time: if Redis has lost the log's, it must not be given the same one again.
        drawn = token_hex(16 + 4 * len(messages)).encode()
        arguments.append(drawn[:32])
        for number, message in enumerate(messages, 4):
            fields = as_fields(message)
            arguments += drawn[8 * number : 8 * number + 8], len(fields), *fields
        return arguments

    def _find_of_topic(self, topic: str) -> Framed:
        """Returns the number of the keys, the keys and the settings of a topic."""
        keys = self._keys.topic(topic), self._keys.secret, self._keys.end(topic)
        return frame(len(keys), *keys, *self._lives.of(topic), *self._times)


def _with_key(of_topic: Framed, key: str) -> list[Argument]:
    """Returns the keys and the settings of a topic with one more key."""
    number, *keys_and_settings = of_topic.arguments
    count = int(number)
    return [count + 1, *keys_and_settings[:count], key, *keys_and_settings[count:]]


def ids(topic: str, reply: bytes | str) -> list[str]:
    """Returns the IDs that a reply of ``APPEND`` stands for."""
    text = reply if isinstance(reply, str) else bytes(reply).decode()
    return [last_id(topic, part) for part in text.split(" ")]


def last_id(topic: str, reply: bytes | str) -> str:
    """Returns the ID of the last event, or the only one, that a reply of ``APPEND`` stands for."""
    text = reply.encode() if isinstance(reply, str) else bytes(reply)
    identity, _, nonce = text.rpartition(b" ")[2].rpartition(b"-")
    return cursor([record(tag(topic), to_position(identity, nonce))])


def refusal(topic: str, error: SSEError, cause: BaseException | None) -> SSEError:
    """Returns an error that names the topic, if it is about that.

    Args:
        topic: The topic.
        error: The error of ours.
        cause: That of redis-py's.
    """
    if not isinstance(error, SourceRefusedError):
        return error
    if code_of(cause) == "FINISHED":
        return TopicFinishedError(f"topic {topic!r} is finished; delete it first to begin it anew")
    if _NO_PLACE in str(cause):
        return SourceRefusedError(
            f"topic {topic!r}: its newest event has been removed, and the next can't take its place; delete the topic"
        )
    return SourceRefusedError(f"topic {topic!r}: {error}")
