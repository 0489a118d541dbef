"""How an application learns that its server has been told to stop.

No ASGI server says so in time: ``lifespan.shutdown`` comes after the connections have closed, and an open stream
keeps its connection open. So the news is read off the server itself, while the application runs:

1. **Signals.** Where the server has a handler (Uvicorn, Granian, Daphne, a program that embeds one), a link goes
   in front of it. The link wakes the loop and then calls what it replaced, so the server sees every signal that
   it saw before. ``loop.add_signal_handler`` would not do: it takes the server's handler away. Where there is no
   handler (``SIG_DFL``, ``SIG_IGN``) nothing goes in front, and off the main thread Python allows none.
2. **The server's own first step**, which it takes without a signal too: in a thread, told by ``should_exit``, at
   a limit of requests. On Uvicorn and embedded Granian it is the method ``shutdown`` of the one ``Server``. On
   Hypercorn, whose workers get no signal, it is setting the event ``terminated`` of the worker's context; where
   that does not exist yet (asyncio, at startup) it is ``raise_shutdown``, which waits for the trigger.

Every hook is a link in a chain: others may stand below and above it, and they may be taken out in any order. What
is private to a server is probed first; a miss is logged with the version, what won't work and what to do instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from functools import partial, reduce
from importlib.metadata import PackageNotFoundError, version
from types import MethodType
from typing import TYPE_CHECKING, Any, Protocol

from litestar_safe_sse._runtime.current import current_key, current_runtime

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import FrameType

    from litestar_safe_sse._runtime.base import Runtime

    Call = Callable[[], object]

__all__ = ("ShutdownWatch",)

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))

_SERVERS = ("uvicorn", "granian", "hypercorn", "daphne")

_FIRST_STEPS = (
    # The module of a coroutine of the server, a local variable of it, and the way from there to a coroutine method.
    ("uvicorn.server", "self", ("shutdown",)),
    ("granian.server.embed", "self", ("shutdown",)),
    ("hypercorn.asyncio.run", "context", ("terminated", "set")),
    ("hypercorn.trio.run", "context", ("terminated", "set")),
)

_REMEDIES = {
    "uvicorn": "set timeout_graceful_shutdown, without which Uvicorn waits for the streams for ever",
    "granian": "set workers_kill_timeout, without which Granian waits for the streams for ever",
    "hypercorn": "set max_lifetime on the streams; Hypercorn's graceful_timeout cancels them up to Python 3.11",
}


class Logger(Protocol):
    """As much of a logger as is used here."""

    def debug(self, msg: str, *args: Any, **kwargs: Any) -> Any: ...

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> Any: ...


class ShutdownWatch:
    """Learns that the server has been told to stop and says so once, in the event loop's own thread.

    Args:
        on_shutdown: Called at most once between ``install`` and ``uninstall``. It must not block.
        logger: Hears what could not be hooked.
        drain: Ends everything and returns when that is done; awaited where nothing else keeps the server waiting.
        patience: Seconds that a Hypercorn worker may live on after a SIGTERM that would have killed it at once:
            long enough for the drain and for the application's own shutdown.
    """

    def __init__(
        self,
        on_shutdown: Callable[[], None],
        logger: Logger,
        *,
        drain: Callable[[], Awaitable[None]] | None = None,
        patience: float = 30.0,
    ) -> None:
        self._on_shutdown = on_shutdown
        self._drain = drain
        self._logger = logger
        self._patience = patience
        self._bell: _Bell | None = None
        self._links: list[_Hook] = []

    def install(self) -> None:
        """Hooks into the server that runs the current event loop: asyncio's, uvloop's or trio's.

        To be called inside that loop: when the application starts, or at the first request on a server without
        lifespan. Installing twice is installing once.
        """
        if self._bell is not None:
            return
        modules = [_module_of(frame) for frame in _stack()]
        server = next((name for name in (module.partition(".")[0] for module in modules) if name in _SERVERS), None)
        calls: list[Call] = [self._on_shutdown]
        if "granian.server.mp" in modules:
            calls.append(_ignore_repeated_signals)
        self._bell = bell = _Bell(current_runtime(), calls, self._logger)
        steps: list[_Hook] = list(_hook_first_steps(bell))
        if server == "hypercorn" and not steps:
            steps = list(_hook_trigger(bell))
        signals: list[_Hook] = list(_chain_signals(bell))
        if server == "hypercorn" and steps:
            signals += _postpone_termination(bell, self._patience)
        if server == "daphne" and self._drain is not None:
            steps += _hold_reactor(bell, self._drain)
        self._links = steps + signals
        self._report(server, steps, signals)

    def uninstall(self) -> None:
        """Takes out what ``install`` put in, save what somebody has replaced since. Twice is once."""
        if self._bell is None:
            return
        self._bell.remove()
        self._bell = None
        while self._links:
            self._links.pop().take_out()

    def _report(self, server: str | None, steps: list[_Hook], signals: list[_Hook]) -> None:
        places = ", ".join(str(link.slot) for link in steps + signals) or "nothing"
        self._logger.debug(f"The shutdown of {server or 'an unknown server'} is watched through {places}.")
        # A Granian worker is always told by a signal; the others also know a shutdown without one.
        if server not in _REMEDIES or steps or (server == "granian" and signals):
            return
        which = "A shutdown without a signal" if signals else "Its shutdown"
        self._logger.warning(
            f"{server} {_version(server)} has nothing that a hook is known for. {which} is learnt of only when the"
            f" open streams are cancelled or the lifespan ends. Remedy: {_REMEDIES[server]}."
        )


def _stack() -> Iterator[FrameType]:
    """The frames of the callers, the nearest first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(version unknown)"


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class _Bell:
    """Makes its calls once, in the loop's own thread."""

    def __init__(self, runtime: Runtime, calls: list[Call], logger: Logger) -> None:
        self.runtime = runtime
        self.removed = False
        self._calls = calls
        self._logger = logger

    @property
    def is_dead(self) -> bool:
        """Whether nobody is left to be told: a loop without a lifespan ends without telling."""
        return self.removed or self.runtime.is_gone()

    def ring(self) -> None:
        """Rings from a signal handler, where nothing else is safe to touch, a logger included."""
        self.call_soon(self.ring_here)

    def call_soon(self, call: Call) -> None:
        # The error says that the loop has ended, and with it all who could be told.
        with contextlib.suppress(RuntimeError):
            self.runtime.call_threadsafe(call)

    def ring_here(self) -> None:
        """Rings from within the loop."""
        calls, self._calls = self._calls, []
        for call in calls:
            try:
                call()
            except Exception:
                # The caller is a server on its way out, which a failure of ours must not stop.
                self._logger.warning("A call made at the server's shutdown has failed.", exc_info=True)

    def remove(self) -> None:
        self.removed = True
        self._calls = []


class _Hook(Protocol):
    """Something put in, to be taken out again."""

    slot: Any

    def take_out(self) -> None: ...


class _Signal:
    """Where the handler of a signal is kept."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __str__(self) -> str:
        return signal.Signals(self._number).name

    def get(self) -> Any:
        return signal.getsignal(self._number)

    def put(self, handler: Any) -> None:
        # Off the main thread Python allows no change; the link stays and only passes the signal on.
        if _in_main_thread():
            signal.signal(self._number, handler)


class _Attribute:
    """Where a callable of an instance or a module is kept."""

    def __init__(self, owner: Any, name: str) -> None:
        self._owner = owner
        self._name = name

    def __str__(self) -> str:
        return f"{getattr(self._owner, '__name__', type(self._owner).__qualname__)}.{self._name}"

    def get(self) -> Any:
        return getattr(self._owner, self._name, None)

    def put(self, value: Any) -> None:
        setattr(self._owner, self._name, value)
        # What the class provides anyway is not left behind on the instance.
        if getattr(type(self._owner), self._name, self) is getattr(value, "__func__", None):
            delattr(self._owner, self._name)


class _Link:
    """A callable in the place of another, which it goes on calling.

    Links of other watches, or what others put there, may come to stand above it. It can't be taken out from under
    them: then it stays and only passes calls on, and the next link above that is taken out takes it along.
    """

    def __init__(self, slot: _Signal | _Attribute, bell: _Bell) -> None:
        self.slot = slot
        self.bell = bell
        self.previous = _alive(slot.get())
        slot.put(self._as_seen())

    def _as_seen(self) -> Any:
        return self

    def take_out(self) -> None:
        if _link_in(self.slot.get()) is not self:
            return
        self.slot.put(_alive(self.previous))


class _ReactorHold:
    """Keeps Twisted's reactor, as which Daphne runs, from ending ahead of the drain.

    Daphne has no lifespan, and waits for its requests only until the first of them has ended.
    """

    slot = "the reactor's shutdown"

    def __init__(self, reactor: Any, bell: _Bell, drain: Callable[[], Awaitable[None]]) -> None:
        self._reactor = reactor
        self._bell = bell
        self._drain = drain
        # https://docs.twisted.org/en/stable/api/twisted.internet.interfaces.IReactorCore.html
        self._trigger = reactor.addSystemEventTrigger("before", "shutdown", self._hold)

    async def _drained(self) -> None:
        await self._drain()
        # Over HTTP/2 and TLS Twisted sends what it was given on later turns, and does not say when it has.
        await asyncio.sleep(0.05)

    def _hold(self) -> Any:
        self._bell.ring_here()
        future = asyncio.ensure_future(self._drained())
        return sys.modules["twisted.internet.defer"].Deferred.fromFuture(future)

    def take_out(self) -> None:
        # Twisted raises for a trigger that has been pulled.
        with contextlib.suppress(KeyError, TypeError, ValueError):
            self._reactor.removeSystemEventTrigger(self._trigger)


def _hold_reactor(bell: _Bell, drain: Callable[[], Awaitable[None]]) -> Iterator[_ReactorHold]:
    reactor = sys.modules.get("twisted.internet.reactor")
    if reactor is not None and bell.runtime.name == "asyncio":
        yield _ReactorHold(reactor, bell, drain)


def _link_in(value: Any) -> _Link | None:
    link = getattr(value, "__func__", value)
    return link if isinstance(link, _Link) else None


def _alive(value: Any) -> Any:
    """The first in a chain that still has somebody to tell."""
    while (link := _link_in(value)) is not None and link.bell.is_dead:
        value = link.previous
    return value


class _Chained(_Link):
    """In front of the handler of a signal."""

    def _as_seen(self) -> Any:
        # Others look Uvicorn's server up as the ``__self__`` of its handler.
        if isinstance(self.previous, MethodType):
            return MethodType(self, self.previous.__self__)
        return self

    def __call__(self, *args: Any) -> Any:
        # Seen as a method, it gets the instance first.
        number, frame = args[-2:]
        self.bell.ring()
        return self.previous(number, frame)


class _Postponed(_Link):
    """In the place of SIGTERM's default action, which it puts off."""

    def __init__(self, bell: _Bell, patience: float) -> None:
        self._patience = patience
        self._started = False
        super().__init__(_Signal(signal.SIGTERM), bell)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.bell.ring()
        self.bell.call_soon(self._start)

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self.bell.runtime.call_later(self._patience, self._end)

    def _end(self) -> None:
        if not self.bell.removed:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)


def _chain_signals(bell: _Bell) -> Iterator[_Link]:
    for number in _SIGNALS:
        # None, SIG_DFL and SIG_IGN can't be called.
        if _in_main_thread() and callable(signal.getsignal(number)):
            yield _Chained(_Signal(number), bell)


def _postpone_termination(bell: _Bell, patience: float) -> Iterator[_Link]:
    """Keeps a Hypercorn worker from being killed while it drains, or before it has learnt of anything.

    The first worker to exit gets the others sent SIGTERM, even if they are still draining; and service managers
    send it to every process of a service at once.
    """
    multiprocessing = sys.modules.get("multiprocessing")  # where it was not imported, nothing was spawned by it
    is_worker = multiprocessing is not None and multiprocessing.parent_process() is not None
    if is_worker and _in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        yield _Postponed(bell, patience)


def _ignore_repeated_signals(turns: int = 3) -> None:
    """Keeps a Granian worker from freezing at the third signal; a ^C makes two, one of them from its parent.

    Granian 2.8 puts each signal into a channel that is read once and has room for one more. The third waits for
    room, in the loop's thread and holding the GIL, as long as a connection is open. The first has done its work.
    """
    if sys.platform == "win32":
        return
    loop = asyncio.get_running_loop()
    if turns:
        # The loop first has to read the first signal off its pipe and, a turn later, hand it to Granian.
        loop.call_soon(_ignore_repeated_signals, turns - 1)
        return
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        if callable(handler):
            loop.add_signal_handler(number, _do_nothing)
            signal.signal(number, handler)


def _do_nothing() -> None:
    pass


class _FirstStep(_Link):
    """In front of the coroutine method with which a server begins its shutdown."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.bell.ring_here()
        return await self.previous(*args, **kwargs)


class _Trigger(_Link):
    """In front of Hypercorn's ``raise_shutdown(trigger)``, which waits for the trigger and then raises."""

    def __call__(self, trigger: Callable[[], Awaitable[Any]]) -> Any:
        # The module is the same for every loop of the process, and this is about one of them.
        return self.previous(partial(self._wait, trigger) if self.bell.runtime.key == current_key() else trigger)

    async def _wait(self, trigger: Callable[[], Awaitable[Any]]) -> None:
        await trigger()
        self.bell.ring_here()


def _hook_first_steps(bell: _Bell) -> Iterator[_Link]:
    for module, variable, (*path, method) in _FIRST_STEPS:
        for found in _own(_locals_of(bell.runtime, module, variable)):
            owner = reduce(lambda value, name: getattr(value, name, None), path, found)
            if callable(getattr(owner, method, None)):
                yield _FirstStep(_Attribute(owner, method), bell)


def _hook_trigger(bell: _Bell) -> Iterator[_Link]:
    module = sys.modules.get(f"hypercorn.{bell.runtime.name}.run")
    if callable(getattr(module, "raise_shutdown", None)):
        yield _Trigger(_Attribute(module, "raise_shutdown"), bell)


def _coroutines(runtime: Runtime) -> Iterator[Any]:
    """The outermost coroutine of each task."""
    if runtime.name == "asyncio":
        yield from (task.get_coro() for task in asyncio.all_tasks())
        return
    tasks = [sys.modules["trio"].lowlevel.current_root_task()]
    while tasks:
        task = tasks.pop()
        yield task.coro
        tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]


def _locals_of(runtime: Runtime, module: str, variable: str) -> list[Any]:
    """What a local variable holds in those of the loop's waiting coroutines that a module defines."""
    if module not in sys.modules:
        return []
    frames = (frame for coroutine in _coroutines(runtime) for frame in _waiting_frames(coroutine))
    values = (frame.f_locals.get(variable) for frame in frames if _module_of(frame) == module)
    return list({id(value): value for value in values if value is not None}.values())


def _waiting_frames(coroutine: Any) -> Iterator[FrameType]:
    """The frame of a coroutine, of the one that it awaits, and so on."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None:
            yield frame
        coroutine = getattr(coroutine, "cr_await", None)


def _own(servers: list[Any]) -> list[Any]:
    """Of several Uvicorn servers in one loop, the one whose lifespan is calling, if one is."""
    callers = [frame.f_locals.get("self") for frame in _stack() if _module_of(frame) == "uvicorn.lifespan.on"]
    own = [server for server in servers if any(getattr(server, "lifespan", servers) is one for one in callers)]
    return own or servers
