"""A deployment as its clients reach it."""

from __future__ import annotations

import secrets
import ssl
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import msgspec

from litestar_safe_sse._doctor.contract import PATH, SECRET_HEADER, Seen, VisitReport
from litestar_safe_sse._doctor.errors import CannotTellError, explain_failure, explain_status
from litestar_safe_sse._doctor.reading import Reading

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

__all__ = ("TIMEOUT", "Deployment", "ask", "check_url", "root_of", "trust")

MAX_AT_ONCE = 16
"""Connections by which the process is looked for that knows a stream."""

TIMEOUT = 10.0
"""Seconds until an answer has to be there."""

MAX_ANSWER = 32 * 1024 * 1024
"""Bytes of an answer that are read."""

POLL = 0.1
"""Seconds between two questions for what a body has seen."""


def root_of(url: str) -> str:
    """Returns the URL of an application's root, given that or the route's.

    Raises:
        CannotTellError: It is no URL that can be asked.
    """
    parsed = check_url(url)
    path = parsed.path.rstrip("/").removesuffix(PATH)
    return str(parsed.copy_with(path=path, query=None, fragment=None)).rstrip("/")


def check_url(url: str) -> httpx.URL:
    """Returns a URL that can be asked.

    Raises:
        CannotTellError: It is none.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        parsed = httpx.URL("")
    port = 80 if parsed.port is None else parsed.port
    if parsed.scheme not in ("http", "https") or not parsed.host or "%" in parsed.host or not 0 < port < 65536:
        raise CannotTellError(f"{url!r} is no URL of a deployment; give one such as https://example.org/api")
    return parsed


async def ask(client: httpx.AsyncClient, url: str, timeout: float, **options: Any) -> httpx.Response:
    """Asks for something that has an end, and returns the answer, or the beginning of one that may have none.

    Args:
        client: Whose connections are used.
        url: What to ask.
        timeout: Seconds until all of it has to be there.
        **options: Of httpx.

    Raises:
        HTTPError: There is no answer.
        TimeoutError: It has not come in time.
    """
    content = bytearray()
    with anyio.fail_after(timeout):  # that of httpx is for each part
        async with client.stream("GET", url, timeout=timeout, **options) as response:
            is_stream = response.headers.get("Content-Type", "").startswith("text/event-stream")
            async for part in response.aiter_bytes():
                content += part
                if is_stream or len(content) > MAX_ANSWER:
                    break
    headers = [(name, value) for name, value in response.headers.raw if name.lower() != b"content-encoding"]
    return httpx.Response(response.status_code, headers=headers, content=bytes(content), request=response.request)


class Deployment:
    """A deployment as its clients reach it.

    Args:
        url: That of the application's root.
        secret: What the route wants to be told.
        headers: What else requests have to say.
        authorities: A file of certificates to trust, or ``None`` for the system's.
    """

    def __init__(
        self, url: str, secret: str, *, headers: Mapping[str, str] | None = None, authorities: str | None = None
    ) -> None:
        self.url = root_of(url)
        self._headers = {"User-Agent": "litestar-sse-doctor", **(headers or {}), SECRET_HEADER: secret}
        self._trust = trust(authorities)

    @asynccontextmanager
    async def client(self, *, http2: bool = True) -> AsyncIterator[httpx.AsyncClient]:
        """Makes a client, with connections of its own."""
        async with httpx.AsyncClient(
            headers=self._headers,
            http2=http2 and has_http2(),
            verify=self._trust,
            timeout=httpx.Timeout(None, connect=10),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        ) as client:
            yield client

    async def greet(self) -> Seen:
        """Asks what the application sees of a request.

        Raises:
            CannotTellError: The route doesn't answer; the message says what to do.
        """
        try:
            async with self.client() as client:
                response = await ask(client, f"{self.url}{PATH}", TIMEOUT)
        except (httpx.HTTPError, OSError) as error:
            raise explain_failure(self.url, error) from error
        with suppress(msgspec.DecodeError):
            if response.status_code == 200:
                return msgspec.json.decode(response.content, type=Seen)
        raise explain_status(self.url, response)

    @asynccontextmanager
    async def stream(
        self,
        plan: str,
        *,
        accept_encoding: str = "gzip",
        last_event_id: str | None = None,
        client: httpx.AsyncClient | None = None,
        **options: Any,
    ) -> AsyncIterator[Reading]:
        """Opens a stream, on a connection of its own unless told, and leaves it with the block.

        Args:
            plan: What it sends.
            accept_encoding: Which compression is offered.
            last_event_id: What is to be resumed after.
            client: Whose connections are used.
            options: More of the plan.
        """
        key = secrets.token_hex(8)
        params = {"key": key, "plan": plan, **options}
        headers = {"Accept": "text/event-stream", "Accept-Encoding": accept_encoding}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        if client is None:
            async with self.client() as own, self._opened(own, key, headers, params) as reading:
                yield reading
        else:
            async with self._opened(client, key, headers, params) as reading:
                yield reading

    @asynccontextmanager
    async def _opened(
        self, client: httpx.AsyncClient, key: str, headers: dict[str, str], params: dict[str, Any]
    ) -> AsyncIterator[Reading]:
        request = client.build_request("GET", f"{self.url}{PATH}/stream", headers=headers, params=params)
        reading = Reading(key)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reading.run, client, request)
            try:
                yield reading
            finally:
                tasks.cancel_scope.cancel()

    async def outcome(self, key: str, timeout: float) -> tuple[VisitReport, float]:
        """Waits until a body has ended.

        Args:
            key: What its stream is known by.
            timeout: For how many seconds.

        Returns:
            What is known of it, and how many seconds after the call it had ended.
        """
        began = monotonic()
        found = VisitReport()
        at_once = 1
        async with self.client(http2=False) as client:
            while True:
                report = await self._ask_all(client, key, timeout, at_once)
                if report.known:
                    found = report
                else:  # other processes were asked, and a kernel may choose the same again and again
                    at_once = min(at_once * 2, MAX_AT_ONCE)
                if found.ended is not None:
                    return found, max(monotonic() - found.ended - began, 0.0)
                if monotonic() - began > timeout:
                    return found, timeout
                await anyio.sleep(POLL)

    async def _ask_all(self, client: httpx.AsyncClient, key: str, timeout: float, at_once: int) -> VisitReport:
        reports: list[VisitReport] = []

        async def ask() -> None:
            reports.append(await self._ask(client, key, timeout))

        async with anyio.create_task_group() as tasks:
            for _ in range(at_once):
                tasks.start_soon(ask)
        return next((report for report in reports if report.known), VisitReport())

    async def _ask(self, client: httpx.AsyncClient, key: str, timeout: float) -> VisitReport:
        try:
            url = f"{self.url}{PATH}/visits/{key}"
            response = await ask(client, url, timeout, headers={"Connection": "close"})
            return msgspec.json.decode(response.content, type=VisitReport)
        except (httpx.HTTPError, TimeoutError, msgspec.DecodeError):
            return VisitReport()


def trust(authorities: str | None) -> ssl.SSLContext:
    """Returns what certificates are checked by.

    Raises:
        CannotTellError: The file can't be read.
    """
    try:
        return ssl.create_default_context(cafile=authorities)
    except (OSError, ssl.SSLError) as error:
        raise CannotTellError(
            f"--cacert {authorities} can't be read ({error}); give a file of PEM certificates"
        ) from error


def has_http2() -> bool:
    """Whether the library for HTTP/2 is installed."""
    return find_spec("h2") is not None
