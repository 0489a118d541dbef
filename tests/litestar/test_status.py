"""The status of a stream: 200, on any other of which an ``EventSource`` gives up for good (WHATWG HTML, 9.2.3)."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import Litestar, Response, get, post, put, route

from litestar_safe_sse import SafeServerSentEvent, SafeSSEPlugin
from tests.litestar.apps import PLAIN, serving
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


def stream() -> SafeServerSentEvent:
    return SafeServerSentEvent(["x"])


async def annotated() -> SafeServerSentEvent:
    return stream()


async def unannotated() -> Response[Any]:
    return stream()


@pytest.mark.parametrize("handler", [annotated, unannotated])
@pytest.mark.parametrize(
    ("decorator", "methods"),
    [
        (get, ["GET"]),
        (post, ["POST"]),
        (put, ["PUT"]),
        (lambda path: route(path, http_method=["GET", "HEAD", "POST"]), ["GET", "HEAD", "POST"]),
        (lambda path: route(path, http_method=["POST", "PUT", "DELETE"]), ["POST", "PUT", "DELETE"]),
    ],
    ids=["get", "post", "put", "get+post", "post+delete"],
)
async def test_a_stream_is_answered_200(handler: Any, decorator: Any, methods: list[str]) -> None:
    """A stream is answered 200 whatever its method, where Litestar's default for POST is 201."""
    async with serving(decorator("/")(handler)) as (app, _):
        for method in methods:
            assert (await request(app, method=method)).status == 200


@pytest.mark.parametrize(
    ("method", "status"), [("POST", 202), ("GET", 203), ("GET", 201), ("PUT", 201), ("DELETE", 202), ("POST", 503)]
)
@pytest.mark.parametrize("handler", [annotated, unannotated])
async def test_status_of_the_decorator(handler: Any, method: Any, status: int) -> None:
    """A status that the decorator asks for is sent."""
    async with serving(route("/", http_method=[method], status_code=status)(handler)) as (app, _):
        assert (await request(app, method=method)).status == status


@pytest.mark.parametrize("status", [200, 201, 202, 503])
async def test_status_of_the_response(status: int) -> None:
    """A status that the response asks for goes before any other, 201 included."""

    @post("/", status_code=203)
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"], status_code=status)

    async with serving(handler) as (app, _):
        assert (await request(app, method="POST")).status == status


async def test_plain_responses_keep_their_status() -> None:
    """Other handlers are left alone."""

    @post("/")
    async def handler() -> str:
        return "made"

    async with serving(handler) as (app, _):
        assert (await request(app, method="POST")).status == 201


def test_status_in_the_schema() -> None:
    """The OpenAPI schema tells the status that is sent."""

    @post("/post")
    async def posted() -> SafeServerSentEvent:
        return stream()

    @post("/handler", status_code=202)
    async def of_handler() -> SafeServerSentEvent:
        return stream()

    options = {name: value for name, value in PLAIN.items() if name != "openapi_config"}
    app = Litestar([posted, of_handler], plugins=[SafeSSEPlugin()], **options)
    paths = app.openapi_schema.to_schema()["paths"]
    assert "200" in paths["/post"]["post"]["responses"]
    assert "201" not in paths["/post"]["post"]["responses"]
    assert "202" in paths["/handler"]["post"]["responses"]
