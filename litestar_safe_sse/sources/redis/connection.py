"""One Redis client per process and event loop, and the connections that sources keep for themselves.

The sources do not borrow from the client's pool. Each command of theirs runs in the task of a ``RedisLink``, which
reads the reply to its end whatever becomes of the one who asked: so no connection is ever left in the middle of a
reply, no command is sent twice, and thousands of streams that leave at once share one connection to say so.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import anyio
from litestar.di import Provide
from litestar.exceptions import ImproperlyConfiguredException
from litestar.plugins import InitPlugin

from litestar_safe_sse.config import check_text
from litestar_safe_sse.exceptions import (
    InvalidFieldError,
    MissingExtraError,
    SourceRefusedError,
    SourceUnavailableError,
)

try:
    import redis.exceptions as redis_errors
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError:  # said when a source is made, not when this is imported
    if TYPE_CHECKING:
        raise
    HAS_REDIS = False
else:
    HAS_REDIS = True

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence

    from litestar.config.app import AppConfig

    Command = tuple[str | bytes | float, ...]
    RedisClient = Redis | RedisCluster
    RedisSource = str | RedisClient | Callable[[], RedisClient]

__all__ = ("Backoff", "RedisConnection", "RedisLink", "RedisPlugin", "code_of", "spawn")

T = TypeVar("T", bound="Hub")

PATIENCE = 5.0
"""Seconds that Redis has to accept a connection or to answer, beyond those that a command itself waits."""

_LAST_WORDS = 2.0
"""Seconds that Redis has when the application shuts down."""

_BATCH = 256
"""Commands that are sent before the first reply is read."""

_PASSING = {"LOADING", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "MISCONF", "MOVED", "ASK", "NOREPLICAS", "OOM", "TRYAGAIN"}
"""Error codes of a Redis that is expected to answer differently later: https://redis.io/docs/latest/commands/"""


class Hub(Protocol):
    """What the sources of one event loop share: a reader and those who wait for what it reads."""

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
        InvalidFieldError: An argument won't do.
    """

    def __init__(
        self,
        redis: RedisSource = "redis://localhost:6379/0",
        *,
        prefix: str = "sse",
        dependency_key: str = "redis",
        **options: Any,
    ) -> None:
        if not HAS_REDIS:
            raise MissingExtraError("sources on Redis need redis-py: pip install 'litestar-safe-sse[redis]'")
        check_text("prefix", prefix)
        if not prefix or not prefix.isprintable() or set(prefix) & set("{}"):
            raise InvalidFieldError("prefix", f"{prefix!r:.40} won't do; give a name without braces")
        if options and not isinstance(redis, str):
            raise InvalidFieldError("redis", "options go with a URL; a client has its own")
        self.prefix = prefix
        self.dependency_key = dependency_key
        self._make = _maker(redis, options)
        self._closes_client = not isinstance(redis, (Redis, RedisCluster))
        self._here: dict[asyncio.AbstractEventLoop, LoopState] = {}

    @classmethod
    def of(cls, redis: RedisPlugin | RedisSource) -> RedisPlugin:
        """Returns a plugin as it is, and makes one of anything else that a plugin can be made of."""
        return redis if isinstance(redis, RedisPlugin) else cls(redis)

    @property
    def client(self) -> RedisClient:
        """The client of the running event loop, made now if there is none.

        Raises:
            SourceUnavailableError: Where no asyncio loop is running; redis-py has no support for trio.
        """
        return self.here().client

    def key(self, *parts: str) -> str:
        """The name of a key: ``{sse}:log:news``."""
        return ":".join((f"{{{self.prefix}}}", *parts))

    async def execute(self, *command: str | bytes | float) -> Any:
        """Sends a command at most once, on the connection that all sources of this event loop share.

        A caller that is cancelled does not take the command back.

        Args:
            *command: The command and its arguments, which should not make Redis wait.

        Returns:
            The reply as it comes by RESP2, undecoded.

        Raises:
            SourceUnavailableError: Redis can't be reached; the command may have been carried out all the same.
            SourceRefusedError: Redis answered with an error.
        """
        return await self.submit(*command)

    def submit(self, *command: str | bytes | float) -> asyncio.Future[Any]:
        """Sends a command as :meth:`execute` does, at once and in the order of the calls; need not be awaited."""
        return self.here().commands.submit(*command)

    async def transact(self, *commands: Command) -> list[Any]:
        """Sends commands that are carried out together or not at all (``MULTI`` and ``EXEC``).

        Returns:
            Their replies.

        Raises:
            SourceUnavailableError: As :meth:`execute` does.
            SourceRefusedError: Redis answered one of them with an error; the others may have been carried out.
        """
        replies = await self.here().commands.submit_all([("MULTI",), *commands, ("EXEC",)])
        for reply in replies:
            if isinstance(reply, redis_errors.RedisError):
                raise translate(reply) from reply
        return replies  # type: ignore[no-any-return]

    def link(self) -> RedisLink:
        """A connection of its own for a source that has Redis wait; the source has to close it."""
        return RedisLink(self)

    async def connect(self) -> RedisConnection:
        """Opens a connection outside of the pool, without retries or a limit to how long a reply may take.

        Raises:
            SourceUnavailableError: Redis can't be reached.
            SourceRefusedError: It doesn't let us in.
        """
        connection: Any = None
        try:
            with anyio.fail_after(PATIENCE):
                connection = await _new_connection(self.client, self.key())
                await connection.connect()
        except BaseException as error:
            if connection is not None:
                await connection.disconnect(nowait=True)
            if isinstance(error, (redis_errors.RedisError, OSError)):
                raise translate(error) from error
            raise
        return RedisConnection(connection)

    def hub(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is shared in this event loop under a key, made now if there is nothing; closed with the plugin."""
        hubs = self.here().hubs
        if key not in hubs:
            hubs[key] = make()
        return hubs[key]  # type: ignore[return-value]

    def forget(self, key: Hashable, hub: Hub) -> None:
        """Ends the sharing of a hub that nobody uses any more."""
        here = self._here.get(asyncio.get_running_loop())
        if here is not None and here.hubs.get(key) is hub:
            del here.hubs[key]

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
        """Closes what this event loop holds: hubs first, which may have something to give back, the client last.

        It waits for a Redis that hangs, but for no more than 2 seconds.
        """
        here = self._here.get(asyncio.get_running_loop())
        if here is None:
            return
        try:
            with anyio.move_on_after(_LAST_WORDS):
                async with anyio.create_task_group() as hubs:
                    for hub in tuple(here.hubs.values()):
                        hubs.start_soon(hub.aclose)
                await here.commands.aclose()
        finally:
            here.commands.abort()
            self._here.pop(here.loop, None)
            if self._closes_client:
                await here.client.aclose()

    def here(self) -> LoopState:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError as error:
            raise SourceUnavailableError("redis-py needs a running asyncio loop; it has no support for trio") from error
        here = self._here.get(loop)
        if here is None:
            for gone in [known for known in self._here if known.is_closed()]:
                del self._here[gone]
            here = self._here[loop] = LoopState(loop, self._make(), RedisLink(self))
        return here


class LoopState:
    """What one event loop holds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: RedisClient, commands: RedisLink) -> None:
        self.loop = loop
        self.client = client
        self.commands = commands
        self.hubs: dict[Hashable, Hub] = {}


class RedisConnection:
    """A connection outside of the pool, which speaks RESP2 and does not decode.

    One task may send while another one receives.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def is_gone(self) -> bool:
        """Whether the other side is known to have closed it."""
        reader = getattr(self._connection, "_reader", None)  # redis-py 5 can't be asked by anything public
        return reader is None or bool(reader.at_eof())

    async def send(self, commands: Iterable[Command]) -> None:
        """Sends commands; their replies have to be received in the same order."""
        try:
            packed = self._connection.pack_commands(commands)
            await self._connection.send_packed_command(packed, check_health=False)
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error

    async def receive(self) -> Any:
        """Waits for one reply.

        Raises:
            SourceUnavailableError: The connection is lost, or Redis asks to come back later.
            SourceRefusedError: The reply is any other error; the connection can be used on.
        """
        try:
            return await self._connection.read_response(disable_decoding=True)
        except (redis_errors.RedisError, OSError) as error:
            raise translate(error) from error

    async def aclose(self) -> None:
        await self._connection.disconnect(nowait=True)


class _Call(NamedTuple):
    commands: Sequence[Command]
    reply: asyncio.Future[Any]
    patience: float


class RedisLink:
    """Commands on one connection, opened when it is needed, by a task that lives while there is something to do.

    Args:
        plugin: Where connections come from.
    """

    def __init__(self, plugin: RedisPlugin) -> None:
        self._plugin = plugin
        self._connection: RedisConnection | None = None
        self._client_id: int | None = None
        self._calls: deque[_Call] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def submit(self, *command: str | bytes | float, wait: float = 0.0) -> asyncio.Future[Any]:
        """Sends a command at most once, in the order of the calls.

        Args:
            *command: The command and its arguments.
            wait: Seconds that the command has Redis wait.

        Returns:
            The future of its reply. To cancel it is to ignore the reply.
        """
        return self.submit_all([command], wait=wait)

    def submit_all(self, commands: Sequence[Command], *, wait: float = 0.0) -> asyncio.Future[Any]:
        """Sends commands one after the other, with no other in between.

        Returns:
            The future of the last one's reply; if an earlier one is refused, that is what it raises.
        """
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        reply.add_done_callback(_notice)
        if self._closed:
            reply.set_exception(SourceUnavailableError("the connection to Redis has been closed"))
            return reply
        self._calls.append(_Call(commands, reply, wait + PATIENCE))
        if self._task is None:
            self._task = spawn(self._work(), "SSE commands to Redis")
        return reply

    async def interrupt(self) -> None:
        """Has the command that makes Redis wait answered now, as if its time was up (``CLIENT UNBLOCK``)."""
        while self._task is not None and self._client_id is not None:
            try:
                # 0: it has not reached Redis yet, or its reply is on its way already.
                if await self._plugin.execute("CLIENT", "UNBLOCK", self._client_id):
                    return
            except (SourceUnavailableError, SourceRefusedError):
                return  # it will be answered when its time is up

    async def aclose(self) -> None:
        """Waits for the replies that are still to come, then closes the connection."""
        self._closed = True
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._drop()

    def abort(self) -> None:
        """Closes the connection without waiting for replies."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    async def _work(self) -> None:
        try:
            while self._calls:
                batch = [self._calls.popleft() for _ in range(min(len(self._calls), _BATCH))]
                try:
                    await self._carry_out(batch)
                except (SourceUnavailableError, SourceRefusedError) as error:
                    await self._drop()
                    self._fail(batch, error)
                except BaseException as error:
                    await self._drop()
                    self._fail([*batch, *self._calls], error)
                    self._calls.clear()
                    raise
        finally:
            self._task = None

    async def _carry_out(self, batch: list[_Call]) -> None:
        try:
            connection = await self._connected()
            with anyio.fail_after(PATIENCE):
                await connection.send([command for call in batch for command in call.commands])
            for call in batch:
                with anyio.fail_after(call.patience):
                    await self._answer(call, connection)
        except TimeoutError as error:
            raise SourceUnavailableError("Redis does not answer; is it overloaded, or the network gone?") from error

    async def _answer(self, call: _Call, connection: RedisConnection) -> None:
        reply: Any = None
        refusal: SourceRefusedError | None = None
        for _ in call.commands:
            try:
                reply = await connection.receive()
            except SourceRefusedError as error:
                refusal = refusal or error
        if refusal is not None:
            self._fail([call], refusal)
        elif not call.reply.done():
            call.reply.set_result(reply)

    async def _connected(self) -> RedisConnection:
        if self._connection is not None and self._connection.is_gone:
            await self._drop()
        if self._connection is None:
            connection = await self._plugin.connect()
            self._connection = connection
            self._client_id = None
            with anyio.fail_after(PATIENCE):
                await connection.send([("CLIENT", "ID")])
                try:
                    self._client_id = await connection.receive()
                except SourceRefusedError:  # no permission: what waits can't be interrupted then
                    self._client_id = None
        return self._connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    def _fail(self, calls: Iterable[_Call], error: BaseException) -> None:
        for call in calls:
            if call.reply.done():
                continue
            if isinstance(error, (SourceUnavailableError, SourceRefusedError)):
                failure: Exception = type(error)(*error.args)  # one for each: a traceback has one home
                failure.__cause__ = error.__cause__
            else:
                failure = SourceUnavailableError("the connection to Redis was closed with the event loop")
            call.reply.set_exception(failure)


class Backoff:
    """Ever longer pauses between attempts, random so that processes don't come back all at once.

    Args:
        first: Seconds of the first pause, at most.
        longest: Seconds of any pause, at most.
    """

    def __init__(self, first: float = 0.05, longest: float = 2.0) -> None:
        self._first = first
        self._longest = longest
        self._failures = 0

    def reset(self) -> None:
        """An attempt has succeeded."""
        self._failures = 0

    async def wait(self, until: asyncio.Event | None = None) -> None:
        """Pauses, but no longer than until an event is set."""
        self._failures += 1
        pause = min(self._longest, self._first * 2 ** min(self._failures - 1, 16)) * random.uniform(0.5, 1.0)
        with anyio.move_on_after(pause):
            await (until or asyncio.Event()).wait()


def spawn(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Starts a task that belongs to nobody's context: it may outlive the stream that needed it first."""
    loop = asyncio.get_running_loop()
    return contextvars.Context().run(lambda: loop.create_task(work, name=name))


def translate(error: Exception) -> SourceUnavailableError | SourceRefusedError:
    """The error of ours for one of redis-py's."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, (redis_errors.AuthenticationError, redis_errors.AuthorizationError)):
        return SourceRefusedError(f"Redis refuses the connection ({text}); check its user name and password")
    if isinstance(error, redis_errors.ResponseError):
        passing = isinstance(error, (redis_errors.ReadOnlyError, redis_errors.MovedError, redis_errors.AskError))
        if not passing and str(error).partition(" ")[0] not in _PASSING:
            return SourceRefusedError(f"Redis refuses a command ({text}); check the key's type and the permissions")
    elif isinstance(error, redis_errors.DataError):
        return SourceRefusedError(f"redis-py can't send a command ({text})")
    return SourceUnavailableError(f"Redis can't be reached ({text}); check its address, and whether it is up")


def code_of(error: SourceRefusedError) -> str:
    """The code that Redis's error begins with, such as ``NOGROUP``; empty if it has none."""
    return str(error.__cause__ or "").partition(" ")[0]


def _maker(redis: RedisSource, options: dict[str, Any]) -> Callable[[], RedisClient]:
    if isinstance(redis, str):
        from_url: Any = Redis.from_url
        try:
            from_url(redis, **options)  # connects to nothing yet
        except (ValueError, TypeError) as error:
            raise InvalidFieldError("redis", f"{error}; give a URL as redis-py takes it") from error
        return lambda: from_url(redis, **options)
    if isinstance(redis, (Redis, RedisCluster)):
        client = redis
        return lambda: client
    if callable(redis):
        return redis
    raise InvalidFieldError("redis", f"{type(redis).__name__} won't do; give a URL, a client of redis.asyncio, or one")


async def _new_connection(client: Any, key: str) -> Any:
    """A connection made as the client makes its own, but of RESP2 and without retries; to the node that has the key."""
    if isinstance(client, RedisCluster):
        await client.initialize()
        await client.nodes_manager.initialize()  # after a failure the slots may have moved
        home: Any = client.get_node_from_key(key)
    else:
        home = client.connection_pool
    # Maintenance notifications want RESP3.
    ours = {name: value for name, value in home.connection_kwargs.items() if not name.startswith(_OF_RESP3)}
    connection: Any = home.connection_class(**{**ours, "protocol": 2})
    connection.retry = Retry(NoBackoff(), 0)
    connection.socket_timeout = None
    return connection


_OF_RESP3 = ("maint", "orig_", "oss_cluster")


def _notice(reply: asyncio.Future[Any]) -> None:
    """Looks at a failure that nobody may be waiting for any more."""
    if not reply.cancelled():
        reply.exception()
