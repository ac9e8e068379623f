"""Server-sent events: an answer as it is made."""

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

from gnm.errors import GNMError
from gnm.serve.errors import Refused, refusal_of, unexpected

LAST = "[DONE]"
"""The data of the last event, as in OpenAI's API."""


def event_stream(values: AsyncIterator[Any]) -> StreamingResponse:
    """`values` as JSON, an event each, then `LAST`; an error instead of a value ends the stream."""

    async def events() -> AsyncIterator[str]:
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

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # a proxy passes it on at once
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


def _event(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
