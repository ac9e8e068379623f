"""What a request brings: its body within limits and time, and the schemas of the service's own endpoints."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field
from starlette.requests import Request

from gnm.config import StrictModel, validate
from gnm.errors import ConfigError
from gnm.learners.long_documents import Long
from gnm.serve.errors import Refused
from gnm.serve.settings import MOST_QUESTIONS, Limits

Schema = TypeVar("Schema", bound=StrictModel)
_MOST_KEYS = 100
_MOST_VALUES = 20_000  # of a body, were its texts without commas and brackets


def _unicode(text: str) -> str:
    """`text`, if it is one: JSON can hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half a character (a lone surrogate)") from error
    return text


Text = Annotated[str, AfterValidator(_unicode)]


class Document(StrictModel):
    """A document to write. store: false only tells what would be stored."""

    document: Text
    instruction: Text
    long: Long = "refuse"
    keep_notes: bool = True
    store: bool = True


class Revocation(StrictModel):
    """Words that take something back."""

    instruction: Text


class Other(StrictModel):
    """The memory whose documents are taken in."""

    other: Text


class Questions(StrictModel):
    """Questions, or phrases to be continued. stream: the answer to the only one comes in pieces."""

    questions: Annotated[list[Text], Field(min_length=1, max_length=MOST_QUESTIONS, fail_fast=True)]
    max_new_tokens: Annotated[int, Field(ge=1)] = 16
    stream: bool = False


async def read_body(request: Request, most: int, seconds: float) -> AsyncIterator[bytes]:
    """The pieces of a body. Raises Refused if it is larger than `most` bytes, or a piece takes over `seconds`."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > most:
        raise Refused(413, f"the body has {declared[:20]} bytes; at most {most} are taken")
    size, pieces = 0, aiter(request.stream())
    while True:
        try:
            piece = await asyncio.wait_for(anext(pieces), seconds)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise Refused(408, f"the body did not arrive within {seconds:g} seconds") from error
        size += len(piece)
        if size > most:
            raise Refused(413, f"the body has more than {most} bytes, which is the limit")
        yield piece


async def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """The object in a body. Raises Refused if it is no JSON object, too large or too slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "send JSON, with the header Content-Type: application/json")
    try:
        async with asyncio.timeout(limits.body_seconds):
            text = b"".join([piece async for piece in read_body(request, limits.body_bytes, limits.body_seconds)])
    except TimeoutError as error:
        raise Refused(408, f"the body did not arrive within {limits.body_seconds:g} seconds") from error
    _check_number_of_values(text, limits)
    try:
        value = _parsed(text)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the body is no JSON in UTF-8") from error
    if not isinstance(value, dict):
        raise Refused(400, "the body must be a JSON object")
    if len(value) > _MOST_KEYS:
        raise Refused(400, f"the body has {len(value)} keys; at most {_MOST_KEYS} are taken")
    return value


async def read_as(request: Request, schema: type[Schema], limits: Limits) -> Schema:
    """The body as `schema`. Raises Refused with the problems of it."""
    return checked(await read_json(request, limits), schema)


def checked(value: dict[str, Any], schema: type[Schema]) -> Schema:
    """`value` as `schema`. Raises Refused with the problems of it.

    This runs in the event loop. So lists of the schemas end at their first wrong element and have a length.
    """
    try:
        return validate(value, schema, "the request")
    except ConfigError as error:
        raise Refused(400, str(error).encode("utf-8", "replace").decode()) from error


def check_length(what: str, text: str, most: int) -> None:
    """Raise Refused if `text` is longer than `most` characters."""
    if len(text) > most:
        raise Refused(413, f"{what} has {len(text)} characters; at most {most} are taken")


def _check_number_of_values(text: bytes, limits: Limits) -> None:
    """Raise Refused for a body with more values than a request can need.

    The event loop reads JSON, and is held for seconds by a million values, however small. Commas and brackets are
    counted wherever they stand: what the texts of a request can hold of them is allowed.
    """
    found, most = sum(map(text.count, (b",", b"[", b"{"))), limits.characters + _MOST_VALUES
    if found > most:
        raise Refused(413, f"the body has {found} commas and opening brackets; at most {most} are taken")


def _parsed(text: bytes) -> Any:
    """The value of a JSON text. ValueError or RecursionError if it is none.

    Garbage is not collected meanwhile: each time it is, all objects of the process are looked at.
    """
    gc.disable()
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_no_number)
    finally:
        gc.enable()


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
