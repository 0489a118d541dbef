"""Hooks into a server, which notify of its shutdown and can be taken out again.

A hook is a link in a chain: it stands in front of a callable, which it goes on calling. Others may stand in front of
it and behind it, and they may be taken out in any order.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from dataclasses import dataclass
from functools import partial, reduce
from types import MethodType
from typing import TYPE_CHECKING, Any, Protocol

from litestar_safe_sse._runtime.current import current_key
from litestar_safe_sse._runtime.margins import TimerWithMargin
from litestar_safe_sse._servers.connections import ADDRESSES
from litestar_safe_sse._servers.frames import locals_of_callers, locals_of_waiting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import FrameType

    from litestar_safe_sse._runtime.base import Runtime

    Call = Callable[[], object]

__all__ = (
    "FirstStep",
    "Hook",
    "Logger",
    "Notifier",
    "Site",
    "WorkerHold",
    "delay_termination",
    "hold_reactor",
    "hold_worker",
    "hook_first_step",
    "hook_signals",
    "hook_trigger",
    "ignore_repeated_signals",
    "never",
    "remember_addresses",
)

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))
"""The signals that stop a server."""

_FLUSH_TIME = 0.05
"""Seconds that Twisted is given to send what it holds: over HTTP/2 and TLS it does so on later turns of its loop, and
does not say when it has."""

_TURNS_OF_A_SIGNAL = 3
"""Turns of the loop after which a signal has been read off the loop's pipe and, a turn later, handed to Granian."""


class Logger(Protocol):
    """As much of a logger as is used here."""

    def debug(self, msg: str, *args: Any, **kwargs: Any) -> Any: ...

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> Any: ...


class Hook(Protocol):
    """Something put into a server, to be taken out again."""

    place: Any
    """Where it has been put; its ``str()`` is for the log."""

    def remove(self) -> None:
        """Takes it out, unless somebody has replaced it since."""


class Notifier:
    """Makes its calls once, in the event loop's own thread.

    Args:
        runtime: The event loop.
        logger: Hears of calls that fail.
        calls: What to call, in this order.
    """

    def __init__(self, runtime: Runtime, logger: Logger, *calls: Call) -> None:
        self.runtime = runtime
        self.is_removed = False
        self._calls = [*calls]
        self._logger = logger

    @property
    def is_needed(self) -> bool:
        """Whether somebody is left to be notified: a loop without a lifespan ends without a word."""
        return not self.is_removed and not self.runtime.is_gone()

    def add(self, call: Call) -> None:
        """Adds a call, made after the others."""
        self._calls.append(call)

    def notify(self) -> None:
        """Makes the calls; to be called in the loop's thread."""
        calls, self._calls = self._calls, []
        for call in calls:
            try:
                call()
            except Exception:
                # The caller is a server on its way out, which a failure of ours must not stop.
                self._logger.warning("A call made at the server's shutdown has failed.", exc_info=True)

    def notify_soon(self) -> None:
        """Has the calls made by the loop; to be called by a signal handler, which must not touch a logger."""
        self.call_soon(self.notify)

    def call_soon(self, call: Call) -> None:
        """Has one call made by the loop, if that still runs."""
        with contextlib.suppress(RuntimeError):
            self.runtime.call_threadsafe(call)

    def remove(self) -> None:
        """Notifies of nothing any more."""
        self.is_removed = True
        self._calls = []


@dataclass(frozen=True)
class Site:
    """What the hooks of one server are made with.

    Attributes:
        notifier: What they notify.
        modules: The modules of the functions that have called, the nearest first.
        has_first_step: Whether the server's first step has been hooked.
        drain: Ends everything and returns when that is done.
        termination_delay: Seconds for which a SIGTERM is put off that would have killed the process at once.
        has_unawaited: Tells whether something is open for whose end the server does not wait by itself.
    """

    notifier: Notifier
    modules: tuple[str, ...]
    has_first_step: bool
    drain: Callable[[], Awaitable[None]] | None
    termination_delay: float
    has_unawaited: Callable[[], bool]


# Places


class SignalPlace:
    """Where the handler of a signal is kept."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __str__(self) -> str:
        return signal.Signals(self._number).name

    def get(self) -> Any:
        return signal.getsignal(self._number)

    def put(self, handler: Any) -> None:
        # Off the main thread Python allows no change; the link stays and only passes the signal on.
        if _is_in_main_thread():
            signal.signal(self._number, handler)


class AttributePlace:
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


# Links


class Link:
    """A callable in the place of another, which it goes on calling.

    Links of other watches, or what others put there, may come to stand in front of it. It can't be taken out from
    behind them: then it stays and only passes calls on, and the next link in front that is taken out takes it along.

    Args:
        place: Where it is put.
        notifier: What it notifies.
    """

    def __init__(self, place: SignalPlace | AttributePlace, notifier: Notifier) -> None:
        self.place = place
        self.notifier = notifier
        self.previous = _without_unneeded_links(place.get())
        place.put(self._as_seen())

    def _as_seen(self) -> Any:
        """Returns what others find in its place."""
        return self

    def remove(self) -> None:
        if _link_in(self.place.get()) is self:
            self.place.put(_without_unneeded_links(self.previous))


def _link_in(value: Any) -> Link | None:
    link = getattr(value, "__func__", value)
    return link if isinstance(link, Link) else None


def _without_unneeded_links(value: Any) -> Any:
    """Returns the first in a chain that is no link, or one that still has somebody to notify."""
    while (link := _link_in(value)) is not None and not link.notifier.is_needed:
        value = link.previous
    return value


class SignalLink(Link):
    """Stands in front of the handler of a signal."""

    def _as_seen(self) -> Any:
        # Others look Uvicorn's server up as the ``__self__`` of its handler.
        if isinstance(self.previous, MethodType):
            return MethodType(self, self.previous.__self__)
        return self

    def __call__(self, *args: Any) -> Any:
        # Seen as a method, it is given the instance first.
        number, frame = args[-2:]
        self.notifier.notify_soon()
        return self.previous(number, frame)


class EarlySignalLink(Link):
    """Stands in front of the handler of a signal, and raises again, when the loop runs, what came while none listened.

    Between the application's start-up and the first request, Granian's loop does not run, and uvloop listens to signals
    only while it does.
    """

    def __call__(self, number: int, frame: FrameType | None) -> Any:
        loop: Any = self.notifier.runtime.key
        if not loop.is_running() and not _is_listened_for():
            self.notifier.call_soon(partial(signal.raise_signal, number))
        return self.previous(number, frame)


class TerminationDelay(Link):
    """Stands in the place of SIGTERM's default action, and puts that off."""

    def __init__(self, notifier: Notifier, delay: float) -> None:
        self._delay = delay
        self._has_started = False
        super().__init__(SignalPlace(signal.SIGTERM), notifier)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.notifier.notify_soon()
        self.notifier.call_soon(self._start)

    def _start(self) -> None:
        if not self._has_started:
            self._has_started = True
            half = self._delay / 2  # the second begins when the loop answers, and leaves a turn to everyone
            TimerWithMargin(self.notifier.runtime, half, half, self._terminate)

    def _terminate(self) -> None:
        if not self.notifier.is_removed:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)


class FirstStepLink(Link):
    """Stands in front of the coroutine method with which a server begins its shutdown."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.notifier.notify()
        return await self.previous(*args, **kwargs)


class TriggerLink(Link):
    """Stands in front of Hypercorn's ``raise_shutdown(trigger)``, which waits for the trigger and then raises."""

    def __call__(self, trigger: Callable[[], Awaitable[Any]]) -> Any:
        # The module is the same for every loop of the process, and this is about one of them.
        if self.notifier.runtime.key == current_key():
            trigger = partial(self._wait, trigger)
        return self.previous(trigger)

    async def _wait(self, trigger: Callable[[], Awaitable[Any]]) -> None:
        await trigger()
        self.notifier.notify()


class SchedulerLink(Link):
    """Stands in front of Granian's ``_new_cbscheduler(loop, callback, …)``, which makes what runs each request."""

    def __call__(self, loop: Any, callback: Callable[[Any], Any], *args: Any, **kwargs: Any) -> Any:
        # The module is the same for every loop of the process, and this is about one of them.
        if self.notifier.runtime.key == loop:
            callback = partial(self._remember_addresses, callback)
        return self.previous(loop, callback, *args, **kwargs)

    @staticmethod
    def _remember_addresses(callback: Callable[[Any], Any], watcher: Any) -> Any:
        scope = getattr(watcher, "scope", None)
        if isinstance(scope, dict):
            scope[ADDRESSES] = scope.get("client"), scope.get("server")
        return callback(watcher)


class ReactorHold:
    """Keeps Twisted's reactor, as which Daphne runs, from ending ahead of the drain.

    Daphne has no lifespan, and waits for its requests only until the first of them has ended.
    """

    place = "the reactor's shutdown"

    def __init__(self, reactor: Any, notifier: Notifier, drain: Callable[[], Awaitable[None]]) -> None:
        self._reactor = reactor
        self._notifier = notifier
        self._drain = drain
        # https://docs.twisted.org/en/stable/api/twisted.internet.interfaces.IReactorCore.html
        self._trigger = reactor.addSystemEventTrigger("before", "shutdown", self._hold)

    def _hold(self) -> Any:
        self._notifier.notify()
        future = asyncio.ensure_future(self._drain_and_flush())
        return sys.modules["twisted.internet.defer"].Deferred.fromFuture(future)

    async def _drain_and_flush(self) -> None:
        await self._drain()
        await asyncio.sleep(_FLUSH_TIME)

    def remove(self) -> None:
        # Twisted raises for a trigger that has been pulled.
        with contextlib.suppress(KeyError, TypeError, ValueError):
            self._reactor.removeSystemEventTrigger(self._trigger)


class WorkerHold:
    """Keeps a Granian worker from its shutdown until the drain is over, if something is open that it does not wait for.

    Until it is armed, by the first of that, the worker is left alone.

    Args:
        is_needed: Tells whether there is something.
        drain: Ends everything and returns when that is done.
        stop: Tells the worker what its own handler of signals tells it.
    """

    place = "the worker's shutdown"

    def __init__(self, is_needed: Callable[[], bool], drain: Callable[[], Awaitable[None]], stop: Call) -> None:
        self._is_needed = is_needed
        self._drain = drain
        self._stop = stop
        self._is_armed = False
        self._task: asyncio.Task[None] | None = None

    def arm(self) -> None:
        """Takes the place of the worker's handler of signals; what stands in front of it stays there."""
        if not self._is_armed and _is_in_main_thread():
            self._is_armed = True
            _handle_signals(self._on_signal)

    def _on_signal(self) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._drain_and_stop())

    async def _drain_and_stop(self) -> None:
        try:
            if self._is_needed():
                await self._drain()
                await asyncio.sleep(_FLUSH_TIME)
        finally:
            self._stop()

    def remove(self) -> None:
        """Leaves its handler, which does what the worker's would have done."""
        self._is_needed = never


# What is hooked


@dataclass(frozen=True)
class FirstStep:
    """A coroutine method with which a server begins its shutdown, and how to find it.

    Attributes:
        module: The module of a coroutine of the server that waits while the application starts or runs.
        variable: A local variable of that coroutine.
        path: The attributes that lead from what the variable holds to the method.
    """

    module: str
    variable: str
    path: tuple[str, ...]


def hook_first_step(step: FirstStep, notifier: Notifier) -> Iterator[Hook]:
    """Hooks into the first step of the servers that run in this event loop."""
    *path, method = step.path
    for found in _of_calling_lifespan(locals_of_waiting(notifier.runtime, step.module, step.variable)):
        owner = reduce(lambda value, name: getattr(value, name, None), path, found)
        if callable(getattr(owner, method, None)):
            yield FirstStepLink(AttributePlace(owner, method), notifier)


def _of_calling_lifespan(servers: list[Any]) -> list[Any]:
    """Returns, of several Uvicorn servers in one loop, the one whose lifespan is calling; all if none is."""
    lifespans = locals_of_callers("uvicorn.lifespan.on", "self")
    calling = [server for server in servers if any(getattr(server, "lifespan", servers) is one for one in lifespans)]
    return calling or servers


def hook_signals(notifier: Notifier) -> Iterator[Hook]:
    """Hooks into the handlers of the signals that stop a server."""
    yield from (SignalLink(place, notifier) for place in _handled_signals())


def _handled_signals() -> list[SignalPlace]:
    """Returns where a server has a handler that can be called, as None, SIG_DFL and SIG_IGN can't be."""
    handled = [number for number in SIGNALS if callable(signal.getsignal(number))]
    return [SignalPlace(number) for number in handled] if _is_in_main_thread() else []


def hook_trigger(notifier: Notifier) -> Iterator[Hook]:
    """Hooks into Hypercorn's wait for its shutdown trigger, where its first step does not exist yet."""
    module = sys.modules.get(f"hypercorn.{notifier.runtime.name}.run")
    if callable(getattr(module, "raise_shutdown", None)):
        yield TriggerLink(AttributePlace(module, "raise_shutdown"), notifier)


def delay_termination(site: Site) -> Iterator[Hook]:
    """Keeps a Hypercorn worker from being killed while it drains, or before it has learnt of anything.

    The first worker to exit gets the others sent SIGTERM, even if they are still draining; and service managers
    send it to every process of a service at once.
    """
    multiprocessing = sys.modules.get("multiprocessing")  # where it was not imported, nothing was spawned by it
    is_worker = multiprocessing is not None and multiprocessing.parent_process() is not None
    is_default = _is_in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if is_worker and is_default and site.has_first_step:
        yield TerminationDelay(site.notifier, site.termination_delay)


def hold_reactor(site: Site) -> Iterator[Hook]:
    """Keeps Daphne's reactor until the drain is over."""
    reactor = sys.modules.get("twisted.internet.reactor")
    if reactor is not None and site.drain is not None and site.notifier.runtime.name == "asyncio":
        yield ReactorHold(reactor, site.notifier, site.drain)


def remember_addresses(site: Site) -> Iterator[Hook]:
    """Keeps in each scope the addresses that Granian has put there, which middleware behind proxies rewrites.

    Granian's sockets are Rust's, and nothing else tells which of them a request has come by. What it makes its requests
    run with is made after the application's startup.
    """
    for name in ("granian.server.mp", "granian.server.mt", "granian.server.embed"):
        module = sys.modules.get(name)
        if callable(getattr(module, "_new_cbscheduler", None)):
            yield SchedulerLink(AttributePlace(module, "_new_cbscheduler"), site.notifier)


def ignore_repeated_signals(site: Site) -> Iterator[Hook]:
    """Keeps a Granian worker from freezing at the third signal; a ^C makes two, one of them from its parent.

    Granian 2.8 puts each signal into a channel that is read once and has room for one more. The third waits for
    room, in the loop's thread and holding the GIL, as long as a connection is open. The first has done its work.
    """
    if _is_granian_worker(site):
        site.notifier.add(_ignore_signals_soon)
    yield from ()


def hold_worker(site: Site) -> Iterator[Hook]:
    """Keeps a Granian worker from its shutdown while something is open that it does not wait for.

    It waits for the responses to HTTP requests, but not for WebSockets: from the signal on it delivers nothing to them,
    and its worker dies of it (a panic of the thread that frees the bytes) where a client has stopped reading. What is
    behind a response, cleanups and background tasks, it waits for by the end of the lifespan alone.
    """
    if _is_granian_worker(site) and site.drain is not None:
        events = locals_of_callers("granian.server.mp", "shutdown_event")
        stop = next((event.set for event in events if hasattr(event, "set")), None)
        if stop is not None:
            yield WorkerHold(site.has_unawaited, site.drain, stop)


def repeat_early_signal(site: Site) -> Iterator[Hook]:
    """Has a Granian worker told again what it was told before it could listen.

    It is forked with its parent's handler of signals, and while it imports the application, that one takes note for the
    parent's copy in this process, where nobody looks. The worker would never stop, nor its parent, which waits for it.
    """
    if not _is_granian_worker(site):
        return
    parents = locals_of_callers("granian.server.common", "self")
    if any(getattr(parent, "interrupt_signal", None) is True for parent in parents):
        site.notifier.call_soon(partial(signal.raise_signal, signal.SIGTERM))
    yield from (EarlySignalLink(place, site.notifier) for place in _handled_signals())


def _is_granian_worker(site: Site) -> bool:
    return "granian.server.mp" in site.modules and sys.platform != "win32"


def _is_listened_for() -> bool:
    """Returns whether signals wake a loop (``signal.set_wakeup_fd``)."""
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    return descriptor != -1


def _ignore_signals_soon(turns: int = _TURNS_OF_A_SIGNAL) -> None:
    loop = asyncio.get_running_loop()
    if turns:
        loop.call_soon(_ignore_signals_soon, turns - 1)
        return
    _handle_signals(_do_nothing)


def _handle_signals(call: Call) -> None:
    """Has the loop hand signals to something else than Granian; hooks still hear of each."""
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if callable(handler):
            loop.add_signal_handler(number, call)
            signal.signal(number, handler)


def _do_nothing() -> None:
    pass


def never() -> bool:
    """Tells that nothing is open for whose end a server would not wait."""
    return False


def _is_in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
