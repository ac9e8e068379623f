"""What a training step and a validation are made of: sequences with the questions asked after each document.

Which sequences a step sees is a pure function of seed and step, whatever the number of processes.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from gnm.data.asking import asked
from gnm.data.sequences import draw_twins, evaluation_sequences
from gnm.data.types import Document, Query
from gnm.data.types import Sequence as DocumentSequence
from gnm.errors import DataError
from gnm.learners import Question
from gnm.params import TrainParams


@dataclass(frozen=True)
class Exercise:
    """One sequence as it is trained on: its documents, and the queries asked after each."""

    sequence: DocumentSequence
    queries: tuple[tuple[Query, ...], ...]
    seed: int

    def questions(self, t: int) -> list[Question]:
        """What a learner is asked after document `t`."""
        return [Question.of(query) for query in self.queries[t]]


def training_exercises(params: TrainParams, documents: Sequence[Document], step: int) -> list[Exercise]:
    """The sequences of one step, all of the length that the step drew; a pure function of its arguments."""
    loop = params.loop
    easy = loop.is_easy(step)
    length = 1 if easy else loop.sequence_length
    if not isinstance(length, int):
        length = random.Random(f"{params.seed}/length/{step}").randint(*length)
    if easy:
        documents = [document for document in documents if len(document.fact_ids) <= loop.easy.facts]
        if not documents:
            raise DataError(f"no document of data.train has at most loop.easy.facts = {loop.easy.facts} facts")
    settings = params.sequences("train", length, easy)
    exercises = []
    stride = max(loop.documents_per_step, loop.easy.documents_per_step if loop.easy else 0)
    for place in range(0, loop.sequences_of_step(length, easy), loop.instructions_per_document):
        index = step * stride + place
        twins = draw_twins(documents, settings, params.seed, index, loop.instructions_per_document)
        for seed, sequence in enumerate(twins, index):
            rng = random.Random(f"{params.seed}/questions/{index}")
            queries = tuple(
                tuple(query for _, query in asked(sequence, t, settings, rng)[: loop.max_queries_per_document])
                for t in range(len(sequence.steps))
            )
            exercises.append(Exercise(sequence, queries, seed))
    return exercises


def validation_exercises(params: TrainParams, documents: Sequence[Document]) -> list[Exercise]:
    """Fixed sequences with the held-out phrasing; as long as the longest in training."""
    settings = params.sequences("test", params.loop.longest)
    sequences = evaluation_sequences(documents, settings, params.loop.validation_sequences, params.seed)
    return [
        Exercise(s, tuple(tuple(query for _, query in asked(s, t, settings)) for t in range(len(s.steps))), seed=index)
        for index, s in enumerate(sequences)
    ]
