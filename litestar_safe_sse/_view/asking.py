"""What ``litestar sse streams`` asks a view."""

from __future__ import annotations

import anyio
import httpx
import msgspec

from litestar_safe_sse._doctor.deployment import TIMEOUT, ask, check_url, trust
from litestar_safe_sse._doctor.errors import CannotTellError, explain_failure
from litestar_safe_sse._view.records import Snapshot

__all__ = ("ask_streams",)

PATH = "/_sse/streams"
TIMES = 16
"""Connections by which the processes behind one address are looked for."""


async def ask_streams(url: str, headers: dict[str, str], authorities: str | None) -> list[Snapshot]:
    """Returns the streams of each process that was met.

    Args:
        url: That of the view, or of the root of the application.
        headers: What the view's guards want.
        authorities: A file of certificates to trust, or ``None`` for the system's.

    Raises:
        CannotTellError: The view doesn't answer; the message says what to do.
    """
    parsed = check_url(url)
    at = str(parsed).rstrip("/") if parsed.path.rstrip("/") else f"{str(parsed).rstrip('/')}{PATH}"
    found: dict[int, Snapshot] = {}
    failures: list[CannotTellError] = []

    async def meet() -> None:
        try:
            snapshot = await fetch(client, at)
            found[snapshot.process] = snapshot
        except CannotTellError as error:
            failures.append(error)

    headers = {"Connection": "close", **headers}
    async with (
        httpx.AsyncClient(verify=trust(authorities), headers=headers, timeout=TIMEOUT, trust_env=False) as client,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(TIMES):
            tasks.start_soon(meet)
    if failures and not found:
        raise failures[0]
    return [found[process] for process in sorted(found)]


async def fetch(client: httpx.AsyncClient, url: str) -> Snapshot:
    """Returns what the process that answers knows."""
    try:
        response = await ask(client, url, TIMEOUT)
    except (httpx.HTTPError, OSError) as error:
        raise explain_failure(url, error) from error
    if response.status_code in (401, 403):
        raise CannotTellError(f"{url}: its guards refuse ({response.status_code}); give what they want by --header")
    try:
        return msgspec.json.decode(response.content, type=Snapshot)
    except msgspec.DecodeError as error:
        raise CannotTellError(
            f"{url}: answers {response.status_code}, and is no view of streams; give the URL of one, which "
            "SafeSSEPlugin(view=StreamsView(...)) makes"
        ) from error
