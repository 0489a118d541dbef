"""Headers, cookies and the status: from every layer, the nearest one wins."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import get
from litestar.datastructures import CacheControlHeader, Cookie, ResponseHeader

from litestar_safe_sse import SafeServerSentEvent
from tests.litestar.apps import serving
from tests.litestar.clients import get as request

pytestmark = pytest.mark.anyio


async def test_headers_of_each_layer() -> None:
    """Headers come from the response, the handler and the application; the nearest layer wins."""

    @get("/", response_headers=[ResponseHeader(name="X-Handler", value="handler")])
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"], headers={"X-Response": "response", "X-Handler": "response"})

    async with serving(handler, response_headers={"X-App": "app", "X-Response": "app"}) as (app, _):
        response = await request(app)
        assert response.header_values("x-app") == ["app"]
        assert response.header_values("x-handler") == ["response"]
        assert response.header_values("x-response") == ["response"]


@pytest.mark.parametrize("name", ["Cache-Control", "cache-control", "CACHE-CONTROL"])
async def test_header_of_the_response_replaces_the_default(name: str) -> None:
    """A header that the response is given replaces ours, however it is spelt."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"], headers={name: "private", "x-accel-buffering": "yes"})

    async with serving(handler) as (app, _):
        response = await request(app)
        assert response.header_values("cache-control") == ["private"]
        assert response.header_values("x-accel-buffering") == ["yes"]


@pytest.mark.parametrize(
    "option",
    [
        {"response_headers": {"Cache-Control": "no-store"}},
        {"response_headers": [ResponseHeader(name="cache-control", value="no-store")]},
        {"cache_control": CacheControlHeader(no_store=True)},
    ],
)
@pytest.mark.parametrize("layer", ["app", "handler"])
async def test_header_of_a_layer_replaces_the_default(option: dict[str, Any], layer: str) -> None:
    """A header that a handler or the application is given replaces ours."""

    @get("/", **(option if layer == "handler" else {}))
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    async with serving(handler, **(option if layer == "app" else {})) as (app, _):
        response = await request(app)
        assert response.header_values("cache-control") == ["no-store"]


async def test_header_set_by_set_header() -> None:
    """A header set on the response after it was made is sent once."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        response = SafeServerSentEvent(["x"])
        response.set_header("Cache-Control", "private")
        response.set_etag('"1"')
        return response

    async with serving(handler) as (app, _):
        response = await request(app)
        assert response.header_values("cache-control") == ["private"]
        assert response.header_values("etag") == ['"1"']


async def test_cookies_of_each_layer() -> None:
    """Cookies come from the response, the handler and the application."""

    @get("/", response_cookies=[Cookie(key="handler", value="1"), Cookie(key="both", value="handler")])
    async def handler() -> SafeServerSentEvent:
        response = SafeServerSentEvent(["x"], cookies={"response": "2"})
        response.set_cookie("both", "response")
        response.delete_cookie("old")
        return response

    async with serving(handler, response_cookies={"app": "3"}) as (app, _):
        response = await request(app)
        cookies = [value.partition(";")[0] for value in response.header_values("set-cookie")]
        assert {"handler=1", "response=2", "app=3"} < set(cookies)
        assert next(cookie for cookie in cookies if cookie.startswith("both=")) == "both=response"
        assert any(cookie.startswith("old=") for cookie in cookies)


async def test_cookies_may_be_a_list() -> None:
    """The response takes a list of ``Cookie`` objects, too."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"], cookies=[Cookie(key="a", value="1", httponly=True)])

    async with serving(handler) as (app, _):
        response = await request(app)
        (cookie,) = response.header_values("set-cookie")
        assert cookie.startswith("a=1")
        assert "HttpOnly" in cookie


async def test_encoding_is_announced_as_it_is() -> None:
    """Whatever the encoding of the headers, the events are announced as the UTF-8 that they are."""

    @get("/")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["é€"], encoding="latin-1")

    async with serving(handler) as (app, _):
        response = await request(app)
        assert response.body.decode() == "data: é€\r\n\r\n"
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_media_type_of_the_handler_is_overruled() -> None:
    """A handler's ``media_type`` does not make a stream something else."""

    @get("/", media_type="text/plain")
    async def handler() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    async with serving(handler) as (app, _):
        assert (await request(app)).headers["content-type"].startswith("text/event-stream")
