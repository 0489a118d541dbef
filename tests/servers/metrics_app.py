"""An application of several workers whose streams are measured for Prometheus."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import anyio
from litestar import Litestar, get
from litestar.plugins.prometheus import PrometheusController

from litestar_safe_sse import SafeServerSentEvent, SafeSSEConfig, SafeSSEPlugin
from litestar_safe_sse.metrics import PrometheusMetrics

plugin = SafeSSEPlugin(SafeSSEConfig(ping_interval=0.2))
plugin.streams.observe(PrometheusMetrics())


@get("/endless")
async def endless() -> SafeServerSentEvent:
    async def body() -> AsyncIterator[int]:
        yield os.getpid()
        await anyio.sleep_forever()

    return SafeServerSentEvent(body())


@get("/short")
async def short() -> SafeServerSentEvent:
    return SafeServerSentEvent("short")


app = Litestar([endless, short, PrometheusController], plugins=[plugin], openapi_config=None)
