import pytest
from live_scores import app

from litestar_safe_sse import CloseReason
from litestar_safe_sse.testing import open_websocket


@pytest.mark.anyio
async def test_a_client_that_comes_back() -> None:
    async with open_websocket(app, "/scores/ws", last_event_id="41") as stream:
        assert stream.accepted
        event = await stream.next(timeout=5)
        assert (event.type, event.id, event.json()["goals"]) == ("score", "42", 42)
        await stream.shutdown()
        assert stream.close_code == 1001
        assert stream.close_reason is CloseReason.SHUTDOWN


@pytest.mark.anyio
async def test_another_sites_page() -> None:
    async with open_websocket(app, "/scores/ws", headers={"Origin": "https://example.org"}) as stream:
        assert stream.status == 403
