"""The chain of signal handlers that a ``ShutdownWatch`` is a link of."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import Any

import pytest

from litestar_safe_sse._servers.shutdown import ShutdownWatch
from tests.integration.embedded import InThread
from tests.integration.watches import Callback, Handler, Log, Run, raise_and_settle


def test_the_handler_in_place_is_called_as_before(run: Run, handler: Handler) -> None:
    """The callback comes once, in the loop's thread, and the handler that was there gets every signal."""

    async def main() -> None:
        callback = Callback()
        watch = ShutdownWatch(callback, Log())
        watch.install()
        watch.install()
        signal.raise_signal(signal.SIGTERM)
        await callback.wait()
        await raise_and_settle()
        assert (callback.times, callback.threads) == (1, {threading.get_ident()})
        watch.uninstall()
        watch.uninstall()

    run(main)
    assert handler.seen == [signal.SIGTERM, signal.SIGTERM]


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_watches_go_in_any_order(run: Run, handler: Handler, first_out: int) -> None:
    """Two watches on one signal are both notified, and when one has gone the other still is."""

    async def main() -> None:
        callbacks = [Callback(), Callback()]
        watches = [ShutdownWatch(each, Log()) for each in callbacks]
        for watch in watches:
            watch.install()
        watches[first_out].uninstall()
        signal.raise_signal(signal.SIGTERM)
        await callbacks[1 - first_out].wait()
        assert callbacks[first_out].times == 0
        watches[first_out].install()
        signal.raise_signal(signal.SIGTERM)
        await callbacks[first_out].wait()
        for watch in watches:
            watch.uninstall()
        assert [each.times for each in callbacks] == [1, 1]

    run(main)
    assert handler.seen == [signal.SIGTERM, signal.SIGTERM]


def test_not_notified_after_uninstall(run: Run, handler: Handler) -> None:
    """A signal that came just before the watch was uninstalled is not notified of after it."""

    async def main() -> None:
        callback = Callback()
        watch = ShutdownWatch(callback, Log())
        watch.install()
        signal.raise_signal(signal.SIGTERM)
        watch.uninstall()
        await raise_and_settle()
        assert callback.times == 0

    run(main)
    assert handler.seen == [signal.SIGTERM, signal.SIGTERM]


def test_a_handler_set_since_is_left_alone(run: Run, handler: Handler) -> None:
    """A handler that somebody put in front of the watch's stays, and still reaches the one behind it."""

    async def main() -> None:
        watch = ShutdownWatch(Callback(), Log())
        watch.install()
        behind: Any = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, in_front := lambda number, frame: behind(number, frame))
        watch.uninstall()
        assert signal.getsignal(signal.SIGTERM) is in_front
        signal.raise_signal(signal.SIGTERM)

    run(main)
    assert handler.seen == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, handler)


def test_a_method_stays_the_method_of_its_instance(handler: Handler) -> None:
    """In front of a method there is a method of the same instance, for those who look the server up that way."""

    async def main() -> None:
        signal.signal(signal.SIGTERM, handler.method)
        watches = [ShutdownWatch(Callback(), Log()) for _ in range(2)]
        for watch in watches:
            watch.install()
            assert getattr(signal.getsignal(signal.SIGTERM), "__self__", None) is handler
        signal.raise_signal(signal.SIGTERM)
        for watch in watches:
            watch.uninstall()
        assert signal.getsignal(signal.SIGTERM) == handler.method

    asyncio.run(main())
    assert handler.seen == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize("action", [signal.SIG_DFL, signal.SIG_IGN])
def test_no_handler_is_put_where_there_is_none(handler: Handler, action: signal.Handlers) -> None:
    """The default action and the ignoring of a signal stay what they are."""

    async def main() -> None:
        signal.signal(signal.SIGTERM, action)
        watch = ShutdownWatch(Callback(), Log())
        watch.install()
        assert signal.getsignal(signal.SIGTERM) is action
        watch.uninstall()
        assert signal.getsignal(signal.SIGTERM) is action

    asyncio.run(main())
    signal.signal(signal.SIGTERM, handler)


def test_signals_are_left_alone_off_the_main_thread(handler: Handler) -> None:
    """In another thread a watch touches no signal, neither when it comes nor when it goes."""

    async def come_and_go() -> None:
        watch = ShutdownWatch(Callback(), Log())
        watch.install()
        assert signal.getsignal(signal.SIGTERM) is handler
        watch.uninstall()

    with InThread(lambda: asyncio.run(come_and_go())):
        pass

    async def main() -> None:
        callback = Callback()
        watch = ShutdownWatch(callback, Log())
        watch.install()
        await asyncio.to_thread(watch.uninstall)
        await raise_and_settle()
        assert callback.times == 0

    asyncio.run(main())
    assert handler.seen == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, handler)


def test_a_signal_after_the_loop_is_passed_on(run: Run, handler: Handler) -> None:
    """A signal that comes when the loop has ended, and nobody has uninstalled the watch, is passed on in silence."""
    watch = ShutdownWatch(lambda: None, Log())

    async def main() -> None:
        watch.install()

    run(main)
    signal.raise_signal(signal.SIGTERM)
    assert handler.seen == [signal.SIGTERM]
    watch.uninstall()


def test_a_failing_callback_is_logged(run: Run, handler: Handler) -> None:
    """A callback that fails is logged; it stops neither the loop nor the server."""
    log = Log()

    async def main() -> None:
        def fail() -> None:
            raise RuntimeError

        watch = ShutdownWatch(fail, log)
        watch.install()
        await raise_and_settle()
        watch.uninstall()

    run(main)
    assert log.warnings == ["A call made at the server's shutdown has failed."]
