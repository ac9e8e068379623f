"""The service's own endpoints: write, ask, forget, revoke, undo, merge, inspect, export, import, delete."""

import fcntl
import os
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gnm.memory.parts import parts_folder
from gnm.serve.bodies import Document, Other, Questions, Revocation, check_length, read_as, read_body
from gnm.serve.errors import Refused, not_kept
from gnm.serve.events import EventStream
from gnm.serve.memory import ServedMemory
from gnm.serve.service import Service, attended, described, described_document, service_of, user_of
from gnm.serve.store import EMPTY, IMPORT, absent

_NUMBER = re.compile(r"[0-9]{1,18}")
_PIECE = 1 << 20  # bytes of a file that are sent at once


async def show_all(request: Request) -> Response:
    """The names of the user's memories, and how long a document may be."""
    service, user = service_of(request), user_of(request)
    most = service.limits.document_characters
    return JSONResponse({"user": user, "memories": service.store.names(user), "document_characters": most})


async def show(request: Request) -> Response:
    """What is in a memory."""
    service, user, name = _asked(request)
    return JSONResponse(await service.run(user, lambda: described(name, service.store.open(user, name))))


async def delete(request: Request) -> Response:
    """Remove a memory."""
    service, user, name = _asked(request)
    await attended(request, service.run(user, lambda: service.store.delete(user, name)))
    return Response(status_code=204)


async def write(request: Request) -> Response:
    """Write a document; the answer has all of its clauses, also those of which nothing is stored."""
    service, user, name = _asked(request)
    body = await read_as(request, Document, service.limits)
    check_length("the document", body.document, service.limits.document_characters)
    check_length("the instruction", body.instruction, service.limits.question_characters)

    def written(memory: ServedMemory) -> dict:
        memory.write(body.document, body.instruction, body.keep_notes, body.long)
        return {**described_document(memory.documents[-1]), "memory": {"slots": memory.slots, "stored": memory.stored}}

    if not body.store:
        preview = service.run(user, lambda: written(_copy(service, user, name)))
        return JSONResponse(await attended(request, preview))
    answer = await attended(request, service.change(user, name, written, make=True))
    service.metrics.written.inc()
    return JSONResponse(answer, 201)


async def forget(request: Request) -> Response:
    """Drop what a document wrote."""
    given = request.path_params["number"]
    number = int(given) if _NUMBER.fullmatch(given) else None

    def forgotten(memory: ServedMemory) -> dict:
        slots = {document.number: document.slots for document in memory.documents}
        if number not in slots:
            raise Refused(404, f"there is no document {given[:20]} in this memory")
        memory.forget(number)
        return {"dropped": slots[number]}

    return await _changed(request, forgotten)


async def revoke(request: Request) -> Response:
    """Drop what words take back; the answer has how many slots that were."""
    limits = service_of(request).limits
    user_of(request)
    body = await read_as(request, Revocation, limits)
    check_length("the instruction", body.instruction, limits.question_characters)
    return await _changed(request, lambda memory: {"dropped": memory.revoke(body.instruction)})


async def undo(request: Request) -> Response:
    """Go back to before the last change."""
    return await _changed(request, lambda memory: memory.undo())


async def merge(request: Request) -> Response:
    """Take in the documents of another of the user's memories."""
    service, user = service_of(request), user_of(request)
    other = (await read_as(request, Other, service.limits)).other
    if other == request.path_params["name"]:
        raise Refused(400, f"{other!r} is this memory itself, which would know all twice; name another")
    path = service.store.path(user, other)

    def merged(memory: ServedMemory) -> None:
        service.store.open(user, other)
        memory.merge(path)

    return await _changed(request, merged)


async def ask(request: Request) -> Response:
    """Answer questions from a memory, beside others' that are asked now."""
    service, user, name = _asked(request)
    body, limits = await read_as(request, Questions, service.limits), service.limits
    if len(body.questions) > limits.questions:
        raise Refused(413, f"there are {len(body.questions)} questions; at most {limits.questions} are taken")
    for question in body.questions:
        check_length("a question", question, limits.question_characters)
        if not question.strip():
            raise Refused(400, "a question is empty; ask something, or for the continuation of some words")
    most = min(body.max_new_tokens, limits.answer_tokens)
    if not body.stream:
        asked = service.worker.ask(user, lambda: service.store.open(user, name), body.questions, most)
        answers = await attended(request, asked)
        return JSONResponse({"answers": answers})
    if len(body.questions) > 1:
        raise Refused(400, "stream: give one question, or leave it out")
    begun = service.worker.stream(user, lambda: service.store.open(user, name).stream_answer(body.questions[0], most))
    _, pieces = await attended(request, begun)
    return EventStream(({"text": piece} async for piece in pieces), pieces)


async def export(request: Request) -> Response:
    """A memory's file, which `gnm` and `import` take."""
    service, user, name = _asked(request)
    path = service.store.path(user, name)
    with ExitStack() as held:
        held.enter_context(service.file_of(user))
        try:
            if parts_folder(path).is_dir():
                file = await attended(request, service.run(user, lambda: service.store.whole(user, name)))
            else:
                file = path.open("rb")  # what replaces it meanwhile is another file
        except (FileNotFoundError, IsADirectoryError) as error:
            raise absent(name) from error
        held.enter_context(file)
        return _FileResponse(file, path.name, held.pop_all())


class _FileResponse(StreamingResponse):
    """The content of `file`; `held` is left when it is sent, or its caller is gone."""

    def __init__(self, file: BinaryIO, name: str, held: ExitStack):
        headers = {
            "Content-Length": str(os.fstat(file.fileno()).st_size),
            "Content-Disposition": f'attachment; filename="{name}"',
        }
        super().__init__(_pieces(file), headers=headers, media_type="application/octet-stream")
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await super().__call__(scope, receive, send)


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


async def take_in(request: Request) -> Response:
    """Begin a memory with the file in the body."""
    service, user, name = _asked(request)
    folder = service.store.path(user, name).parent
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        answer = await _taken_in(request, folder)
    except OSError as error:
        raise not_kept(error) from error
    return JSONResponse(answer, 201)


async def _taken_in(request: Request, folder: Path) -> dict:
    """The memory that was begun with the file in the body, which lies in `folder` meanwhile."""
    service, user, name = _asked(request)
    limits = service.limits
    with service.file_of(user), tempfile.NamedTemporaryFile(dir=folder, prefix=f".{IMPORT}.", suffix=".part") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)  # tells a service that starts that this is no leftover
        async for piece in read_body(request, limits.import_bytes, limits.body_seconds):
            file.write(piece)
        file.flush()
        taken = service.run(user, lambda: described(name, service.store.take_in(user, name, Path(file.name))))
        return await attended(request, taken)


async def _changed(request: Request, function: Callable[[ServedMemory], dict | None]) -> Response:
    """The memory after `function` has changed it, and what that says of the change."""
    service, user, name = _asked(request)

    def changed(memory: ServedMemory) -> dict:
        added = function(memory) or {}
        memory.settle()
        return {**described(name, memory), **added}

    return JSONResponse(await attended(request, service.change(user, name, changed)))


def _asked(request: Request) -> tuple[Service, str, str]:
    """The service, the user, and the name of the memory in the request's path."""
    return service_of(request), user_of(request), request.path_params["name"]


def _copy(service: Service, user: str, name: str) -> ServedMemory:
    """A memory to try something on; an empty one if there is none of this name."""
    exists = service.store.has(user, name)
    return (service.store.open(user, name) if exists else service.store.open(user, EMPTY)).copy()
