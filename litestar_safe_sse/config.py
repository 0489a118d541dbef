"""The settings of the plugin, and the checks that a stream's own settings share with them."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from litestar_safe_sse.exceptions import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Sequence

    Moment = datetime | float
    OnRefusal = Literal["unavailable", "reconnect", "oldest"]

__all__ = ("PerKey", "SafeSSEConfig")

SEPARATORS = ("\r\n", "\n", "\r")
"""What ends a line: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream"""

MAX_DURATION = 1_000_000_000
"""Seconds of the longest duration, about 31 years: more of them overflow the timers of event loops."""

ON_REFUSAL = ("unavailable", "reconnect", "oldest")

MIN_SECRET = 16
"""Characters of the shortest secret."""

MAX_RETRY = 2**31 - 1
"""Milliseconds of the longest reconnection time, about 25 days: more of them overflow the timers of Node, which then
wait for no time at all."""

_MAX_INTEGER = 2**63 - 1
_MAX_FLOAT = sys.float_info.max
_T = TypeVar("_T")


def check_duration(field: str, value: object, *, optional: bool = False, zero: bool = False) -> None:
    """Checks a number of seconds.

    Args:
        field: The name to give in the error.
        value: What to check.
        optional: Whether ``None`` is allowed.
        zero: Whether 0 is allowed.

    Raises:
        InvalidFieldError: It is something else, or longer than any timer can be set.
    """
    if value is None and optional:
        return
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        valid = 0 < value <= MAX_DURATION or (zero and value == 0)  # nan is neither
        if valid:
            return
    least = "from 0" if zero else "above 0 and"
    raise _refusal(field, value, f"a number of seconds, {least} up to {MAX_DURATION}", optional)


def check_integer(
    field: str, value: object, *, minimum: int, maximum: int = _MAX_INTEGER, optional: bool = False
) -> None:
    """Checks a count.

    Args:
        field: The name to give in the error.
        value: What to check.
        minimum: The least that is allowed.
        maximum: The most; what 64 bits hold unless given.
        optional: Whether ``None`` is allowed.

    Raises:
        InvalidFieldError: It is something else.
    """
    if value is None and optional:
        return
    if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum:
        return
    raise _refusal(field, value, f"an int from {minimum} to {maximum}", optional)


def check_text(field: str, value: object) -> str:
    """Returns a ``str``, or what an instance of a subclass holds, as a plain one.

    Raises:
        InvalidFieldError: It is something else, or UTF-8 cannot encode it.
    """
    if not isinstance(value, str):
        raise _refusal(field, value, "a str")
    text = value if type(value) is str else str.__str__(value)  # a member of a str Enum prints as its name
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise lone_surrogate(field, error) from error
    return text


def check_name(field: str, value: object) -> None:
    """Checks a name.

    Raises:
        InvalidFieldError: It is no text, or empty.
    """
    if not check_text(field, value):
        raise InvalidFieldError(field, "must be a name, not the empty string")


def lone_surrogate(field: str, error: UnicodeEncodeError) -> InvalidFieldError:
    """Returns the error for a ``field`` whose text UTF-8 cannot encode."""
    found = f"U+{ord(error.object[error.start]):04X}"
    return InvalidFieldError(field, f"must be text that UTF-8 can encode, without the lone surrogate {found}")


def check_separator(field: str, value: object) -> None:
    """Checks what ends a line.

    Raises:
        InvalidFieldError: It does not, in the standard.
    """
    if value not in SEPARATORS:
        raise _refusal(field, value, r"'\r\n', '\n' or '\r'")


def check_choice(field: str, value: object, choices: Sequence[str]) -> None:
    """Raises ``InvalidFieldError`` unless ``value`` is one of some strings.

    Args:
        field: The name to give in the error.
        value: What to check.
        choices: The strings, two at least.
    """
    if value not in choices:
        *others, last = map(repr, choices)
        raise _refusal(field, value, f"{', '.join(others)} or {last}")


def check_function(field: str, value: object) -> None:
    """Raises ``InvalidFieldError`` unless ``value`` is a function, or ``None``; a coroutine function is none."""
    if value is not None and (not callable(value) or _is_coroutine_function(value)):
        raise _refusal(field, value, "a function, no coroutine function", optional=True)


def check_secret(field: str, value: object) -> None:
    """Checks what a header is to carry and nobody to guess, or ``None``; the error does not tell it.

    Raises:
        InvalidFieldError: It is short, or can't be in a header.
    """
    if value is None:
        return
    if not isinstance(value, str) or len(value) < MIN_SECRET or not re.fullmatch("[!-~]+", value):
        raise InvalidFieldError(
            field,
            f"must be a str of {MIN_SECRET} or more printable ASCII characters without spaces, or None; "
            "secrets.token_urlsafe() makes one",
        )


def check_coroutine_function(field: str, value: object) -> None:
    """Raises ``InvalidFieldError`` unless ``value`` is a coroutine function, or ``None``."""
    if value is not None and not _is_coroutine_function(value):
        raise _refusal(field, value, "an async function", optional=True)


def _is_coroutine_function(value: object) -> bool:
    if inspect.iscoroutinefunction(value):
        return True
    return inspect.iscoroutinefunction(getattr(value, "__call__", None))  # noqa: B004  # what it is when called


def check_method(field: str, value: object, method: str, what: str) -> None:
    """Raises ``InvalidFieldError`` unless ``value`` has a method, or is ``None``.

    Args:
        field: The name to give in the error.
        value: What to check.
        method: The name of the method.
        what: What has such a method.
    """
    if value is not None and (isinstance(value, type) or not callable(getattr(value, method, None))):
        raise _refusal(field, value, what, optional=True)


def check_part(field: str, value: object) -> None:
    """Raises ``InvalidFieldError`` unless ``value`` is a part of 1, and less than all of it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise _refusal(field, value, "a number from 0 up to, but not including, 1")


def check_arguments(field: str, function: Any, given: str) -> None:
    """Checks that a function can be called with one argument, as far as it tells.

    Args:
        field: The name to give in the error.
        function: What to check; what is no function is for others to refuse.
        given: What it is called with.

    Raises:
        InvalidFieldError: It can not.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some of C's do not tell
        return
    try:
        signature.bind(None)
    except TypeError as error:
        name = getattr(function, "__qualname__", function)
        raise InvalidFieldError(
            field, f"must be a function that can be called with {given} alone, which {name}{signature} can not"
        ) from error


def check_expiry(field: str, value: object) -> None:
    """Raises ``InvalidFieldError`` unless ``value`` is a moment, a function that may return one, or ``None``.

    A moment that has passed by is allowed, since all of them do while an application runs.
    """
    if callable(value):
        check_function(field, value)
        return
    check_moment(field, value)


def check_moment(field: str, value: object) -> None:
    """Raises ``InvalidFieldError`` unless ``value`` is a moment in time, or ``None``."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidFieldError(
                field, "must be a datetime with a time zone; give it tzinfo=timezone.utc, or its own"
            )
        return
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _MAX_FLOAT:  # as nan is not
        raise _refusal(field, value, "a datetime with a time zone, or seconds of the epoch", optional=True)
    if value < MAX_DURATION:
        raise InvalidFieldError(
            field,
            f"must be seconds of the epoch, which began in 1970, not {value:g}; for streams that last so many seconds "
            "each, give max_lifetime",
        )


def check_retry(field: str, value: object) -> None:
    """Raises ``InvalidFieldError`` unless ``value`` is a number of milliseconds, or the least and the most of them."""
    if not isinstance(value, tuple):
        check_integer(field, value, minimum=0, maximum=MAX_RETRY, optional=True)
    elif len(value) != 2 or not all(type(each) is int and 0 <= each <= MAX_RETRY for each in value):
        allowed = f"an int, or two of them, the least and the most, from 0 to {MAX_RETRY}"
        raise _refusal(field, value, allowed, optional=True)
    elif value[0] > value[1]:
        raise _refusal(field, value, "(least, most), in this order")


def _refusal(field: str, value: object, allowed: str, optional: bool = False) -> InvalidFieldError:
    try:
        shown = f"{type(value).__name__} {value!r:.40}"
    except ValueError:  # an int past Python's limit of digits has no repr
        shown = f"an {type(value).__name__} of so many digits"
    return InvalidFieldError(field, f"must be {allowed}{', or None' if optional else ''}, not {shown}")


def unknown_name(name: str, known: Iterable[str], what: str) -> InvalidFieldError:
    """Returns the error for a name that there is nothing of: with the one that may have been meant, or with all.

    Args:
        name: The name.
        known: Those that there are.
        what: What they are names of.
    """
    from difflib import get_close_matches

    names = [*known]
    close = get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]}?" if close else f": {', '.join(names)}"
    return InvalidFieldError(name, f"must be {what}{hint}")


def refusing_unknown_names(
    refuse: Callable[[str, Iterable[str]], InvalidFieldError],
) -> Callable[[type[_T]], type[_T]]:
    """Has a class refuse names that it has no parameters of by an error of ours.

    Args:
        refuse: Returns the error for a name, given the names that the class knows.
    """

    def decorate(cls: type[_T]) -> type[_T]:
        init = cls.__init__
        known = inspect.signature(cls).parameters

        @functools.wraps(init)  # so that help() and the documentation show the parameters
        def checked(self: _T, *args: Any, **named: Any) -> None:
            for name in named:
                if name not in known:
                    raise refuse(name, known)
            init(self, *args, **named)

        cls.__init__ = checked  # type: ignore[method-assign, assignment]
        return cls

    return decorate


def _refuse_setting(name: str, known: Iterable[str]) -> InvalidFieldError:
    return unknown_name(name, known, "a setting of SafeSSEConfig")


@dataclass(frozen=True)
class PerKey:
    """A limit for the streams that have the same key, as those of one user; and what to find them by.

    Args:
        key: A function of the connection. It returns what the streams of one owner have in common, which is hashable,
            or ``None`` for a connection that is not counted.
        n: The streams of one key that may be open at once in a process, more being refused; ``None`` for no limit.
        on_refusal: What becomes of one more; that of the configuration unless given.

    Raises:
        InvalidFieldError: If one of these has a value that it cannot have.
    """

    key: Callable[[Any], Hashable]
    n: int | None = None
    on_refusal: OnRefusal | None = None

    def __post_init__(self) -> None:
        if self.key is None:
            raise _refusal("key", None, "a function of the connection")
        check_function("key", self.key)
        check_arguments("key", self.key, "the connection")
        check_integer("n", self.n, minimum=1, optional=True)
        if self.on_refusal is not None:
            check_choice("on_refusal", self.on_refusal, ON_REFUSAL)


@refusing_unknown_names(_refuse_setting)
@dataclass(frozen=True, kw_only=True)
class SafeSSEConfig:
    r"""The settings of one application's streams; a response may override some of them for its own.

    Args:
        ping_interval: Seconds of silence after which a heartbeat (a comment line) is sent; ``None`` for no
            heartbeats. The default is the standard's advice against proxies that drop idle connections
            (WHATWG HTML, section 9.2.7). On a server that learns of a lost client only when something is
            sent, it bounds the time until that stream is cleaned up.
        send_timeout: Seconds that a client which doesn't read may block one ``send`` before its stream is
            ended; ``None`` for no limit.
        max_lifetime: Seconds after which a stream is ended, for its client to reconnect; ``None`` for no limit.
        jitter: The part of ``max_lifetime`` by which that of a stream may be shorter, at random, so that clients that
            came together do not come back together: from 0 to less than 1.
        expires_at: When the right to a stream ends, upon which it is revoked: a ``datetime`` with a time zone, seconds
            of the epoch, ``None`` for never, or a function of the connection that returns one of these.
        reauthorize: An async function of the connection, called again and again while the stream is open. If it
            raises, returns ``False``, or does not answer, the stream is revoked.
        reauthorize_interval: Seconds between two such calls at most, and those in which it has to answer.
        cleanup_timeout: Seconds that an ending body, or a cleanup, may take before it is given up. The
            default and that of ``shutdown_grace`` add up to less than the 10 seconds ``docker stop`` waits.
        shutdown_grace: Seconds that a body which asked for it may go on saying farewell once the server
            shuts down; 0 for none.
        drain_spread: Seconds, not more than ``shutdown_grace``, over which the streams are told of a shutdown one by
            one, so that their clients do not come back in the same moment; 0 for all at once.
        retry: Milliseconds that clients wait before they reconnect (the standard's reconnection time), sent
            with the first event of streams that set none; ``(least, most)`` to draw them for each stream; ``None``
            leaves it to the client. At most 2,147,483,647, about 25 days.
        buffer_size: Bytes that a body may run ahead of the socket. The default is the high-water mark of an
            asyncio transport.
        slice_timeout: Seconds of one slice of ``StreamContext.iterate``: how often a body that waits for its
            source looks up to see whether it should stop.
        retry_after: Seconds after which the client of a refused stream is to try again. A 503 tells them in
            ``Retry-After``; an ``EventSource`` is told up to twice as many, at random, as its reconnection time.
        max_streams: Streams that may be open at once in a process, more being refused; ``None`` for no limit.
        admission: Limits for the streams that have something in common: a ``PerKey``, or several of them.
        on_refusal: What becomes of a stream beyond ``max_streams`` or a limit of ``admission``. ``"unavailable"``: it
            is answered by a 503 or 429, at which an ``EventSource`` gives up for good. ``"reconnect"``: a GET that
            accepts ``text/event-stream`` is answered 200, with a reconnection time and nothing else, so that an
            ``EventSource`` comes back; others by a 503 or 429. ``"oldest"``: the oldest stream is closed in its favour.
            At a shutdown it is as with ``"reconnect"`` in any case.
        max_last_event_id: Bytes that an incoming ``Last-Event-ID`` may have.
        last_event_id_query: The name of a query parameter that stands for ``Last-Event-ID`` where a request has no
            such header: ``EventSource`` can set none on its first request. ``None`` for no such parameter.
        on_error: Is called with what a body raised, and returns a last event, of which the client can tell that others
            are missing; then the response is properly ended. ``None``, instead of it or returned by it, has the
            response cut.
        separator: What ends a line: ``"\r\n"``, as in Litestar, or ``"\n"``, or ``"\r"``, with which some clients
            hold each event back until something follows.
        ping_comment: The text of a heartbeat.
        doctor: A secret, by which ``litestar sse doctor`` may ask the application what arrives of its streams; the
            route that it asks is added. ``None`` for no such route.

    Raises:
        InvalidFieldError: A setting is unknown, or has a value that it cannot have.
    """

    ping_interval: float | None = 15.0
    send_timeout: float | None = 30.0
    max_lifetime: float | None = None
    jitter: float = 0.0
    expires_at: Moment | Callable[[Any], Moment | None] | None = None
    reauthorize: Callable[[Any], Awaitable[object]] | None = None
    reauthorize_interval: float = 60.0
    cleanup_timeout: float = 5.0
    shutdown_grace: float = 2.0
    drain_spread: float = 0.0
    retry: int | tuple[int, int] | None = None
    buffer_size: int = 65536
    slice_timeout: float = 1.0
    retry_after: float = 1.0
    max_streams: int | None = None
    admission: PerKey | Sequence[PerKey] = ()
    on_refusal: OnRefusal = "unavailable"
    max_last_event_id: int = 1024
    last_event_id_query: str | None = None
    on_error: Callable[[Exception], object] | None = None
    separator: str = "\r\n"
    ping_comment: str = "ping"
    doctor: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_duration("ping_interval", self.ping_interval, optional=True)
        check_duration("send_timeout", self.send_timeout, optional=True)
        check_duration("max_lifetime", self.max_lifetime, optional=True)
        check_part("jitter", self.jitter)
        check_expiry("expires_at", self.expires_at)
        check_coroutine_function("reauthorize", self.reauthorize)
        check_duration("reauthorize_interval", self.reauthorize_interval)
        check_duration("cleanup_timeout", self.cleanup_timeout)
        check_duration("shutdown_grace", self.shutdown_grace, zero=True)
        check_duration("drain_spread", self.drain_spread, zero=True)
        check_retry("retry", self.retry)
        check_integer("buffer_size", self.buffer_size, minimum=1)
        check_duration("slice_timeout", self.slice_timeout)
        check_duration("retry_after", self.retry_after, zero=True)
        check_integer("max_streams", self.max_streams, minimum=1, optional=True)
        self._check_admission()
        check_choice("on_refusal", self.on_refusal, ON_REFUSAL)
        check_integer("max_last_event_id", self.max_last_event_id, minimum=1)
        if self.last_event_id_query is not None:
            check_name("last_event_id_query", self.last_event_id_query)
        check_function("on_error", self.on_error)
        check_separator("separator", self.separator)
        check_text("ping_comment", self.ping_comment)
        check_secret("doctor", self.doctor)

    def _check_admission(self) -> None:
        rules: Any = (self.admission,) if isinstance(self.admission, PerKey) else self.admission
        if isinstance(rules, Iterable):
            rules = tuple(rules)
        if not isinstance(rules, tuple) or not all(isinstance(rule, PerKey) for rule in rules):
            raise _refusal("admission", self.admission, "a PerKey, or a sequence of them")
        object.__setattr__(self, "admission", rules)
