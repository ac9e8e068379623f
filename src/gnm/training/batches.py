"""What a training step and a validation are made of: sequences with the questions asked after each document.

Which sequences a step sees is a pure function of seed and step, whatever the number of processes.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch.utils.data import Dataset

from gnm.data.asking import asked
from gnm.data.counterfact import read_facts
from gnm.data.documents import read_documents
from gnm.data.instructions import revocation_example
from gnm.data.labels import WriteLabels, label_writes
from gnm.data.people.episodes import Facts, draw_people, index_facts
from gnm.data.people.written import WrittenDocument, read_written
from gnm.data.people.written_episodes import draw_written
from gnm.data.segments import split_segments
from gnm.data.sequences import SequenceSettings, draw_contrastive, evaluation_sequences
from gnm.data.targets import ALL
from gnm.data.types import Document, Episode, Query, Step
from gnm.errors import DataError
from gnm.learners import Question
from gnm.params import TrainParams


@dataclass(frozen=True)
class TrainingEpisode:
    """One episode as it is trained on: its documents, the queries asked after each, and what each write should do."""

    episode: Episode
    queries: tuple[tuple[Query, ...], ...]
    seed: int
    labels: tuple[WriteLabels, ...]

    @classmethod
    def of(cls, episode: Episode, queries: tuple[tuple[Query, ...], ...], seed: int) -> "TrainingEpisode":
        """With the labels of the writes of `episode`."""
        return cls(episode, queries, seed, label_writes(episode.steps))

    @property
    def steps(self) -> tuple[Step, ...]:
        """Its documents."""
        return self.episode.steps

    def questions(self, t: int) -> list[Question]:
        """What a learner is asked after document `t`."""
        return [Question.of(query) for query in self.queries[t]]


@dataclass(frozen=True)
class Material:
    """What sequences are drawn from: the protocol's documents, facts that are told as people tell them, and documents
    that were written one by one."""

    documents: Sequence[Document]
    facts: Facts | None = None
    written: Sequence[WrittenDocument] = ()

    @classmethod
    def read(cls, documents: Sequence[Path], facts: Path | None, written: Path | None = None) -> "Material":
        """Read files or folders of documents, a file of categorised facts, and one of documents written one by one."""
        return cls(
            [document for path in documents for document in read_documents(path)],
            None if facts is None else index_facts(read_facts(facts)),
            () if written is None else read_written(written),
        )


@dataclass(frozen=True)
class TrainingSteps(Dataset):
    """The batches of each step of a training, by the steps' numbers."""

    params: TrainParams
    material: Material

    def __len__(self) -> int:
        return self.params.loop.steps

    def __getitem__(self, step: int) -> list[TrainingEpisode]:
        return training_batch(self.params, self.material, step)


def training_batch(params: TrainParams, material: Material, step: int) -> list[TrainingEpisode]:
    """The sequences of one step, all of the length that the step drew; a pure function of its arguments."""
    loop, documents = params.loop, material.documents
    curriculum = loop.in_curriculum(step)
    length = 1 if curriculum else loop.sequence_length
    if not isinstance(length, int):
        length = random.Random(f"{params.seed}/length/{step}").randint(*length)
    if curriculum:
        documents = [document for document in documents if len(document.fact_ids) <= loop.curriculum.facts]
        if not documents:
            raise DataError(
                f"no document of data.train has at most loop.curriculum.facts = {loop.curriculum.facts} facts"
            )
    settings = params.sequences("train", length, curriculum)
    earlier = params.sequences("train", length, replayed=True) if params.replay and not curriculum else None
    batch = []
    stride = max(loop.documents_per_step, loop.curriculum.documents_per_step if loop.curriculum else 0)
    most, count = loop.max_queries_per_document, loop.instructions_per_document
    for place in range(0, loop.sequences_of_step(length, curriculum), count):
        index = step * stride + place
        if earlier and random.Random(f"{params.seed}/replay/{index}").random() < params.replay.share:
            batch += _draw_protocol(documents, earlier, params, index)
        elif params.people and random.Random(f"{params.seed}/people/{index}").random() < params.people.share:
            drawn = _draw_people(params, material, index, length)
            batch += [
                TrainingEpisode.of(sequence, tuple(row[:most] for row in queries), seed)
                for seed, (sequence, queries) in enumerate(drawn, index)
            ]
        else:
            batch += _draw_protocol(documents, settings, params, index)
    return batch


def _draw_protocol(
    documents: Sequence[Document], settings: SequenceSettings, params: TrainParams, index: int
) -> list[TrainingEpisode]:
    """Sequence number `index` of the protocol, once under each of its instructions."""
    most, count, batch = params.loop.max_queries_per_document, params.loop.instructions_per_document, []
    episodes = draw_contrastive(documents, settings, params.seed, index, count)
    for seed, sequence in enumerate(episodes, index):
        rng = random.Random(f"{params.seed}/questions/{index}")
        queries = tuple(
            tuple(query for _, query in asked(sequence, t, settings, rng)[:most]) for t in range(len(sequence.steps))
        )
        batch.append(TrainingEpisode.of(with_revocations(sequence), queries, seed))
    return batch


def _draw_people(
    params: TrainParams, material: Material, index: int, length: int
) -> list[tuple[Episode, tuple[tuple[Query, ...], ...]]]:
    """Sequence number `index` in people's words: drawn from facts, or from documents written one by one."""
    people, count = params.people, params.loop.instructions_per_document
    if people.written and random.Random(f"{params.seed}/written/{index}").random() < people.written.share:
        formats, kinds = people.eligible_formats, people.written.kinds
        return draw_written(material.written, formats, params.seed, index, length, count, kinds)
    return draw_people(material.facts, people, "train", params.seed, index, length, count)


def validation_episodes(params: TrainParams, material: Material) -> list[TrainingEpisode]:
    """Fixed sequences with the held-out phrasing; as long as the longest in training. With `people`, so many again in
    people's words, of families of phrasing that are held out; with `people.written`, so many more of those."""
    longest, number = params.loop.longest, params.loop.validation_sequences
    settings = params.sequences("test", longest)
    sequences = evaluation_sequences(material.documents, settings, number, params.seed)
    fixed = [
        TrainingEpisode.of(
            s, tuple(tuple(query for _, query in asked(s, t, settings)) for t in range(len(s.steps))), index
        )
        for index, s in enumerate(sequences)
    ]
    if params.people:
        for index in range(number):
            [(sequence, queries)] = draw_people(material.facts, params.people, "test", params.seed, index, longest)
            fixed.append(TrainingEpisode.of(sequence, queries, number + index))
    if params.people and params.people.written:
        for index in range(number):
            formats = params.people.eligible_formats
            [(sequence, queries)] = draw_written(material.written, formats, params.seed, index, longest)
            fixed.append(TrainingEpisode.of(sequence, queries, 2 * number + index))
    return fixed


def with_revocations(sequence: Episode) -> Episode:
    """`sequence` with an instruction beside each step's own that takes back what it taught."""
    steps = []
    for step in sequence.steps:
        text, groups = revocation_example(step.target, random.Random(f"{step.instruction}/{step.document}"))
        everything = frozenset(map(str.strip, split_segments(step.document)))
        taken = everything if ALL in groups else step.wanted or frozenset()
        steps.append(replace(step, revocations=((text, taken),)))
    return replace(sequence, steps=tuple(steps))
