"""What waits for the model's thread: jobs of three kinds, and the pieces of a stream."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Job:
    """Something to be done: `run` gives the result."""

    user: str
    run: Callable[[], Any]
    result: Future = field(default_factory=Future)


@dataclass(eq=False)
class Questions(Job):
    """`run` gives the memory that `phrases` are asked of; the result are the answers."""

    phrases: Sequence[str] = ()
    max_new_tokens: int = 1


@dataclass(eq=False)
class Streaming(Job):
    """`run` gives a Stream, which is the result; then `send` gets each piece, at the end None or an error."""

    send: Callable[[str | Exception | None], None] = lambda piece: None
    pieces: Iterator[str] | None = None
    closed: bool = False


class Pieces:
    """The pieces of a stream, in their order, as they are made.

    They have to be closed. A generator would not do: closed before its first step, it never runs its end.
    """

    def __init__(self, job: Streaming, queue: asyncio.Queue):
        """queue: what `job` sends."""
        self.job, self._queue = job, queue

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> str:
        piece = await self._queue.get()
        if isinstance(piece, Exception):
            raise piece
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """End the stream, if it has not ended."""
        self.job.closed = True
