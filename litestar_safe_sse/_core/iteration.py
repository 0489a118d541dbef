"""Bodies of every kind as one: an async iterator that is advanced and closed by its owner."""

from __future__ import annotations

import contextvars
import inspect
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from litestar_safe_sse.exceptions import InvalidFieldError, SSEError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from litestar_safe_sse._runtime.base import Runtime

__all__ = ("ThreadedIterator", "aclose", "aclose_iterator", "aiterate", "check_content", "check_source")

# One event each, although some of them can be iterated over.
_SINGLE = (str, bytes, bytearray, memoryview, Mapping)
# Advancing these never blocks, so they need no thread.
_IN_MEMORY = (list, tuple, set, frozenset, deque, range)

_FIELDS = ("__struct_fields__", "__dataclass_fields__", "__attrs_attrs__", "__pydantic_core_schema__", "__fields__")
"""What tells that a class is one of records: of msgspec, the standard library, attrs, and pydantic 2 and 1."""

_ITERATING = ("__aiter__", "__anext__", "__iter__", "__next__")

AHEAD = 64
"""Items that a sync body may be ahead of the stream."""

_LAST_YIELDS = 64
"""How often a generator may yield on its way out before it is given up."""


def check_content(content: object) -> None:
    """Raises ``InvalidFieldError`` for what can be no body."""
    if content is None:
        raise InvalidFieldError("content", "must be an iterable, a callable that returns one, or an item, not None")
    _check_object("content", content)


def check_source(source: object) -> None:
    """Raises ``InvalidFieldError`` for what cannot be iterated over, where a body may be a single item."""
    _check_object("source", source)
    if not callable(source) and not any(hasattr(source, name) for name in _ITERATING):
        raise InvalidFieldError(
            "source",
            f"must be an iterable, or a callable that returns one, not {type(source).__qualname__}; make an async "
            "generator of it, such as one that yields what it awaits of a queue",
        )


def _check_object(field: str, value: object) -> None:
    if inspect.iscoroutine(value):
        value.close()  # or Python would warn that it was never awaited
        raise InvalidFieldError(field, "must be an async generator, or a coroutine's result, not a coroutine")
    if inspect.isclass(value):
        raise InvalidFieldError(field, f"must be an instance of {value.__qualname__}, not the class")


async def aiterate(content: object, runtime: Runtime, name: str, *, ahead: int = AHEAD) -> AsyncIterator[object]:
    """Makes an async iterator of a body.

    Args:
        content: An async or sync iterable or iterator, a callable that returns one, or a single item.
        runtime: The running event loop.
        name: What the body is called in a thread's name.
        ahead: Items that a sync body may be ahead of who asks for them.

    Returns:
        An iterator that one task has to advance and to give to :func:`aclose`.
    """
    if callable(content) and not isinstance(content, (AsyncIterable, AsyncIterator, Iterable)):
        content = content()
        if inspect.isawaitable(content):
            content = await content
        check_content(content)
    if isinstance(content, AsyncIterable):
        iterator = content.__aiter__()
        # Some iterators, as of clients of language models, make another of themselves.
        return iterator if iterator is content or not _is_iterator(content) else _OwningIterator(iterator, content)
    if hasattr(content, "__anext__"):
        return _BareIterator(content)
    if is_record(content):
        return _InMemoryIterator(iter((content,)))
    if isinstance(content, _IN_MEMORY):
        return _InMemoryIterator(iter(content))
    if isinstance(content, Iterable) and not isinstance(content, _SINGLE):
        return ThreadedIterator(content, runtime, name, ahead)
    return _InMemoryIterator(iter((content,)))


def is_record(content: object) -> bool:
    """Returns whether an object is one event though it can be iterated over, for its fields."""
    kind = type(content)
    if isinstance(content, Iterator) or not isinstance(content, Iterable):
        return False
    if isinstance(content, tuple):
        return hasattr(kind, "_fields")
    return any(name in vars(base) for base in kind.__mro__ for name in _FIELDS)  # pydantic 2 warns of __fields__


def ignore(item: object) -> None:
    """Takes what a generator yields for which nobody asks any more."""


async def aclose(content: object) -> None:
    """Closes an iterator, if it can be closed, be it one that was never advanced; leaves anything else alone."""
    result = _close(content) if _is_iterator(content) else None
    if inspect.isawaitable(result):
        await result


def _is_iterator(content: object) -> bool:
    return hasattr(content, "__anext__") or hasattr(content, "__next__")


def _close(iterator: object) -> object:
    """Calls ``aclose()`` of an async iterator, ``close()`` of a sync one, or whichever of them there is."""
    names = ("aclose", "close") if hasattr(iterator, "__anext__") else ("close", "aclose")
    close: Callable[[], object] | None = next(filter(None, (getattr(iterator, name, None) for name in names)), None)
    return None if close is None else close()


class _OwningIterator:
    """An iterator that content has made which is an iterator itself, so that both are to be closed."""

    __slots__ = ("content", "iterator")

    def __init__(self, iterator: AsyncIterator[object], content: object) -> None:
        self.iterator = iterator
        self.content = content

    def __aiter__(self) -> _OwningIterator:
        return self

    def __anext__(self) -> Awaitable[object]:
        return self.iterator.__anext__()

    @property
    def ag_frame(self) -> object:
        """Where it stands, if it is a generator."""
        return getattr(self.iterator, "ag_frame", None)

    @property
    def athrow(self) -> Any:
        """That of the iterator, if it has one."""
        return self.iterator.athrow  # type: ignore[attr-defined]


class _BareIterator:
    """An iterator that is no iterable, for ``async for``."""

    __slots__ = ("_iterator",)

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def __aiter__(self) -> _BareIterator:
        return self

    def __anext__(self) -> Awaitable[object]:
        return self._iterator.__anext__()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Closes the iterator, if it can be closed."""
        await aclose(self._iterator)


class _InMemoryIterator:
    __slots__ = ("_iterator",)

    def __init__(self, iterator: Iterator[object]) -> None:
        self._iterator = iterator

    def __aiter__(self) -> _InMemoryIterator:
        return self

    async def __anext__(self) -> object:
        for item in self._iterator:
            return item
        raise StopAsyncIteration


class ThreadedIterator:
    """A sync iterable that is iterated over, and closed, by one thread of its own.

    One thread for its whole life, since drivers such as sqlite3 want to be closed where they were opened. A daemon
    thread, since one that is blocked for good must not keep the process from exiting. It may run ahead, so that it need
    not wake the event loop for each item; one that may not takes a step only while an item is asked for.

    Args:
        iterable: What is iterated over.
        runtime: The running event loop.
        name: What it is called in the thread's name.
        ahead: Items that the thread may be ahead.
    """

    __slots__ = (
        "_ahead",
        "_asked",
        "_changed",
        "_closing",
        "_ended",
        "_error",
        "_held",
        "_items",
        "_iterable",
        "_runtime",
        "_thread",
        "_wake",
    )

    def __init__(self, iterable: Iterable[object], runtime: Runtime, name: str, ahead: int = AHEAD) -> None:
        self._iterable: Iterable[object] | None = iterable
        self._runtime = runtime
        self._wake = runtime.wake()
        self._items: deque[object] = deque()
        self._error: BaseException | None = None
        self._closing = False
        self._ended = False
        self._asked = False
        """Whether the loop waits for an item, or for the end."""
        self._held = False
        self._ahead = ahead
        # Guards everything above; held for a few instructions only, by either side.
        self._changed = threading.Condition(threading.Lock())
        context = contextvars.copy_context()
        self._thread: threading.Thread | None = threading.Thread(
            target=context.run, args=(self._work,), name=f"SSE body of {name}", daemon=True
        )

    def hold(self) -> None:
        """Has the thread wait behind the first item until the second is asked for; called before either is."""
        self._held = True

    def __aiter__(self) -> ThreadedIterator:
        return self

    async def __anext__(self) -> object:
        if self._thread is not None:
            self._start()
        elif self._held:
            self._release()
        while True:
            with self._changed:
                if self._items:
                    item = self._items.popleft()
                    if len(self._items) == self._ahead - 1:
                        self._changed.notify()
                    return item
                if self._ended:
                    break
                self._asked = True
                if not self._ahead:
                    self._changed.notify()
            await self._wake.wait()
        self._raise_error()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Waits for the thread to come back from the step it is in, and to close the iterator.

        Raises:
            Exception: What closing it raised.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._start()
        while True:
            with self._changed:
                if self._ended:
                    break
                self._asked = True
            try:
                await self._wake.wait()
            except BaseException as exc:
                raise TimeoutError("its thread is blocked, and was left behind") from exc
        self._raise_error()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _start(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            thread.start()
        except RuntimeError as error:
            self._ended = True
            _close_in_thread(self._iterable)  # it has not been started, so any thread will do
            raise SSEError(
                f"a sync body needs a thread of its own, and none could be started ({error}): max_streams must be "
                "lower, or the body async"
            ) from error

    def _release(self) -> None:
        with self._changed:
            self._held = False
            self._changed.notify()

    def _work(self) -> None:
        iterable: Any = self._iterable
        iterator, self._iterable = iterable, None
        error: BaseException | None = None
        try:
            if not self._closing:
                iterator = iter(iterable)
                for item in iterator:
                    if not self._hand_over(item):
                        break
        except BaseException as exc:
            error = exc
        for each in (iterator,) if iterator is iterable else (iterator, iterable):
            try:
                _close_in_thread(each)
            except BaseException as exc:
                error = error or exc
        with self._changed:
            self._error = error
            self._ended = True
        self._wake_loop()

    def _hand_over(self, item: object) -> bool:
        with self._changed:
            if self._closing:
                return False
            self._items.append(item)
            asked, self._asked = self._asked, False
        if asked:
            self._wake_loop()
        with self._changed:
            self._changed.wait_for(self._may_go_on)
            return not self._closing

    def _may_go_on(self) -> bool:
        return self._closing or (not self._held and (self._asked or len(self._items) < self._ahead))

    def _wake_loop(self) -> None:
        try:
            self._runtime.call_threadsafe(self._wake.set)
        except RuntimeError:
            # The loop is gone, and with it everyone who could wait for this thread.
            self._closing = True


def _close_in_thread(iterator: object) -> None:
    """Closes a sync iterator; a generator that yields on its way out is closed at that ``yield`` again."""
    close: Callable[[], object] | None = getattr(iterator, "close", None)
    if close is None or not hasattr(iterator, "__next__"):
        return
    if inspect.isgenerator(iterator) and inspect.getgeneratorstate(iterator) == inspect.GEN_SUSPENDED:
        for _ in range(_LAST_YIELDS):
            try:
                iterator.throw(GeneratorExit())
            except (GeneratorExit, StopIteration):
                return
        raise RuntimeError(f"the body yielded {_LAST_YIELDS} times when it was closed, and was left behind")
    close()


async def aclose_iterator(iterator: object, runtime: Runtime, put: Callable[[Any], object] = ignore) -> None:
    """Closes an iterator where it is parked.

    A generator may yield on its way out. ``aclose()`` would leave it there, and nothing behind would run; so it is
    closed at that ``yield`` again, until it has ended.

    Args:
        iterator: The iterator, of any kind.
        runtime: The running event loop.
        put: Called with what a generator yields.
    """
    if isinstance(iterator, _OwningIterator):
        try:
            await aclose_iterator(iterator.iterator, runtime, put)
        finally:
            await aclose(iterator.content)
        return
    if not inspect.isasyncgen(iterator):
        await aclose(iterator)
        return
    if iterator.ag_frame is None:  # it has ended
        return
    for _ in range(_LAST_YIELDS):
        try:
            item = await iterator.athrow(GeneratorExit())
        except (GeneratorExit, StopAsyncIteration):
            return
        put(item)
        await runtime.turn()
    raise RuntimeError(f"it yielded {_LAST_YIELDS} times when it was closed, and was left behind")
