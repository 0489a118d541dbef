"""Annotations of handlers, which Litestar looks up in the handlers' own modules."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional
from unittest.mock import Mock

import pytest
from litestar import Litestar, get

from litestar_safe_sse import CloseReason, SafeServerSentEvent, StreamContext
from tests.litestar.apps import PLAIN, NamedDependency, closed, serving
from tests.litestar.clients import get as request

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


async def test_context_imported_from_its_own_module() -> None:
    """The class is the same wherever it is imported from."""
    source = POSTPONED.replace(
        "    from litestar_safe_sse import SafeServerSentEvent, StreamContext",
        "    from litestar_safe_sse import SafeServerSentEvent\nfrom litestar_safe_sse.context import StreamContext",
    )
    with module(source) as made:
        assert made.StreamContext is StreamContext
        async with serving(made.handler) as (app, streams):
            await request(app)
            assert closed(streams) == {CloseReason.COMPLETED: 1}


# An annotation that Litestar 2.23 or newer wants to be marked; what it advises to write is tested below.
unmarked = pytest.mark.filterwarnings("ignore:.*Inferred dependency field 'stream'")

MARKED: Any = NamedDependency
OPTIONAL: Any = Optional[StreamContext]  # noqa: UP045

ANNOTATIONS = [
    pytest.param(StreamContext, id="class"),
    pytest.param(MARKED[StreamContext], id="marked"),
    pytest.param(MARKED[OPTIONAL], id="marked optional"),
    pytest.param(MARKED[Any], id="marked any"),
    pytest.param(StreamContext | None, id="or none", marks=unmarked),
    pytest.param(OPTIONAL, id="optional", marks=unmarked),
    pytest.param(Any, id="any", marks=unmarked),
    pytest.param(object, id="object", marks=unmarked),
]


@pytest.mark.parametrize("annotation", ANNOTATIONS)
@pytest.mark.parametrize("default", [False, True])
async def test_annotations_that_allow_a_context(annotation: Any, default: bool) -> None:
    """A parameter ``stream`` may be annotated with all that a context is, with a default or without."""

    async def required(stream: Any) -> SafeServerSentEvent:
        return SafeServerSentEvent([type(stream).__name__])

    async def optional(stream: Any = None) -> SafeServerSentEvent:
        return SafeServerSentEvent([type(stream).__name__])

    handler = optional if default else required
    handler.__annotations__["stream"] = annotation
    async with serving(get("/")(handler)) as (app, _):
        assert (await request(app)).body == b"data: StreamContext\r\n\r\n"


async def test_optional_context_without_the_plugin() -> None:
    """A handler that can do without a context is given ``None`` where there is no plugin."""

    @get("/")
    async def handler(stream: NamedDependency[Optional[StreamContext]] = None) -> str:  # noqa: UP045
        return str(stream)

    assert (await request(Litestar([handler], **PLAIN))).body == b"None"


async def test_the_exported_name_is_the_class() -> None:
    """``StreamContext`` can be used wherever a class can."""
    seen: list[StreamContext] = []

    class Mine(StreamContext):
        __slots__ = ()

    @get("/")
    async def handler(stream: StreamContext) -> SafeServerSentEvent:
        seen.append(stream)
        return SafeServerSentEvent(["x"])

    async with serving(handler) as (app, _):
        await request(app)
    (stream,) = seen
    assert type(stream) is StreamContext
    assert isinstance(stream, StreamContext)
    assert isinstance(stream, StreamContext | None)
    assert not isinstance("x", StreamContext)
    assert issubclass(Mine, StreamContext)
    assert not isinstance(stream, Mine)
    assert inspect.isclass(StreamContext)
    assert isinstance(Mock(spec=StreamContext), StreamContext)
    assert copy.deepcopy(StreamContext) is pickle.loads(pickle.dumps(StreamContext)) is StreamContext
    assert {StreamContext: 1}[StreamContext] == 1
    assert StreamContext != Mine
    assert repr(StreamContext) == "<class 'litestar_safe_sse.context.StreamContext'>"
