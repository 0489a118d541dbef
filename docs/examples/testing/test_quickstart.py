import pytest
from quickstart import app

from litestar_safe_sse import CloseReason
from litestar_safe_sse.testing import open_stream, open_stream_sync


@pytest.mark.anyio
async def test_a_client_that_leaves() -> None:
    async with open_stream(app, "GET", "/readings", last_event_id="5") as stream:
        assert stream.status == 200
        event = await stream.next(timeout=5)
        assert event.data
        await stream.disconnect()
        assert stream.close_reason is CloseReason.CLIENT_DISCONNECTED
        assert stream.cleanups == []


def test_a_shutdown() -> None:
    with open_stream_sync(app, "GET", "/readings") as stream:
        stream.next()
        stream.shutdown()
        assert stream.close_reason is CloseReason.SHUTDOWN
        assert stream.complete
