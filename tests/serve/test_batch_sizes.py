"""One request's questions are answered in passes no larger than the others'."""

import asyncio

import pytest
from test_worker import QUESTIONS, batches, memories, worker

__all__ = ["memories", "worker"]  # fixtures


@pytest.mark.parametrize(("batch", "passes"), [(2, 3), (5, 1), (16, 1)])
def test_a_request_with_more_questions_than_a_batch_takes_several_passes(memories, worker, batch, passes):
    worker, asked = worker(batch=batch), (QUESTIONS * 2)[:5]
    answers = asyncio.run(worker.ask("x", lambda: memories[1], asked, 4))
    assert answers == memories[1].ask_all(asked, 4)
    assert batches(worker) == (passes, 5)
