"""Litestar's channels as a source for streams, which leaves no subscriber behind when a stream is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from litestar.channels import ChannelsPlugin, Subscriber
from litestar.channels.plugin import ChannelsException

from litestar_safe_sse._core.messages import SSEMessage
from litestar_safe_sse.config import check_integer, check_text
from litestar_safe_sse.exceptions import InvalidFieldError, SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources._bell import Bell
from litestar_safe_sse.sources._subscription import TURN, Key, Mailbox, Overflow, Subscription, give_turn, make_mailbox
from litestar_safe_sse.sources._tasks import spawn
from litestar_safe_sse.sources.statistics import SourceStatistics, Tally

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("ChannelMessage", "ChannelsSource", "ChannelsSubscription")

_logger = logging.getLogger("litestar_safe_sse")

_LEAVE_TIMEOUT = 0.1
"""Seconds for which a stream that ends waits for the backend, which may try to reach Redis for ever."""

_BURST = 16_384
"""Messages of a burst that wait for the subscribers of a process to run; beyond it the oldest are passed on at once."""


class ChannelMessage(SSEMessage, frozen=True, kw_only=True):
    """A message of a channel; yielded to a stream, it is an event of its data.

    Args:
        channel: The channel it was published to.
    """

    channel: str = ""


class ChannelsSource:
    """The channels of a ``ChannelsPlugin``, for any number of streams.

    All streams of a process share one subscriber for each channel, which is made and removed by a task that no
    stream's end can cancel. What a slow stream has not taken is bounded here, whatever the plugin's backlog is.

    It is to be made once, for the life of the application.

    Args:
        channels: Litestar's plugin, which the application has to have as well.

    Raises:
        InvalidFieldError: It is something else.
    """

    def __init__(self, channels: ChannelsPlugin) -> None:
        if not isinstance(channels, ChannelsPlugin):
            raise InvalidFieldError("channels", f"must be a ChannelsPlugin, not {type(channels).__name__}")
        self._plugin = channels
        self._loops: dict[asyncio.AbstractEventLoop, _ChannelSubscribers] = {}

    def subscribe(
        self,
        *channels: str,
        history: int = 0,
        buffer: int = 256,
        overflow: Overflow = "drop_oldest",
        key: Key | None = None,
    ) -> ChannelsSubscription:
        """Makes a subscription for one stream: the content of a response, or for a body to iterate over.

        It begins when it is first iterated over, or entered as a context manager, which waits until the channels'
        backend has confirmed it.

        Args:
            *channels: The channels.
            history: Messages of each channel, at most, to begin with, as the backend has kept them. One that is
                published at the moment of subscribing may come twice.
            buffer: Messages that wait for a subscriber that is slow.
            overflow: What happens when there are more: ``"close"``, ``"drop_oldest"`` or ``"latest"``.
            key: With ``overflow="latest"``, a function of channel and message; of those for which it returns the
                same, only the newest is kept. By default the channel.

        Returns:
            An async iterator of :class:`ChannelMessage`, and of events of the type ``dropped``.

        Raises:
            InvalidFieldError: An argument can't be used.
            SourceRefusedError: While iterating: the channel is none of the plugin's, or its backend keeps no history.
            SourceUnavailableError: While iterating: the backend failed, or the plugin has stopped receiving.
        """
        names = tuple(dict.fromkeys(check_text("channel", channel) for channel in channels))
        if not names:
            raise InvalidFieldError("channels", "must be given")
        check_integer("history", history, minimum=0)
        make = partial(make_mailbox, buffer, overflow, key)
        make()
        return ChannelsSubscription(self._plugin, self._subscribers, names, history, make)

    def statistics(self) -> SourceStatistics:
        """Returns the figures in this event loop; what Redis or Litestar lose is not known here."""
        return self._subscribers().statistics()

    def _subscribers(self) -> _ChannelSubscribers:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError as error:
            raise SourceUnavailableError("Litestar's channels need a running asyncio loop") from error
        if loop not in self._loops:
            for gone in [known for known in self._loops if known.is_closed()]:
                del self._loops[gone]
            self._loops[loop] = _ChannelSubscribers(self._plugin, loop)
        return self._loops[loop]


class ChannelsSubscription(Subscription):
    """A subscription to channels; made by :meth:`ChannelsSource.subscribe`."""

    def __init__(
        self,
        plugin: ChannelsPlugin,
        find: Callable[[], _ChannelSubscribers],
        names: tuple[str, ...],
        history: int,
        make_mailbox: Callable[..., Mailbox],
    ) -> None:
        self._plugin = plugin
        self._find_subscribers = find
        self._names = names
        self._history = history
        self._make_mailbox = make_mailbox
        self._subscribers: _ChannelSubscribers | None = None
        self._listener: _Listener | None = None
        self._replay: deque[SSEMessage] | None = None

    async def __aenter__(self) -> ChannelsSubscription:
        """Waits until the backend has confirmed the subscription."""
        try:
            await self._begin()
        except BaseException:
            self._close()
            raise
        return self

    async def aclose(self) -> None:
        """Ends it. Channels that nobody else listens to are unsubscribed from, which is waited for 0.1 s at most."""
        self._close()
        if self._subscribers is not None:
            with anyio.move_on_after(_LEAVE_TIMEOUT):
                await self._subscribers.caught_up()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _next(self) -> SSEMessage:
        mailbox = await self._begin()
        if self._replay and not self._closed:
            return self._replay.popleft()
        return await self._take_from(mailbox)

    async def _begin(self) -> Mailbox:
        if self._listener is None:
            self._subscribers = self._find_subscribers()
            self._listener = _Listener(self._make_mailbox(tally=self._subscribers.tally), self._names)
            self._subscribers.join(self._listener)
        await self._listener.live.wait()
        if self._replay is None:
            if self._listener.mailbox.error is not None:
                raise self._listener.mailbox.error
            self._replay = await self._fetch_history()
        return self._listener.mailbox

    async def _fetch_history(self) -> deque[SSEMessage]:
        messages: deque[SSEMessage] = deque()
        for name in self._names if self._history else ():
            past = Subscriber(self._plugin)
            try:
                await self._plugin.put_subscriber_history(past, name, self._history)
            except NotImplementedError as error:
                raise SourceRefusedError("the backend of the channels keeps no history; give history=0") from error
            entries = past.iter_events()
            messages += [_message(name, await entries.__anext__()) for _ in range(past.qsize)]
            await entries.aclose()
        return messages

    def _release(self) -> None:
        if self._subscribers is not None and self._listener is not None:
            self._subscribers.leave(self._listener)
            self._listener.end(None)


class _Listener:
    """What the subscribers know of a subscription: not the subscription, so that one which is dropped is let go."""

    def __init__(self, mailbox: Mailbox, names: tuple[str, ...]) -> None:
        self.mailbox = mailbox
        self.names = names
        self.live = anyio.Event()
        """Set once all channels are subscribed to, or there is an end."""

    def end(self, error: Exception | None) -> None:
        self.mailbox.end(error)
        self.live.set()


class _ChannelSubscribers:
    """The subscribers of one event loop, one for each channel that somebody listens to."""

    def __init__(self, plugin: ChannelsPlugin, loop: asyncio.AbstractEventLoop) -> None:
        self._plugin = plugin
        self._loop = loop
        self.tally = Tally()
        self._listeners: dict[str, dict[_Listener, None]] = {}
        self._subscribers: dict[str, Subscriber] = {}
        self._burst: deque[tuple[str, bytes]] = deque()
        """What Litestar has passed on, and no subscriber has been given yet."""
        self._pump: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._worked = Bell()
        self._receiver: asyncio.Future[Any] | None = None

    def statistics(self) -> SourceStatistics:
        everybody = {listener for listeners in self._listeners.values() for listener in listeners}
        return self.tally.of_source(self._listeners, [listener.mailbox for listener in everybody])

    def join(self, listener: _Listener) -> None:
        receiver = self._watch_receiver()
        if receiver is not None and receiver.done():
            listener.end(_ended(receiver))
            return
        for name in listener.names:
            self._listeners.setdefault(name, {})[listener] = None
        self._look_whether_live(listener)
        self._catch_up()

    def leave(self, listener: _Listener) -> None:
        for name in listener.names:
            listeners = self._listeners.get(name)
            if listeners is not None:
                listeners.pop(listener, None)
                if not listeners:
                    del self._listeners[name]
        # By way of the loop: the garbage collector may have called, in any thread, or when the loop is gone.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._catch_up)

    async def caught_up(self) -> None:
        """Waits until what is subscribed to is what is listened to; cancelled, that goes on."""
        self._catch_up()
        while self._task is not None:
            await self._worked.wait()

    def _watch_receiver(self) -> asyncio.Future[Any] | None:
        """The plugin's task that receives: Litestar notifies nobody of its end, and nothing comes after it."""
        receiver = getattr(self._plugin, "_sub_task", None)  # there is nothing public to ask
        if isinstance(receiver, asyncio.Future) and receiver is not self._receiver:
            self._receiver = receiver
            receiver.add_done_callback(self._receiver_ended)
        return self._receiver

    def _receiver_ended(self, receiver: asyncio.Future[Any]) -> None:
        while self._burst:
            self._pass_on(*self._burst.popleft())
        for listener in {listener for listeners in self._listeners.values() for listener in listeners}:
            listener.end(_ended(receiver))
            self.leave(listener)

    def _catch_up(self) -> None:
        if self._task is None and self._listeners.keys() != self._subscribers.keys():
            self._task = spawn(self._work(), "SSE channels")
            self._task.add_done_callback(lambda _: self._worked.ring())

    async def _work(self) -> None:
        """Subscribes and unsubscribes, one after the other: Litestar's plugin can't do both at once."""
        try:
            while True:
                missing = [name for name in self._listeners if name not in self._subscribers]
                unused = [name for name in self._subscribers if name not in self._listeners]
                if missing:
                    await self._subscribe(missing[0])
                elif unused:
                    await self._unsubscribe(unused[0])
                else:
                    return
        finally:
            self._task = None

    async def _subscribe(self, name: str) -> None:
        try:
            subscriber = await self._plugin.subscribe(name)
        except Exception as error:
            failure = _translate(name, error)
            for listener in tuple(self._listeners.get(name, ())):
                listener.end(type(failure)(*failure.args))
                self.leave(listener)
            return
        self._subscribers[name] = subscriber
        # What is put into it goes on to those who listen, at once: so its own backlog stays empty, and ours is bounded.
        subscriber.put_nowait = partial(self._receive, name)  # type: ignore[method-assign]
        entries = subscriber.iter_events()
        for _ in range(subscriber.qsize):
            self._receive(name, await entries.__anext__())
        await entries.aclose()
        for listener in tuple(self._listeners.get(name, ())):
            self._look_whether_live(listener)

    async def _unsubscribe(self, name: str) -> None:
        subscriber = self._subscribers.pop(name)
        try:
            await self._plugin.unsubscribe(subscriber, name)
        except Exception as error:  # the backend is away, or was closed with the application
            _logger.warning("the channel %r was not unsubscribed from: %r", name, error)

    def _receive(self, name: str, item: bytes | None) -> bool:
        """Takes what Litestar passes on, which may be a burst that it does not pause in."""
        if item is not None and name in self._listeners:
            self._burst.append((name, item))
            if len(self._burst) > _BURST:
                self._pass_on(*self._burst.popleft())
            if self._pump is None:
                self._pump = spawn(self._pass_all_on(), "SSE channels: a burst")
        return True

    async def _pass_all_on(self) -> None:
        try:
            while self._burst:
                name = ""
                for _ in range(min(TURN, len(self._burst))):
                    name, item = self._burst.popleft()
                    self._pass_on(name, item)
                if self._burst:
                    await asyncio.sleep(0)
                # Though there is nothing left now: a burst may come in by and by.
                await give_turn(listener.mailbox for listener in tuple(self._listeners.get(name, ())))
        finally:
            self._pump = None

    def _pass_on(self, name: str, item: bytes) -> None:
        listeners = self._listeners.get(name)
        if listeners:
            message = _message(name, item)
            for listener in tuple(listeners):
                listener.mailbox.put(name, message)

    def _look_whether_live(self, listener: _Listener) -> None:
        if self._subscribers.keys() >= set(listener.names):
            listener.live.set()


def _message(name: str, item: Any) -> ChannelMessage:
    return ChannelMessage(data=item.decode(errors="replace") if isinstance(item, bytes) else item, channel=name)


def _translate(name: str, error: Exception) -> SourceRefusedError | SourceUnavailableError:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ChannelsException):
        return SourceRefusedError(f"the channel {name!r:.40} can't be subscribed to ({text})")
    return SourceUnavailableError(f"the backend of the channels failed ({text})")


def _ended(receiver: asyncio.Future[Any]) -> SourceUnavailableError:
    """An error of its own for each listener: a traceback has one home."""
    error = None if receiver.cancelled() else receiver.exception()
    if error is None:
        return SourceUnavailableError("the ChannelsPlugin receives nothing any more: it has been closed, or has ended")
    return SourceUnavailableError(
        f"the ChannelsPlugin receives nothing any more ({type(error).__name__}: {error}); restart the worker, and give "
        "its backend's client retries"
    )
