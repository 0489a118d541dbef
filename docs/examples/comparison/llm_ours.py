from collections.abc import AsyncIterator

from litestar import Litestar
from litestar.exceptions import HTTPException
from msgspec import Struct
from shared import RefusedError, asking

from litestar_safe_sse import SafeSSEPlugin, sse


class Question(Struct):
    text: str


@sse("/chat", method="POST")
async def chat(data: Question) -> AsyncIterator[str]:
    try:
        async with asking(data.text) as tokens:
            async for token in tokens:
                yield token
    except RefusedError as error:
        raise HTTPException(status_code=502) from error
    yield "[DONE]"


app = Litestar([chat], plugins=[SafeSSEPlugin()])
