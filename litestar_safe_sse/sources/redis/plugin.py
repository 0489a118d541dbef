"""One Redis client per process and event loop, and what the sources of that loop share."""

from __future__ import annotations

import asyncio
import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio
from litestar.di import Provide
from litestar.exceptions import ImproperlyConfiguredException
from litestar.plugins import InitPlugin

from litestar_safe_sse.config import check_name, check_text
from litestar_safe_sse.exceptions import (
    InvalidFieldError,
    MissingExtraError,
    SourceRefusedError,
    SourceUnavailableError,
)
from litestar_safe_sse.sources.redis import _redis_py
from litestar_safe_sse.sources.redis._commands import check_can_share
from litestar_safe_sse.sources.redis._errors import translate
from litestar_safe_sse.sources.redis._link import RedisLink
from litestar_safe_sse.sources.redis.connection import connect, make_connection
from litestar_safe_sse.sources.statistics import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from litestar.config.app import AppConfig

    from litestar_safe_sse.sources.redis._commands import Argument, Command
    from litestar_safe_sse.sources.redis._scripts import Script
    from litestar_safe_sse.sources.redis.connection import RedisAddress, RedisClient, RedisConnection

__all__ = ("REPLY_TIMEOUT", "RedisPlugin", "check_prefix")

T = TypeVar("T", bound="Shared")

REPLY_TIMEOUT = 5.0
"""Seconds that Redis has to accept a connection or to answer, beyond those that a command itself waits."""

_CLOSE_TIMEOUT = 2.0
"""Seconds that Redis has when the application shuts down."""


class Shared(Protocol):
    """What the sources of one event loop share: a reader, and those who wait for what it reads."""

    async def aclose(self) -> None: ...


class RedisPlugin(InitPlugin):
    """One Redis client per process and event loop: injected into handlers, shared by the sources, closed at the end.

    The client is made when it is first used, never on import, so workers may be forked in between. It is closed after
    the application's streams have ended and cleaned up, in whatever order the plugins stand.

    Args:
        redis: A URL (``redis://``, ``rediss://`` for TLS, ``unix://``), or a function that makes a client, which is
            called once per event loop: ``lambda: Sentinel(...).master_for("mymaster")``, or a client, of any kind
            that redis-py has for asyncio. A client that was handed in is the application's own to close.
        prefix: What the names of the sources' keys begin with. It is put in braces, so that on a cluster all keys of
            a plugin are in one slot and can be used by one command.
        dependency_key: The name of the parameter that the client is injected as.
        **options: Passed on to ``redis.asyncio.Redis.from_url``.

    Raises:
        MissingExtraError: redis-py is not installed.
        InvalidFieldError: An argument can't be used.
    """

    def __init__(
        self,
        redis: RedisAddress = "redis://localhost:6379/0",
        *,
        prefix: str = "sse",
        dependency_key: str = "redis",
        **options: Any,
    ) -> None:
        if not _redis_py.IS_INSTALLED:
            raise MissingExtraError("sources on Redis need redis-py: pip install 'litestar-safe-sse[redis]'")
        check_prefix(prefix)
        check_name("dependency_key", dependency_key)
        if options and not isinstance(redis, str):
            raise InvalidFieldError("redis", "must be a URL where options are given; a client has its own")
        self.prefix = prefix
        self.dependency_key = dependency_key
        self.reply_timeout = REPLY_TIMEOUT
        self._make = _maker(redis, options)
        self._closes_client = not isinstance(redis, (_redis_py.Redis, _redis_py.RedisCluster))
        self._states: dict[asyncio.AbstractEventLoop, LoopState] = {}

    @classmethod
    def of(cls, redis: RedisPlugin | RedisAddress) -> RedisPlugin:
        """Returns a plugin as it is, and makes one of anything else that a plugin can be made of."""
        return redis if isinstance(redis, RedisPlugin) else cls(redis)

    @property
    def client(self) -> RedisClient:
        """The client of the running event loop, made now if there is none.

        Raises:
            SourceUnavailableError: Where no asyncio loop is running; redis-py has no support for trio.
            SourceRefusedError: The function that makes it has made something else.
        """
        return self.loop_state().client

    def key(self, *parts: str) -> str:
        """The name of a key: ``{sse}:log:news``."""
        return ":".join((f"{{{self.prefix}}}", *parts))

    async def execute(self, *command: str | bytes | float) -> Any:
        """Sends a command at most once, on the connection that all sources of this event loop share.

        A caller that is cancelled does not take the command back.

        Args:
            *command: The command and its arguments, which should not make Redis wait. What changes the connection, or
                is not answered once (``SUBSCRIBE``, ``MULTI``, ``SELECT``, …), is for :attr:`client`.

        Returns:
            The reply as it comes by RESP2, undecoded.

        Raises:
            SourceUnavailableError: Redis can't be reached; the command may have been carried out all the same.
            SourceRefusedError: Redis answered with an error.
            InvalidFieldError: An argument can't be sent, or the command not on a shared connection.
        """
        return await self.submit(*command)

    def submit(self, *command: str | bytes | float) -> asyncio.Future[Any]:
        """Sends a command as :meth:`execute` does, at once and in the order of the calls; need not be awaited."""
        check_can_share(command)
        return self.loop_state().commands.submit(*command)

    async def run(self, script: Script, *arguments: Argument) -> Any:
        """Runs a script at most once, as :meth:`execute` sends a command.

        Args:
            script: The script.
            *arguments: The number of keys, the keys, and what else it is given.

        Returns:
            The reply.

        Raises:
            SourceUnavailableError: As :meth:`execute` does.
            SourceRefusedError: As :meth:`execute` does.
        """
        return await self.loop_state().commands.submit_script(script, *arguments)

    def renew(self) -> None:
        """Has the sources' short commands use a new connection from now on, since Redis may be elsewhere now."""
        self.loop_state().commands.renew()

    async def transact(self, *commands: Command) -> list[Any]:
        """Sends commands that are carried out together or not at all (``MULTI`` and ``EXEC``).

        Returns:
            Their replies.

        Raises:
            SourceUnavailableError: As :meth:`execute` does.
            SourceRefusedError: Redis answered one of them with an error; the others may have been carried out.
        """
        for command in commands:
            check_can_share(command)
        replies = await self.loop_state().commands.submit_all([("MULTI",), *commands, ("EXEC",)])
        for reply in replies:
            if isinstance(reply, _redis_py.errors.RedisError):
                raise translate(reply) from reply
        return replies  # type: ignore[no-any-return]

    async def execute_each(self, *commands: Command) -> list[Any]:
        """Sends commands together, as :meth:`execute` does.

        Returns:
            Their replies; for one that Redis refused the ``SourceRefusedError``.

        Raises:
            SourceUnavailableError: Redis can't be reached, or can't carry out one of them at the moment.
        """
        for command in commands:
            check_can_share(command)
        replies = await self.loop_state().commands.submit_all(commands, each=True) if commands else []
        for reply in replies:
            if isinstance(reply, SourceUnavailableError):
                raise reply
        return replies

    def link(self) -> RedisLink:
        """A connection of its own for a source that has Redis wait; the source has to close it."""
        return RedisLink(self)

    async def connect(self) -> RedisConnection:
        """Opens a connection outside of the pool; see :func:`connection.connect`."""
        return await connect(self.client, self.key(), self.reply_timeout)

    def share(self, key: Hashable, make: Callable[[], T]) -> T:
        """Returns what is shared in this event loop under a key, made now if there is nothing; closed with the plugin.

        Args:
            key: The key.
            make: Makes it.
        """
        shared = self.loop_state().shared
        if key not in shared:
            shared[key] = make()
        return shared[key]  # type: ignore[return-value]

    def tally(self, key: Hashable) -> Tally:
        """Returns what is counted in this event loop under a key; it outlives what is shared."""
        return self.loop_state().tallies.setdefault(key, Tally())

    def forget(self, key: Hashable, shared: Shared) -> None:
        """Ends the sharing of what nobody uses any more."""
        state = self._states.get(asyncio.get_running_loop())
        if state is not None and state.shared.get(key) is shared:
            del state.shared[key]

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Extends the application's configuration; called by Litestar."""
        if self.dependency_key in app_config.dependencies:
            raise ImproperlyConfiguredException(
                f"the application has a dependency {self.dependency_key!r} already; give RedisPlugin another "
                "dependency_key"
            )
        app_config.dependencies[self.dependency_key] = Provide(lambda: self.client, sync_to_thread=False)
        app_config.on_shutdown.append(self.aclose)  # runs after every lifespan, so after the streams' drain
        return app_config

    async def aclose(self) -> None:
        """Closes what this event loop holds, for at most 2 seconds if Redis hangs.

        What is shared comes first, since it may have something to give back; then the client.

        Who still calls afterwards is served by new connections, so that a cleanup which comes late loses no item. They
        are closed by another call of this, or with the process.
        """
        try:
            state = self._states.get(asyncio.get_running_loop())
        except RuntimeError:  # on trio, where nothing can have been opened
            return
        if state is None:
            return
        try:
            with anyio.move_on_after(_CLOSE_TIMEOUT):
                async with anyio.create_task_group() as tasks:
                    for shared in tuple(state.shared.values()):
                        tasks.start_soon(shared.aclose)
                self._let_go(state)  # it takes no more commands, but new connections will
                await state.commands.aclose()
        finally:
            self._let_go(state)
            state.commands.abort()
            if self._closes_client:
                await state.client.aclose()

    def _let_go(self, state: LoopState) -> None:
        if self._states.get(state.loop) is state:
            del self._states[state.loop]

    def loop_state(self) -> LoopState:
        """Returns what the running event loop holds, made now if there is nothing.

        Raises:
            SourceUnavailableError: Where no asyncio loop is running.
            SourceRefusedError: The function that makes a client has made something else.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError as error:
            raise SourceUnavailableError("redis-py needs a running asyncio loop; it has no support for trio") from error
        state = self._states.get(loop)
        if state is None:
            for gone in [known for known in self._states if known.is_closed()]:
                del self._states[gone]
            state = self._states[loop] = LoopState(loop, self._make(), RedisLink(self))
        return state


class LoopState:
    """What one event loop holds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: RedisClient, commands: RedisLink) -> None:
        self.loop = loop
        self.client = client
        self.commands = commands
        self.shared: dict[Hashable, Shared] = {}
        self.tallies: dict[Hashable, Tally] = {}


def check_prefix(prefix: str) -> None:
    """Raises ``InvalidFieldError`` for what can't be put in braces."""
    check_text("prefix", prefix)
    if not prefix or not prefix.isprintable() or set(prefix) & set("{}"):
        raise InvalidFieldError("prefix", f"must be a name without braces, not {prefix!r:.40}")


def _maker(redis: RedisAddress, options: dict[str, Any]) -> Callable[[], RedisClient]:
    if isinstance(redis, str):
        from_url: Any = _redis_py.Redis.from_url
        try:
            make_connection(from_url(redis, **options).connection_pool)  # connects to nothing yet
        except (ValueError, TypeError) as error:
            raise InvalidFieldError("redis", f"must be a URL, with options that redis-py has ({error})") from error
        return lambda: from_url(redis, **options)
    if isinstance(redis, (_redis_py.Redis, _redis_py.RedisCluster)):
        client = redis
        return lambda: client
    if callable(redis) and not inspect.iscoroutinefunction(redis):
        return partial(_made_by, redis)
    raise InvalidFieldError(
        "redis",
        "must be a URL, a client of redis.asyncio, or a function (no coroutine function) that makes one, not "
        f"{type(redis)}",
    )


def _made_by(make: Callable[[], RedisClient]) -> RedisClient:
    client = make()
    if not isinstance(client, (_redis_py.Redis, _redis_py.RedisCluster)):
        raise SourceRefusedError(f"redis must be a function that makes a client of redis.asyncio, not {type(client)}")
    return client
