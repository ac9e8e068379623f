"""The one thread that runs the model: jobs in their order, questions in batches, streams one token each in turn.

- The queue is bounded, for all and for each user: who comes when it is full is told to try again.
- A job that nobody waits for any more is not begun; one that was begun is finished. So a write that is cut off is
  either whole or not there.
"""

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from gnm.serve.errors import Refused
from gnm.serve.jobs import Job, Pieces, Questions, Streaming
from gnm.serve.memory import ServedMemory, Stream, ask_each
from gnm.serve.metrics import Metrics
from gnm.serve.settings import ServeSettings

_RETRY = 1


class Worker:
    """Runs jobs until `close`; `run`, `ask` and `stream` are for the event loop."""

    def __init__(self, settings: ServeSettings, metrics: Metrics):
        self._settings, self._metrics = settings, metrics
        self._waiting: deque[Job] = deque()
        self._streams: list[Streaming] = []
        self._of_user: Counter[str] = Counter()
        self._changed, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    async def run(self, user: str, function: Callable[[], Any]) -> Any:
        """What `function` returns, run between other jobs. Raises Refused if there is no room, or no turn in time."""
        return await self._result(Job(user, function))

    async def ask(
        self, user: str, memory: Callable[[], ServedMemory], phrases: Sequence[str], max_new_tokens: int
    ) -> list[str]:
        """The answers from the memory that `memory` gives, with others' in one batch."""
        return await self._result(Questions(user, memory, phrases=phrases, max_new_tokens=max_new_tokens))

    async def stream(self, user: str, start: Callable[[], Stream]) -> tuple[Stream, Pieces]:
        """The stream that `start` gives, and its pieces as they are made; closing them ends it."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue()

        def send(piece: str | Exception | None) -> None:
            with suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(queue.put_nowait, piece)

        pieces = Pieces(Streaming(user, start, send=send), queue)
        try:
            return await self._result(pieces.job), pieces
        except BaseException:
            await pieces.aclose()
            raise

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive() and not self._closing

    def close(self, seconds: float = 60.0) -> None:
        """Finish the job at hand, refuse what waits, end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)

    async def _result(self, job: Job) -> Any:
        self._admit(job)
        waiting = asyncio.wrap_future(job.result)
        waiting.add_done_callback(_noticed)
        try:
            done, _ = await asyncio.wait([waiting], timeout=self._settings.limits.wait_seconds)
            if not done and job.result.cancel():
                self._withdraw(job)
                self._metrics.refused.labels("wait").inc()
                raise Refused(503, "the model had no time for this request; try again later", _RETRY)
            return await waiting
        except asyncio.CancelledError:
            if job.result.cancel():
                self._withdraw(job)
            raise

    def _withdraw(self, job: Job) -> None:
        """Take a job that nobody waits for any more out of the queue, where it would take another's place."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._leave(job)

    def _admit(self, job: Job) -> None:
        limits = self._settings.limits
        with self._changed:
            if self._closing:
                raise Refused(503, "the service is ending; try again when it is back", _RETRY)
            if self._of_user[job.user] >= limits.waiting_of_user:
                self._metrics.refused.labels("user").inc()
                raise Refused(429, f"{limits.waiting_of_user} requests of this user are waiting; try again", _RETRY)
            if self._of_user.total() >= limits.waiting:
                self._metrics.refused.labels("queue").inc()
                raise Refused(503, f"{limits.waiting} requests are waiting; try again", _RETRY)
            self._of_user[job.user] += 1
            self._waiting.append(job)
            self._metrics.waiting.set(self._of_user.total())
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._closing or self._streams or self._waiting):
                    self._changed.wait()
                if self._closing:
                    break
                job = self._next()
            if isinstance(job, Questions):
                self._answer([job, *self._joining(job)])
            elif job is not None:
                self._begin(job)
            for stream in list(self._streams):
                self._advance(stream)
        self._refuse_all()

    def _next(self) -> Job | None:
        """The oldest job that can be begun."""
        full = len(self._streams) >= self._settings.streams
        for job in self._waiting:
            if not (full and isinstance(job, Streaming)):
                self._waiting.remove(job)
                return job
        return None

    def _joining(self, first: Questions) -> list[Questions]:
        """Waiting questions that can be answered beside `first`; if there are none, those that come at once."""
        if not self._waiting:
            time.sleep(self._settings.gather_seconds)
        with self._changed:
            room = self._settings.batch - len(first.phrases)
            found = []
            for job in list(self._waiting):
                if isinstance(job, Questions) and job.max_new_tokens == first.max_new_tokens:
                    if len(job.phrases) > room:
                        break
                    room -= len(job.phrases)
                    self._waiting.remove(job)
                    found.append(job)
            return found

    def _answer(self, jobs: list[Questions]) -> None:
        jobs = [job for job in jobs if self._taken(job)]
        asked: dict[int, tuple[ServedMemory, list[str]]] = {}
        places: list[tuple[Questions, int, int]] = []
        for job in jobs:
            try:
                memory = job.run()
            except Exception as error:
                self._finish(job, error=error)
                continue
            _, phrases = asked.setdefault(id(memory), (memory, []))
            places.append((job, id(memory), len(phrases)))
            phrases += job.phrases
        if not places:
            return
        try:
            said = dict(zip(asked, self._said(list(asked.values()), places[0][0].max_new_tokens), strict=True))
        except Exception as error:
            if len(places) == 1:
                self._finish(places[0][0], error=error)
            else:  # one of them cannot be answered; which one, each alone will tell
                for job, key, _ in places:
                    self._answer_alone(job, asked[key][0])
            return
        for job, key, first in places:
            self._finish(job, said[key][first : first + len(job.phrases)])

    def _said(self, asked: list[tuple[ServedMemory, list[str]]], max_new_tokens: int) -> list[list[str]]:
        """The answers to each memory's phrases, at most `batch` in a pass; more of them are one request's."""
        most, passes = self._settings.batch, [asked]
        if len(asked) == 1:
            [(memory, phrases)] = asked
            passes = [[(memory, phrases[at : at + most])] for at in range(0, len(phrases), most)]
        said: list[list[str]] = [[] for _ in asked]
        for each in passes:
            for answers, own in zip(said, ask_each(each, max_new_tokens), strict=True):
                answers += own
            self._metrics.batch.observe(sum(len(phrases) for _, phrases in each))
        return said

    def _answer_alone(self, job: Questions, memory: ServedMemory) -> None:
        try:
            [answers] = ask_each([(memory, job.phrases)], job.max_new_tokens)
        except Exception as error:
            self._finish(job, error=error)
        else:
            self._finish(job, answers)

    def _begin(self, job: Job) -> None:
        if not self._taken(job):
            return
        try:
            result = job.run()
        except Exception as error:
            self._finish(job, error=error)
        else:
            if isinstance(job, Streaming):
                job.pieces = iter(result)
                self._streams.append(job)
                job.result.set_result(result)
            else:
                self._finish(job, result)

    def _advance(self, job: Streaming) -> None:
        """Take one piece of a stream and send it."""
        last: Exception | None = None
        if not job.closed:
            try:
                if piece := next(job.pieces):
                    job.send(piece)
                return
            except StopIteration:
                pass
            except Exception as error:
                last = error
        self._streams.remove(job)
        self._leave(job)
        if not job.closed:
            job.send(last)

    def _taken(self, job: Job) -> bool:
        """Whether somebody waits for `job`; otherwise it is dropped."""
        if job.result.set_running_or_notify_cancel():
            return True
        self._leave(job)
        return False

    def _finish(self, job: Job, result: Any = None, error: Exception | None = None) -> None:
        self._leave(job)
        if error is None:
            job.result.set_result(result)
        else:
            job.result.set_exception(error)

    def _leave(self, job: Job) -> None:
        with self._changed:
            self._of_user[job.user] -= 1
            self._of_user += Counter()  # without those at 0
            self._metrics.waiting.set(self._of_user.total())

    def _refuse_all(self) -> None:
        ending = Refused(503, "the service is ending; try again when it is back", _RETRY)
        for job in self._waiting:
            if job.result.set_running_or_notify_cancel():
                job.result.set_exception(ending)
        for stream in self._streams:
            stream.send(ending)


def _noticed(result: asyncio.Future) -> None:
    """Look at an error that perhaps nobody waits for any more: asyncio would log it, with the names in its text."""
    if not result.cancelled():
        result.exception()
