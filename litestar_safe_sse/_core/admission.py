"""Who may have one more stream: the places that the streams of one key share."""

from __future__ import annotations

import inspect
import threading
from typing import TYPE_CHECKING, Any

from litestar_safe_sse.config import PerKey
from litestar_safe_sse.exceptions import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from litestar_safe_sse._core.stream import Stream
    from litestar_safe_sse.config import SafeSSEConfig

__all__ = ("Admission", "NoPlaceError", "ask")

_EVERYONE = object()
"""The key of all streams of the process."""


class NoPlaceError(Exception):
    """A key has no place left.

    Args:
        rule: The limit, or ``None`` if it is that of the process.
    """

    def __init__(self, rule: PerKey | None) -> None:
        super().__init__()
        self.rule = rule


class Places:
    """The places of one key. A stream has one until it has cleaned up.

    Args:
        rule: The limit.
        evicts: Whether the oldest stream has to make room for one more.
    """

    __slots__ = ("evicts", "leaving", "rule", "taken")

    def __init__(self, rule: PerKey, evicts: bool) -> None:
        self.rule = rule
        self.evicts = evicts
        self.taken: dict[Stream, None] = {}
        """The streams, the oldest first."""
        self.leaving: dict[Stream, None] = {}
        """Those that had to make room and are not done with it; no more of them than there are places."""

    def find_victim(self, newcomer: Stream, chosen: dict[Stream, list[Places]]) -> Stream | None:
        """Finds who has to make room.

        Args:
            newcomer: The stream that wants a place.
            chosen: Those who have to already.

        Returns:
            A stream of the same event loop, which alone can close it, or ``None`` if there is a place.

        Raises:
            NoPlaceError: If nobody has to.
        """
        n = self.rule.n
        if n is None or len(self.taken) < n:
            return None
        if self.evicts and len(self.leaving) < n:
            for stream in (*(each for each in chosen if each in self.taken), *self.taken):
                if stream.runtime is newcomer.runtime:
                    return stream
        raise NoPlaceError(self.rule)

    def give_back(self, stream: Stream) -> bool:
        """Takes a stream out, and tells whether none is left."""
        self.taken.pop(stream, None)
        self.leaving.pop(stream, None)
        return not (self.taken or self.leaving)


class Admission:
    """All places, which exist while there is a stream in them.

    Args:
        config: The application's settings.
    """

    def __init__(self, config: SafeSSEConfig) -> None:
        self._rules: tuple[PerKey, ...] = tuple(config.admission)  # type: ignore[arg-type]
        self._evicts = config.on_refusal == "oldest"
        self._of_process: PerKey | None = None
        if self._evicts and config.max_streams is not None:
            self._of_process = PerKey(lambda _: _EVERYONE, config.max_streams)
            self._rules = (self._of_process, *self._rules)
        self._places: dict[tuple[int, Hashable], Places] = {}
        self._held: dict[Stream, list[tuple[int, Hashable]]] = {}
        self._lock = threading.Lock()  # the event loops of several threads may share an application

    @classmethod
    def of(cls, config: SafeSSEConfig) -> Admission | None:
        """Returns that of an application, or ``None`` if it has no use for one."""
        admission = cls(config)
        return admission if admission._rules else None

    def keys(self, connection: object) -> list[tuple[int, Hashable]]:
        """Asks for the keys of a connection.

        Raises:
            InvalidFieldError: If a function has failed, or returns what is no key.
        """
        keys = [(number, ask("admission", rule.key, connection)) for number, rule in enumerate(self._rules)]
        return [each for each in keys if each[1] is not None and _is_key(each[1], self._rules[each[0]])]

    def take(self, stream: Stream, keys: list[tuple[int, Hashable]]) -> list[Stream]:
        """Gives a stream a place of each key.

        Returns:
            Those that have to make room for it, and are to be closed.

        Raises:
            NoPlaceError: If there is none; then nobody has to.
        """
        with self._lock:
            victims: dict[Stream, list[Places]] = {}
            wanted = [self._places.get(each) or self._new_places(each[0]) for each in keys]
            try:
                for places in sorted(wanted, key=lambda each: each.rule.n or 0):  # who leaves few may be of the many
                    victim = places.find_victim(stream, victims)
                    if victim is not None:
                        victims.setdefault(victim, []).append(places)
            except NoPlaceError as error:
                raise NoPlaceError(None if error.rule is self._of_process else error.rule) from None
            for victim, left in victims.items():
                for places in left:
                    places.leaving[victim] = places.taken.pop(victim)
            for key, places in zip(keys, wanted, strict=True):
                self._places[key] = places
                places.taken[stream] = None
            self._held[stream] = keys
            return [*victims]

    def give_back(self, stream: Stream) -> None:
        """Takes back the places of a stream that has cleaned up."""
        with self._lock:
            for key in self._held.pop(stream, ()):
                if self._places[key].give_back(stream):
                    del self._places[key]

    def keys_of(self, stream: Stream) -> list[tuple[int, Hashable]]:
        """Returns the keys of a live stream, each with the place of its rule in the configuration."""
        with self._lock:
            held = self._held.get(stream, ())
        ahead = 0 if self._of_process is None else 1
        return [(number - ahead, key) for number, key in held if number >= ahead]

    def find(self, key: Hashable, by: PerKey | None) -> Iterator[Stream]:
        """Finds the streams of a key.

        Args:
            key: The key.
            by: Whose key it is; anybody's if ``None``.
        """
        with self._lock:
            found: dict[Stream, None] = {}
            for number, rule in enumerate(self._rules):
                places = self._places.get((number, key))
                if places is not None and (by is None or by == rule):
                    found |= places.taken | places.leaving
            return iter(found)

    def _new_places(self, number: int) -> Places:
        rule = self._rules[number]
        evicts = self._evicts if rule.on_refusal is None else rule.on_refusal == "oldest"
        return Places(rule, evicts)


def ask(field: str, function: Callable[[Any], Any], connection: object) -> Any:
    """Asks a function of the application about a connection.

    Args:
        field: The setting that it is.
        function: The function.
        connection: The connection.

    Raises:
        InvalidFieldError: If it raises an exception, or does not answer at once.
    """
    try:
        answer = function(connection)
    except Exception as error:
        raise InvalidFieldError(
            field,
            "must have a function that answers for each connection, be it by None, but "
            f"{name_of(function)} raised {error!r}",
        ) from error
    if inspect.isawaitable(answer):  # which would pass for a key, each for one of its own
        if inspect.iscoroutine(answer):
            answer.close()
        raise InvalidFieldError(
            field,
            f"must have a function that answers without await, but {name_of(function)} returned a "
            f"{type(answer).__name__}; find out before, as in a guard, and keep it in the connection's state",
        )
    return answer


def name_of(function: object) -> object:
    """Returns what to call a function in an error."""
    return getattr(function, "__qualname__", function)


def _is_key(key: object, rule: PerKey) -> bool:
    """Returns whether a key can be found again.

    Raises:
        InvalidFieldError: If it can not.
    """
    try:
        hash(key)
    except TypeError as error:
        raise InvalidFieldError(
            "admission",
            f"must have keys that are hashable, or None, but {name_of(rule.key)} returned a {type(key).__name__}",
        ) from error
    if key != key:  # as nan is not
        raise InvalidFieldError(
            "admission",
            f"must have keys that are equal to themselves, or None, but {name_of(rule.key)} returned {key!r:.40}",
        )
    return True
