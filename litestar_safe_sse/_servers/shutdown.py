"""How an application learns that its server has been told to stop.

No ASGI server says so in time: ``lifespan.shutdown`` comes after the connections have closed, and an open stream
keeps its connection open. So the news is read off the server itself, while the application runs:

1. **Signals.** Where the server has a handler (Uvicorn, Granian, Daphne, a program that embeds one), a hook goes
   in front of it. The hook wakes the loop and then calls what it stands in front of, so the server sees every signal
   that it saw before. ``loop.add_signal_handler`` would take the server's handler away. Where there is no handler
   (``SIG_DFL``, ``SIG_IGN``) nothing goes in front, and off the main thread Python allows none.
2. **The server's own first step**, which it takes without a signal too: in a thread, for ``should_exit``, at
   a limit of requests. On Uvicorn and embedded Granian it is the method ``shutdown`` of the one ``Server``. On
   Hypercorn, whose workers get no signal, it is setting the event ``terminated`` of the worker's context; where
   that does not exist yet (asyncio, at startup) it is ``raise_shutdown``, which waits for the trigger.

What is private to a server is looked for before it is used; a miss is logged with the version, what won't work and
what to do instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from litestar_safe_sse._runtime.current import current_runtime
from litestar_safe_sse._servers.frames import callers, module_of
from litestar_safe_sse._servers.hooks import (
    FirstStep,
    Notifier,
    Site,
    WorkerHold,
    delay_termination,
    hold_reactor,
    hold_worker,
    hook_first_step,
    hook_signals,
    hook_trigger,
    ignore_repeated_signals,
    never,
    remember_addresses,
    repeat_early_signal,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from litestar_safe_sse._servers.hooks import Hook, Logger

__all__ = ("SERVERS", "Server", "ShutdownWatch")


@dataclass(frozen=True)
class Server:
    """A server, and what is hooked into besides the signals that it handles.

    Attributes:
        name: The package that it is, in which its own modules are.
        first_steps: The methods with which it begins its shutdown.
        instead: What is hooked into where none of them has been found.
        extra_hooks: What else it needs.
        needs_first_step: Whether it can shut down without a signal that its worker would see.
        remedy: What to do where a hook is missing; ``None`` if none can be.
    """

    name: str
    first_steps: tuple[FirstStep, ...] = ()
    instead: Callable[[Notifier], Iterable[Hook]] | None = None
    extra_hooks: tuple[Callable[[Site], Iterable[Hook]], ...] = ()
    needs_first_step: bool = True
    remedy: str | None = None


SERVERS = (
    Server(
        "uvicorn",
        first_steps=(FirstStep("uvicorn.server", "self", ("shutdown",)),),
        remedy="set timeout_graceful_shutdown, without which Uvicorn waits for the streams for ever",
    ),
    Server(
        "granian",
        first_steps=(FirstStep("granian.server.embed", "self", ("shutdown",)),),
        extra_hooks=(hold_worker, ignore_repeated_signals, remember_addresses, repeat_early_signal),
        needs_first_step=False,
        remedy="set workers_kill_timeout, without which Granian waits for the streams for ever",
    ),
    Server(
        "hypercorn",
        first_steps=(
            FirstStep("hypercorn.asyncio.run", "context", ("terminated", "set")),
            FirstStep("hypercorn.trio.run", "context", ("terminated", "set")),
        ),
        instead=hook_trigger,
        extra_hooks=(delay_termination,),
        remedy="set max_lifetime on the streams; Hypercorn's graceful_timeout cancels them up to Python 3.11",
    ),
    Server("daphne", extra_hooks=(hold_reactor,)),
)

UNKNOWN_SERVER = Server("an unknown server")


class ShutdownWatch:
    """Learns that the server has been told to stop and says so once, in the event loop's own thread.

    Args:
        on_shutdown: Called at most once between ``install`` and ``uninstall``. It must not block.
        logger: Hears what could not be hooked.
        drain: Ends everything and returns when that is done; awaited where nothing else keeps the server waiting.
        termination_delay: Seconds that a Hypercorn worker may live on after a SIGTERM that would have killed it at
            once: long enough for the drain and for the application's own shutdown.
        has_unawaited: Tells whether something is open for whose end not every server waits by itself.
    """

    def __init__(
        self,
        on_shutdown: Callable[[], None],
        logger: Logger,
        *,
        drain: Callable[[], Awaitable[None]] | None = None,
        termination_delay: float = 30.0,
        has_unawaited: Callable[[], bool] = never,
    ) -> None:
        self._on_shutdown = on_shutdown
        self._drain = drain
        self._logger = logger
        self._termination_delay = termination_delay
        self._has_unawaited = has_unawaited
        self._notifier: Notifier | None = None
        self._hooks: list[Hook] = []

    def install(self) -> None:
        """Hooks into the server that runs the current event loop: asyncio's, uvloop's or trio's.

        To be called inside that loop: when the application starts, or at the first request on a server without
        lifespan. Installing twice is installing once.
        """
        if self._notifier is not None:
            return
        modules = tuple(map(module_of, callers()))
        server = _server_among(modules)
        self._notifier = notifier = Notifier(current_runtime(), self._logger, self._on_shutdown)
        steps = _hook_steps(server, notifier)
        signals = list(hook_signals(notifier))
        site = Site(notifier, modules, bool(steps), self._drain, self._termination_delay, self._has_unawaited)
        extra = [hook for make in server.extra_hooks for hook in make(site)]
        self._hooks = [*steps, *signals, *extra]
        self._report(server, has_first_step=bool(steps), has_signals=bool(signals))

    def uninstall(self) -> None:
        """Takes out what ``install`` put in, save what somebody has replaced since. Twice is once."""
        if self._notifier is None:
            return
        self._notifier.remove()
        self._notifier = None
        while self._hooks:
            self._hooks.pop().remove()

    def hold_server(self) -> None:
        """Has a server wait at its shutdown that would not by itself; to be called at each thing to wait for."""
        for hook in self._hooks:
            if isinstance(hook, WorkerHold):
                hook.arm()

    def _report(self, server: Server, *, has_first_step: bool, has_signals: bool) -> None:
        places = ", ".join(str(hook.place) for hook in self._hooks) or "nothing"
        self._logger.debug(f"The shutdown of {server.name} is watched through {places}.")
        if server.remedy is None or has_first_step or (has_signals and not server.needs_first_step):
            return
        which = "A shutdown without a signal" if has_signals else "Its shutdown"
        self._logger.warning(
            f"{server.name} {_version(server.name)} has nothing that a hook is known for. {which} is noticed only when"
            f" the open streams are cancelled or the lifespan ends. Remedy: {server.remedy}."
        )


def _server_among(modules: Iterable[str]) -> Server:
    """Returns the server to which the first of these modules that is a server's belongs."""
    by_name = {server.name: server for server in SERVERS}
    return next((by_name[name] for module in modules if (name := module.partition(".")[0]) in by_name), UNKNOWN_SERVER)


def _hook_steps(server: Server, notifier: Notifier) -> list[Hook]:
    """Hooks into every first step that is found: a program may run a server that has not called."""
    steps = [hook for each in SERVERS for step in each.first_steps for hook in hook_first_step(step, notifier)]
    if not steps and server.instead is not None:
        steps.extend(server.instead(notifier))
    return steps


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(version unknown)"
