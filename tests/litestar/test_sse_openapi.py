"""What the OpenAPI document says of streams, in its version 3.1 and 3.2."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from litestar import Litestar, Response, get, post
from litestar.dto import DataclassDTO, DTOConfig
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import OpenAPI, Operation
from msgspec import Struct
from openapi_spec_validator import OpenAPIV31SpecValidator, OpenAPIV32SpecValidator
from typing_extensions import TypedDict

from litestar_safe_sse import Event, SafeServerSentEvent, SafeSSEPlugin, SSEMessage, sse
from tests.litestar.apps import FromQuery


class Progress(Struct, tag="progress"):
    """How far it is."""

    percent: int


class Done(Struct, tag="done"):
    pass


class Row(TypedDict):
    id: int


@dataclass
class User:
    name: str
    password: str


class PublicUser(DataclassDTO[User]):
    config = DTOConfig(exclude={"password"})


class Config32(OpenAPIConfig):
    """Makes a document of the version that describes the items of a stream."""

    def to_openapi_schema(self) -> OpenAPI:
        document = super().to_openapi_schema()
        document.openapi = "3.2.0"
        return document


CONFIGS = {"3.1": OpenAPIConfig, "3.2": Config32}
VALIDATORS = {"3.1": OpenAPIV31SpecValidator, "3.2": OpenAPIV32SpecValidator}


def document(*handlers: Any, version: str = "3.1") -> dict[str, Any]:
    """The document of an application, which is a valid one."""
    config = CONFIGS[version](title="Streams", version="1")
    app = Litestar(handlers, plugins=[SafeSSEPlugin()], openapi_config=config, debug=True)
    schema = app.openapi_schema.to_schema()
    VALIDATORS[version](schema).validate()
    return schema


def content(schema: dict[str, Any], path: str = "/", method: str = "get", status: str = "200") -> Any:
    found = schema["paths"][path][method]["responses"][status]["content"]
    assert list(found) == ["text/event-stream"]
    return found["text/event-stream"]


@sse("/")
async def job() -> AsyncIterator[Progress | Annotated[Row, Event("row")] | Done | str]:
    """Tells of a job."""
    yield Done()


ITEM = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "data": {"type": "string"},
        "event": {"type": "string"},
        "id": {"type": "string"},
        "retry": {"type": "integer", "minimum": 0},
    },
}


def named(name: str, schema: str) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{schema}", "description": f"The data of events of the type `{name}`."}
    return {
        "properties": {
            "event": {"const": name},
            "data": {"contentMediaType": "application/json", "contentSchema": reference},
        },
        "required": ["event"],
    }


TYPED_ITEM = {
    **ITEM,
    "oneOf": [
        named("progress", "Progress"),
        named("row", "Row"),
        named("done", "Done"),
        {"properties": {"event": {"const": "message"}, "data": {}}},
    ],
}


def test_version_3_2_describes_each_event() -> None:
    """By ``itemSchema``, as its section on event streams does: the type, and what the data holds."""
    schema = document(job, version="3.2")
    assert schema["openapi"] == "3.2.0"
    assert content(schema) == {"itemSchema": TYPED_ITEM}


def test_version_3_1_has_the_schema_of_the_data_of_all_events() -> None:
    """Which is what a generated client reads; the events are told apart by what stands beside it."""
    schema = document(job)
    found = content(schema)
    assert found["x-itemSchema"] == TYPED_ITEM
    assert [branch.get("$ref", branch.get("type")) for branch in found["schema"]["oneOf"]] == [
        "#/components/schemas/Progress",
        "#/components/schemas/Row",
        "#/components/schemas/Done",
        "string",
    ]
    assert schema["components"]["schemas"]["Progress"]["properties"]["type"] == {"type": "string", "const": "progress"}


@pytest.mark.parametrize("version", ["3.1", "3.2"])
def test_plain_responses_are_event_streams_too(version: str) -> None:
    """They say no more than that: of their events nothing is known."""

    @get("/plain")
    async def plain() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    @post("/posted")
    async def posted() -> SafeServerSentEvent:
        return SafeServerSentEvent(["x"])

    @sse("/any")
    async def anything() -> AsyncIterator[Any]:
        yield "x"

    schema = document(plain, posted, anything, version=version)
    expected = {"itemSchema": ITEM} if version == "3.2" else {"schema": {"type": "string"}, "x-itemSchema": ITEM}
    assert content(schema, "/plain") == content(schema, "/posted", "post") == content(schema, "/any") == expected


def test_other_handlers_are_described_as_ever() -> None:
    """Also those of the same application."""

    @get("/json")
    async def json() -> dict[str, int]:
        return {}

    @get("/response")
    async def response() -> Response[str]:
        return Response("")

    schema = document(job, json, response)
    alone = Litestar([json, response], openapi_config=OpenAPIConfig(title="Streams", version="1")).openapi_schema
    for path, item in alone.to_schema()["paths"].items():
        assert schema["paths"][path] == item


def test_single_type_of_events() -> None:
    """It is one branch."""

    @sse("/", method="POST", status_code=202)
    def rows() -> Iterator[Row]:
        yield {"id": 1}

    found = content(document(rows), method="post", status="202")
    assert found["schema"] == {"oneOf": [{"$ref": "#/components/schemas/Row"}]}


def test_what_messages_carry_is_described() -> None:
    """As if it was yielded by itself."""

    @sse("/")
    async def messages() -> AsyncIterator[SSEMessage[Progress] | Done]:
        yield Done()

    found = content(document(messages, version="3.2"))["itemSchema"]["oneOf"]
    assert found == [named("done", "Done"), named("progress", "Progress")]


def test_dto_is_what_is_described() -> None:
    """Fields that it leaves out are none of the document's."""

    @sse("/", return_dto=PublicUser)
    async def users() -> AsyncIterator[Annotated[User, Event("user")]]:
        yield User("a", "b")

    schema = document(users)
    (branch,) = content(schema)["schema"]["oneOf"]
    name = branch["$ref"].rpartition("/")[2]
    assert schema["components"]["schemas"][name]["properties"].keys() == {"name"}


def test_options_of_the_document() -> None:
    """Those of handlers: tags, summary, errors, and a class for the operation."""

    @dataclass
    class Marked(Operation):
        def __post_init__(self) -> None:
            self.summary = f"{self.summary}!"

    @sse("/", tags=["jobs"], summary="A job", raises=[NotFoundException], operation_class=Marked, description="More")
    async def feed(count: FromQuery[int] = 1) -> AsyncIterator[Progress]:
        yield Progress(1)

    schema = document(feed)
    operation = schema["paths"]["/"]["get"]
    assert (operation["tags"], operation["summary"], operation["description"]) == (["jobs"], "A job!", "More")
    assert operation["responses"].keys() == {"200", "400", "404"}
    assert operation["responses"]["404"]["content"].keys() == {"application/json"}
    assert [parameter["name"] for parameter in operation["parameters"]] == ["count"]
    assert content(schema)["schema"]["oneOf"][0]["$ref"].endswith("Progress")


def test_docstring_is_the_description() -> None:
    """Where the document is made of them."""
    config = OpenAPIConfig(title="Streams", version="1", use_handler_docstrings=True)
    app = Litestar([job], plugins=[SafeSSEPlugin()], openapi_config=config)
    assert app.openapi_schema.to_schema()["paths"]["/"]["get"]["description"] == "Tells of a job."
