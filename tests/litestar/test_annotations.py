"""Annotations of handlers, which Litestar looks up in the handlers' own modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from litestar_safe_sse import CloseReason
from tests.litestar.apps import closed, make_app, serving
from tests.litestar.bodies import Trace
from tests.litestar.clients import get as request
from tests.litestar.clients import lifespan

pytestmark = pytest.mark.anyio

POSTPONED = """
from __future__ import annotations

from typing import TYPE_CHECKING

from litestar import get

import litestar_safe_sse

if TYPE_CHECKING:
    from litestar_safe_sse import SafeServerSentEvent, StreamContext


@get("/")
async def handler(stream: StreamContext) -> SafeServerSentEvent:
    return litestar_safe_sse.SafeServerSentEvent([stream.id])
"""


@contextmanager
def module(source: str) -> Iterator[Any]:
    """A module of its own, as annotations are looked up in the module of their function."""
    spec = importlib.util.spec_from_loader("postponed_annotations", loader=None)
    assert spec is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[made.__name__] = made
    try:
        exec(compile(source, made.__name__, "exec", dont_inherit=True), made.__dict__)
        yield made
    finally:
        del sys.modules[made.__name__]


async def test_annotations_imported_for_type_checking_only() -> None:
    """A handler's module may import the names it is annotated with under ``TYPE_CHECKING`` only."""
    with module(POSTPONED) as made:
        async with serving(made.handler) as (app, streams):
            response = await request(app)
            assert response.body.startswith(b"data: ")
            assert closed(streams) == {CloseReason.COMPLETED: 1}


async def test_context_imported_from_its_own_module(trace: Trace) -> None:
    """The class itself works as an annotation, also where Litestar wants dependencies to be marked."""
    source = POSTPONED.replace(
        "    from litestar_safe_sse import SafeServerSentEvent, StreamContext",
        "    from litestar_safe_sse import SafeServerSentEvent\nfrom litestar_safe_sse.context import StreamContext",
    )
    with module(source) as made:
        try:
            app, streams = make_app(made.handler)
        except Warning:
            return  # Litestar asks for NamedDependency[StreamContext]
        async with lifespan(app):
            await request(app)
        assert closed(streams) == {CloseReason.COMPLETED: 1}
