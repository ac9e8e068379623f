"""What the endpoints share: the settings, who calls, the memories and the worker, and the way to use them."""

import asyncio
import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from gnm.conversation import Conversation
from gnm.errors import MemoryFileError
from gnm.memory.written import Written
from gnm.serve.errors import Refused
from gnm.serve.keys import LOCAL, Keys
from gnm.serve.memory import ServedMemory
from gnm.serve.metrics import Metrics
from gnm.serve.settings import ServeSettings
from gnm.serve.store import EMPTY, Busy, Store
from gnm.serve.worker import Worker

Result = TypeVar("Result")

_log = logging.getLogger("gnm.serve")
_WARM = "Learn it all. Then ask."
_RETRY = 1
_LOOK_AGAIN = 0.1  # seconds until a lock is tried again


class Service:
    """One model, the memories in a folder, and the thread that runs them."""

    def __init__(self, model: Conversation, folder: Path, keys: Keys, settings: ServeSettings):
        self.settings, self.keys, self.metrics = settings, keys, Metrics()
        self.store = Store(folder, ServedMemory.of(model, settings.undo_steps), settings, self.metrics)
        self.worker = Worker(settings, self.metrics)
        self._files_of: Counter[str] = Counter()

    async def warm_up(self) -> None:
        """Write and ask once, so that nobody's first request waits for what only a first one needs.

        What was made until then is no garbage: it is not looked at any more each time that some is collected.
        A model whose memories have no room for these few words is served nevertheless.
        """

        def used() -> None:
            memory = self.store.open(LOCAL, EMPTY).copy()
            try:
                memory.write(_WARM, _WARM)
            except MemoryFileError as error:
                _log.warning("a document of a few words does not fit: %s", error)
            memory.ask(_WARM, max_new_tokens=2)

        await self.worker.run(LOCAL, used)
        gc.freeze()

    @property
    def limits(self):
        """What is taken of everything."""
        return self.settings.limits

    @contextmanager
    def file_of(self, user: str) -> Iterator[None]:
        """A memory file of `user` is imported or exported meanwhile. Raises Refused if there are as many as the limit.

        The disk holds what is imported twice, and what is exported even after another file took its place.
        """
        most = self.limits.files
        if self._files_of[user] >= most:
            self.metrics.refused.labels("files").inc()
            raise Refused(429, f"{most} memory files of this user are being imported or exported; try again", _RETRY)
        self._files_of[user] += 1
        try:
            yield
        finally:
            self._files_of[user] -= 1
            self._files_of += Counter()  # without those at 0

    async def run(self, user: str, function: Callable[[], Any]) -> Any:
        """What `function` returns in the worker's thread; tried again while another process has the memory open."""
        until = time.monotonic() + self.limits.wait_seconds
        while True:
            try:
                return await self.worker.run(user, function)
            except Busy as error:
                if time.monotonic() > until:
                    raise Refused(
                        409, "another process has this memory open; end it, or try again later", _RETRY
                    ) from error
                await asyncio.sleep(_LOOK_AGAIN)

    async def change(
        self, user: str, name: str, function: Callable[[ServedMemory], Any], make: bool = False
    ) -> dict[str, Any]:
        """What `function` returns of a memory that it changes, after it was saved."""
        return await self.run(user, lambda: self.store.change(user, name, function, make))


def service_of(request: Request) -> Service:
    """The service that answers a request."""
    return request.app.state.service


def user_of(request: Request) -> str:
    """Whose key the request has. Raises Refused if it has none that is known."""
    user = service_of(request).keys.user(request.headers.get("authorization"))
    if user is None:
        raise Refused(401, "send a key that this service knows: Authorization: Bearer KEY")
    return user


async def attended(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` returns. If the caller goes away before, it is cancelled and ClientDisconnect is raised.

    The request's body must have been read.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


def described(name: str, memory: ServedMemory) -> dict[str, Any]:
    """What is in a memory."""
    return {
        "name": name,
        "slots": memory.slots,
        "capacity": memory.capacity,
        "stored": memory.stored,
        "can_undo": memory.can_undo,
        "documents": [described_document(document) for document in memory.documents],
    }


def described_document(document: Written) -> dict[str, Any]:
    """What is stored of a document, clause by clause."""
    return asdict(document)
