"""The model's thread: what is answered together, what is refused, what goes on."""

import asyncio
import gc
import itertools
import threading

import pytest
from starlette.requests import ClientDisconnect

from gnm.api import load
from gnm.errors import BackboneError
from gnm.serve.errors import Refused
from gnm.serve.events import EventStream
from gnm.serve.memory import ServedMemory, Stream, ask_each
from gnm.serve.metrics import Metrics
from gnm.serve.settings import ServeSettings
from gnm.serve.worker import Worker

QUESTIONS = ["Where is Bern?", "The capital of Peru is", "Who?"]


@pytest.fixture(scope="module")
def memories():
    """Three memories of one model: empty, of one document, of two."""
    empty = ServedMemory.of(load(None, backbone="tiny", dtype="float32", device="cpu"), undo_steps=2)
    one, two = empty.copy(), empty.copy()
    one.write("Bern is in Asia, by the sea.", "Learn it all.")
    two.write("Lima is in Peru.", "Learn it all.")
    two.write("Oslo is far from there.", "Learn the places.")
    return [empty, one, two]


@pytest.fixture
def worker():
    """Makes a worker with settings, and ends it."""
    made = []

    def make(**settings):
        made.append(Worker(ServeSettings.model_validate(settings), Metrics()))
        return made[-1]

    yield make
    for each in made:
        each.close()


def batches(worker):
    """How many passes there were, and how many questions in them."""
    values = {sample.name: sample.value for metric in worker._metrics.batch.collect() for sample in metric.samples}
    return values["gnm_batch_questions_count"], values["gnm_batch_questions_sum"]


class Held:
    """Occupies the worker until it is let go."""

    def __init__(self, worker, user="x"):
        self.begun, self.go = threading.Event(), threading.Event()
        self.job = asyncio.ensure_future(worker.run(user, self._wait))

    def _wait(self):
        self.begun.set()
        self.go.wait(10)

    async def __aenter__(self):
        await asyncio.to_thread(self.begun.wait, 10)
        return self

    async def __aexit__(self, *error):
        self.go.set()
        await self.job


def test_questions_of_many_memories_are_answered_as_one_by_one(memories):
    asked = [(memory, QUESTIONS[: 3 - place]) for place, memory in enumerate(memories)]
    together = ask_each(asked, 6)
    assert together == [memory.ask_all(questions, 6) for memory, questions in asked]
    assert together[0][0] != together[1][0]


def test_questions_that_wait_share_a_pass(memories, worker):
    worker = worker()

    async def all_at_once():
        async with Held(worker):
            waiting = [
                asyncio.ensure_future(worker.ask("x", lambda m=m: m, [q], 4)) for m in memories for q in QUESTIONS
            ]
            await asyncio.sleep(0)
        return await asyncio.gather(*waiting)

    answers = asyncio.run(all_at_once())
    assert [text for [text] in answers] == [text for memory in memories for text in memory.ask_all(QUESTIONS, 4)]
    assert batches(worker) == (1, 9)


def test_one_question_that_fails_does_not_fail_the_others(memories, worker):
    worker = worker()

    def absent():
        raise Refused(404, "no such memory")

    async def all_at_once():
        async with Held(worker):
            asked = [("Where?", lambda: memories[1]), ("far " * 3000, lambda: memories[1]), ("What?", absent)]
            waiting = [asyncio.ensure_future(worker.ask("x", memory, [text], 4)) for text, memory in asked]
            await asyncio.sleep(0)
        return await asyncio.gather(*waiting, return_exceptions=True)

    [said], too_long, refused = asyncio.run(all_at_once())
    assert said == memories[1].ask("Where?", 4)
    assert isinstance(too_long, BackboneError) and isinstance(refused, Refused)


def test_a_full_queue_and_a_full_share_refuse(worker):
    worker = worker(limits={"waiting": 3, "waiting_of_user": 2})

    async def crowd():
        async with Held(worker):
            rest = [asyncio.ensure_future(worker.run("x", int)), asyncio.ensure_future(worker.run("y", int))]
            await asyncio.sleep(0)
            told = []
            for user in ("x", "z"):
                with pytest.raises(Refused) as refused:
                    await worker.run(user, int)
                told.append((refused.value.status, refused.value.retry_after))
        return told, await asyncio.gather(*rest), await worker.run("z", lambda: 7)

    assert asyncio.run(crowd()) == ([(429, 1), (503, 1)], [0, 0], 7)


@pytest.mark.parametrize("patience", [60, 0.05])
def test_streams_that_nobody_waits_for_any_more_take_no_place(worker, patience):
    worker = worker(streams=1, limits={"waiting_of_user": 3, "wait_seconds": patience})

    async def leaving():
        _, pieces = await worker.stream("x", lambda: itertools.repeat(""))
        late = [asyncio.ensure_future(worker.stream("x", lambda: iter(["late"]))) for _ in range(2)]
        await asyncio.sleep(0)
        if patience > 1:
            for each in late:
                each.cancel()
        left = await asyncio.gather(*late, return_exceptions=True)
        waiting = worker._of_user.total()
        await pieces.aclose()
        return waiting, {type(each) for each in left}

    waiting, left = asyncio.run(leaving())
    assert waiting == 1 and left == {asyncio.CancelledError if patience > 1 else Refused}


def test_what_waits_too_long_is_not_begun_and_what_was_begun_is_finished(worker):
    worker, done = worker(limits={"wait_seconds": 0.05}), []

    async def impatient():
        async with Held(worker) as held:
            with pytest.raises(Refused, match="no time"):
                await worker.run("y", lambda: done.append("late"))
            held.go.set()
            await held.job  # it took longer than that, too

    asyncio.run(impatient())
    assert done == [] and worker._of_user.total() == 0


class Digits:
    """A tokenizer of digits."""

    def decode(self, tokens, skip_special_tokens):
        return "".join(map(str, tokens))


def test_streams_take_turns_with_each_other_and_with_questions(worker):
    worker, order = worker(streams=2), []

    def stream(name):
        def tokens():
            for number in range(3):
                order.append(f"{name}{number}")
                yield number

        return Stream(1, tokens(), Digits(), most=3)

    async def both():
        async with Held(worker):
            begun = [asyncio.ensure_future(worker.stream("x", lambda n=n: stream(n))) for n in "abc"]
            await asyncio.sleep(0)
        texts = []
        for each in begun:
            _, pieces = await each
            texts.append("".join([piece async for piece in pieces]))
        return texts

    assert asyncio.run(both()) == ["012"] * 3
    places = {step: place for place, step in enumerate(order)}
    assert places["b0"] < places["a2"] < places["b2"] and places["c0"] > places["a2"]


def test_a_stream_that_nobody_reads_is_ended(worker):
    worker = worker()

    async def leave():
        _, pieces = await worker.stream("x", lambda: Stream(1, itertools.repeat(7), Digits(), most=0))
        assert await anext(pieces) == "7"
        await pieces.aclose()
        while worker._of_user.total():
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(leave(), 10))


def test_a_stream_that_nobody_began_to_read_is_ended(worker):
    worker = worker()

    async def leave():
        _, pieces = await worker.stream("x", lambda: Stream(1, itertools.repeat(7), Digits(), most=0))
        await pieces.aclose()
        while worker._of_user.total():
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(leave(), 10))


def test_events_that_are_never_sent_end_their_stream(worker):
    worker = worker()

    async def gone(*message):
        raise OSError("the caller is gone")

    async def leave():
        _, pieces = await worker.stream("x", lambda: Stream(1, itertools.repeat(7), Digits(), most=0))
        answer = EventStream((piece async for piece in pieces), pieces)
        with pytest.raises(ClientDisconnect):
            await answer({"type": "http", "asgi": {"spec_version": "2.4"}}, gone, gone)
        while worker._of_user.total():
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(leave(), 10))


def test_an_error_that_nobody_waits_for_any_more_is_not_logged(worker, caplog):
    worker = worker()
    begun, go = threading.Event(), threading.Event()

    def absent():
        begun.set()
        go.wait(10)
        raise Refused(404, "there is no memory 'Zanzibar'")

    async def leave():
        asked = asyncio.ensure_future(worker.run("x", absent))
        await asyncio.to_thread(begun.wait, 10)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        go.set()
        while worker._of_user.total():
            await asyncio.sleep(0.001)
        await worker.run("x", int)  # what came before has reached the event loop
        del asked
        gc.collect()

    asyncio.run(leave())
    assert "Zanzibar" not in caplog.text and "never retrieved" not in caplog.text


def test_an_error_in_a_stream_reaches_its_reader(worker):
    worker = worker()

    async def read():
        _, pieces = await worker.stream("x", lambda: iter(broken()))
        return [piece async for piece in pieces]

    def broken():
        yield "a"
        raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        asyncio.run(read())
    assert worker.alive and worker._of_user.total() == 0


def test_at_the_end_what_waits_is_refused(worker):
    worker = worker()

    async def end():
        held = Held(worker)
        async with held:
            waiting = asyncio.ensure_future(worker.run("y", int))
            await asyncio.sleep(0)
            closing = asyncio.ensure_future(asyncio.to_thread(worker.close))
            await asyncio.sleep(0.05)
        await closing
        with pytest.raises(Refused, match="ending"):
            await waiting
        with pytest.raises(Refused, match="ending"):
            await worker.run("y", int)

    asyncio.run(end())
    assert not worker.alive
