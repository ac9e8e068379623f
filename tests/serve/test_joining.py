"""Which questions share a pass of the model, and how many answers are streamed at the same time."""

import asyncio
from contextlib import closing

import pytest
from test_worker import Digits, Held

from gnm.api import load
from gnm.serve import worker as module
from gnm.serve.memory import ServedMemory, Stream, ask_each
from gnm.serve.metrics import Metrics
from gnm.serve.settings import ServeSettings
from gnm.serve.worker import Worker

QUESTION = "Where is Bern?"


@pytest.fixture(scope="module")
def memory():
    memory = ServedMemory.of(load(None, backbone="tiny", dtype="float32", device="cpu"), undo_steps=0)
    memory.write("Bern is in Asia, by the sea.", "Learn it all.")
    return memory


def running(**settings):
    """A worker that ends with the context."""
    return closing(Worker(ServeSettings.model_validate(settings), Metrics()))


@pytest.fixture
def passes(monkeypatch):
    """How many questions each pass had, in turn."""
    counted = []

    def counting(asked, max_new_tokens):
        counted.append(sum(len(phrases) for _, phrases in asked))
        return ask_each(asked, max_new_tokens)

    monkeypatch.setattr(module, "ask_each", counting)
    return counted


async def asked_at_once(worker, memory, asked):
    """The answers to requests of so many questions and tokens, which all waited together."""
    async with Held(worker):
        waiting = [
            asyncio.ensure_future(worker.ask("x", lambda: memory, [QUESTION] * questions, tokens))
            for questions, tokens in asked
        ]
        await asyncio.sleep(0)
    return await asyncio.gather(*waiting)


@pytest.mark.parametrize(
    ("requests", "found"),
    [
        ([1] * 7, [3, 3, 1]),
        ([2, 1, 2, 2], [3, 2, 2]),  # what just fills a pass joins it, what does not waits
        ([1, 3, 1, 1], [1, 3, 2]),  # none goes before a larger one that came first
    ],
)
def test_no_more_questions_share_a_pass_than_the_setting_says(memory, passes, requests, found):
    with running(batch=3) as worker:
        answers = asyncio.run(asked_at_once(worker, memory, [(questions, 2) for questions in requests]))
    assert passes == found and [len(each) for each in answers] == requests


def test_questions_for_answers_of_another_length_do_not_join(memory, passes):
    lengths = [2, 9, 2, 9, 5]
    with running() as worker:
        answers = asyncio.run(asked_at_once(worker, memory, [(1, tokens) for tokens in lengths]))
    assert [said for [said] in answers] == [memory.ask(QUESTION, tokens) for tokens in lengths]
    assert len({said for [said] in answers}) == 3 and passes == [2, 2, 1]


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_answers_are_streamed_at_once_than_the_setting_says(most):
    now, counted = set(), []

    def stream(name):
        def tokens():
            now.add(name)
            for number in range(6):
                counted.append(len(now))
                yield number
            now.remove(name)

        return Stream(1, tokens(), Digits(), most=6)

    async def all_at_once(worker):
        async with Held(worker):
            begun = [asyncio.ensure_future(worker.stream("x", lambda n=n: stream(n))) for n in range(4)]
            await asyncio.sleep(0)
        return ["".join([piece async for piece in (await each)[1]]) for each in begun]

    with running(streams=most) as worker:
        assert asyncio.run(all_at_once(worker)) == ["012345"] * 4
    assert max(counted) == most
