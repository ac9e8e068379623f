"""Server-sent events: an answer as it is made."""

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gnm.errors import GNMError
from gnm.serve.errors import Refused, refusal_of, unexpected
from gnm.serve.jobs import Pieces

LAST = "[DONE]"
"""The data of the last event, as in OpenAI's API."""


class EventStream(StreamingResponse):
    """`values` as JSON, an event each, then `LAST`; an error instead of a value ends the stream.

    pieces: what the values are made of. It is closed at the end, also when the caller left before the first event.
    """

    def __init__(self, values: AsyncIterator[Any], pieces: Pieces):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # a proxy passes it on at once
        super().__init__(_events(values), media_type="text/event-stream", headers=headers)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._pieces.aclose()


async def _events(values: AsyncIterator[Any]) -> AsyncIterator[str]:
    try:
        async for value in values:
            yield _event(value)
    except Refused as error:
        yield _event(error.body())
    except GNMError as error:
        yield _event(refusal_of(error).body())
    except Exception as error:
        yield _event(unexpected(error).body())
    yield f"data: {LAST}\n\n"


def _event(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
