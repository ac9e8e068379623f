"""OpenAI's chat completions on a memory, so that clients that exist can use one: `model` names it, or a header.

- A system message stands in front of the first user's text: the memory begins the conversation with its own.
- Answers are greedy unless `temperature` is at least 0.0001. What would change an answer and is not supported is
  refused, what would not is ignored.
"""

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gnm.config import StrictModel
from gnm.serve.bodies import Text, check_length, checked, read_json
from gnm.serve.errors import Refused
from gnm.serve.events import EventStream
from gnm.serve.memory import Stream
from gnm.serve.service import attended, service_of, user_of
from gnm.serve.settings import Limits
from gnm.serve.store import EMPTY, absent

HEADER = "X-GNM-Memory"
"""The header that names the memory, for clients whose `model` is fixed."""
_MOST_MESSAGES, _MOST_PARTS, _MOST_STOPS, _MOST_MODALITIES = 1_000, 1_000, 16, 16


class _Lenient(StrictModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Part(_Lenient):
    type: Literal["text"]
    text: Text


_Content = Text | Annotated[list[_Part], Field(max_length=_MOST_PARTS, fail_fast=True)]


class _Message(_Lenient):
    role: Literal["system", "developer", "user"]
    content: _Content

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())


class _Answer(_Message):
    """What the model said before; an assistant that called a tool said nothing."""

    role: Literal["assistant"]
    content: _Content | None = None


class _StreamOptions(_Lenient):
    include_usage: bool | None = None


class Completion(_Lenient):
    """What is taken of a request; the fields without a use may only have the value that changes nothing."""

    model: Text
    messages: Annotated[
        list[Annotated[_Message | _Answer, Field(discriminator="role")]],
        Field(min_length=1, max_length=_MOST_MESSAGES, fail_fast=True),
    ]  # fmt: skip
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=_MOST_STOPS, fail_fast=True)] | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    logit_bias: Annotated[dict, Field(max_length=0)] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    tools: Annotated[list, Field(max_length=0)] | None = None
    functions: Annotated[list, Field(max_length=0)] | None = None
    function_call: Literal["none"] | None = None
    response_format: dict[str, Any] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=_MOST_MODALITIES, fail_fast=True)] | None = None

    def turns(self) -> list[str]:
        """The texts of user and assistant in turn, beginning and ending with the user's.

        Neighbours of one role are joined. Raises Refused if the user does not speak first and last, or says nothing.
        """
        system = "\n\n".join(message.text for message in self.messages if message.role in ("system", "developer"))
        spoken = [(message.role, message.text) for message in self.messages if message.role in ("user", "assistant")]
        if not spoken or spoken[0][0] != "user" or spoken[-1][0] != "user":
            raise Refused(400, "messages: the first and the last one, beside the system's, must be the user's")
        if not spoken[-1][1].strip():
            raise Refused(400, "messages: the last one is empty; ask something")
        turns: list[str] = []
        for number, (role, text) in enumerate(spoken):
            if number and role == spoken[number - 1][0]:
                turns[-1] += f"\n\n{text}"
            else:
                turns.append(text)
        turns[0] = f"{system}\n\n{turns[0]}" if system.strip() else turns[0]
        return [turn.strip() for turn in turns]

    def stops(self) -> list[str]:
        """The words before which an answer ends."""
        words = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [word for word in words if word]

    def settings(self, limits: Limits) -> dict[str, Any]:
        """How the answer is generated."""
        asked = self.max_completion_tokens or self.max_tokens or limits.max_new_tokens
        settings: dict[str, Any] = {"max_new_tokens": min(asked, limits.max_new_tokens)}
        if self.temperature:
            drawn = {"do_sample": True, "temperature": self.temperature, "top_k": 0}
            settings |= drawn if self.top_p is None else {**drawn, "top_p": self.top_p}
        return settings


async def complete(request: Request) -> Response:
    """Answer the last message of a chat, at once or in pieces."""
    service, user = service_of(request), user_of(request)
    limits = service.limits
    body = checked(await read_json(request, limits), Completion)
    if body.response_format not in (None, {"type": "text"}):
        raise Refused(400, "response_format: only text is supported")
    check_length("the chat", "".join(message.text for message in body.messages), limits.chat_characters)
    name, turns, settings = request.headers.get(HEADER, body.model), body.turns(), body.settings(limits)
    seed = time.time_ns() if body.seed is None else body.seed
    begun = service.worker.stream(
        user, lambda: service.store.open(user, name).stream(turns, seed, body.stops(), **settings)
    )
    stream, pieces = await attended(request, begun)
    answer = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
    if body.stream:
        usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return EventStream(_chunks(answer, stream, pieces, usage), pieces)
    try:
        text = await attended(request, _joined(pieces))
    finally:
        await pieces.aclose()
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": stream.reason}
    answer |= {"object": "chat.completion", "choices": [choice], "usage": _usage(stream)}
    return JSONResponse(answer)


async def models(request: Request) -> Response:
    """The user's memories, as models; and the one without memory."""
    service, user = service_of(request), user_of(request)
    names: Sequence[str] = [EMPTY, *service.store.names(user)]
    return JSONResponse({"object": "list", "data": [_as_model(name, user) for name in names]})


async def model(request: Request) -> Response:
    """One memory, as a model."""
    service, user, name = service_of(request), user_of(request), request.path_params["name"]
    if name != EMPTY and not service.store.has(user, name):
        raise absent(name)
    return JSONResponse(_as_model(name, user))


def _as_model(name: str, user: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": user}


async def _joined(pieces: AsyncIterator[str]) -> str:
    return "".join([piece async for piece in pieces])


async def _chunks(
    answer: dict[str, Any], stream: Stream, pieces: AsyncIterator[str], usage: bool
) -> AsyncIterator[dict[str, Any]]:
    answer = {**answer, "object": "chat.completion.chunk"}

    def chunk(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        return {**answer, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    yield chunk({"role": "assistant", "content": ""})
    async for piece in pieces:
        yield chunk({"content": piece})
    yield chunk({}, stream.reason)
    if usage:
        yield {**answer, "choices": [], "usage": _usage(stream)}


def _usage(stream: Stream) -> dict[str, int]:
    read, said = stream.prompt_tokens, stream.answer_tokens
    return {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}
