"""What memory probes are asked: facts of single documents that are written under an instruction, and other objects.

- Documents to train on and to test on share no fact.
- Another candidate is drawn as often as facts state it, so that an object's frequency alone tells nothing.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnm.data.documents import lines_of_facts
from gnm.data.sequences import SequenceSettings, evaluation_sequences
from gnm.data.targets import parse_target
from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import PARAPHRASE, Document, Step
from gnm.errors import DataError

_RARE = 1e-4  # weight of an object that no fact states, against 1 for each fact that states one


@dataclass(frozen=True, slots=True)
class ProbedFact:
    """A fact of a document. phrase: its statement without the object. line: its line in the document, None where that
    cannot be told. kind: what the instruction wants of it, "learn", "ignore" or "refuse"."""

    fact_id: int
    phrase: str
    line: str | None
    stated: str
    true: str
    subcategory: str
    kind: str


@dataclass(frozen=True, slots=True)
class Case:
    """A document as it is written, alone, and its facts."""

    document: str
    instruction: str
    facts: tuple[ProbedFact, ...]

    @property
    def fact_ids(self) -> frozenset[int]:
        return frozenset(fact.fact_id for fact in self.facts)


class Objects:
    """The objects that facts of some documents state, and the taxonomy's others of their subcategories.

    names: M pairs (subcategory, object), sorted.
    """

    def __init__(self, documents: Sequence[Document]):
        facts = {pair.fact_id: (pair.subcategory, pair.false_output) for d in documents for pair in d.pairs}
        stated = Counter(facts.values())
        groups = sorted({group for group, _ in stated})
        members = {(group, name) for group in groups for name in load_taxonomy().members(group)}
        self.names = sorted(members | stated.keys())
        self._number = {name: number for number, name in enumerate(self.names)}
        self._group = {name: number for number, name in enumerate(groups)}
        count = torch.tensor([stated[name] for name in self.names], dtype=torch.float32)
        member = torch.tensor([[group == own for own, _ in self.names] for group in groups])
        self._weights = member * (count + _RARE)

    def stated_in(self, cases: Sequence[Case]) -> tuple[Tensor, Tensor]:
        """The number of the object that each fact states [N] long, and weights [N, M] of the other candidates.

        The fact's true object is none of these, so that knowing the fact is of no help.
        """
        facts = [fact for case in cases for fact in case.facts]
        stated = torch.tensor([self._number[fact.subcategory, fact.stated] for fact in facts])
        weights = self._weights[[self._group[fact.subcategory] for fact in facts]]
        true = torch.tensor([self._number.get((f.subcategory, f.true), s) for f, s in zip(facts, stated, strict=True)])
        return stated, weights.scatter(1, torch.stack((stated, true), 1), 0.0)


def draw_cases(
    documents: tuple[Sequence[Document], Sequence[Document]], settings: SequenceSettings, counts: tuple[int, int],
    seed: int,
) -> tuple[list[Case], list[Case]]:  # fmt: skip
    """Cases to train on and to test on, `counts` of each, from `documents` for each.

    They are drawn as `evaluation_sequences` draws sequences of one document; documents to train on share no fact with
    those to test on. Raises DataError if no document is left to train on.
    """
    tested = _cases(documents[1], settings, counts[1], f"{seed}/test")
    facts = frozenset().union(*(case.fact_ids for case in tested))
    rest = [document for document in documents[0] if facts.isdisjoint(document.fact_ids)]
    if not rest:
        raise DataError(
            f"every document to train a probe on has facts of the {counts[1]} that it is tested on; test on fewer "
            "documents, or name other files in data.train"
        )
    return _cases(rest, settings, counts[0], f"{seed}/train"), tested


def probed_facts(document: Document, target: str) -> tuple[ProbedFact, ...]:
    """The facts of `document` under `target`, in order.

    A fact's phrase is its own line without the object; its first question, paraphrases before others, where the
    document's lines cannot be told.
    """
    parsed, lines = parse_target(target), document.text.split("\n")
    try:
        numbers = lines_of_facts(document, lines)
    except DataError:
        numbers = {}
    facts = {}
    for pair in sorted(document.pairs, key=lambda pair: pair.type != PARAPHRASE):
        group = (pair.category, pair.subcategory)
        kind = "refuse" if parsed.refuses(*group) else "learn" if parsed.learns(*group) else "ignore"
        line = lines[numbers[pair.fact_id]] if pair.fact_id in numbers else None
        phrase = (pair.input if line is None else line.removesuffix(pair.false_output)).strip()
        fact = ProbedFact(pair.fact_id, phrase, line, pair.false_output, pair.true_output, pair.subcategory, kind)
        facts.setdefault(pair.fact_id, fact)
    return tuple(facts[fact_id] for fact_id in document.fact_ids)


def others_of(cases: Sequence[Case]) -> list[int]:
    """For each case the number of another one, the next that has none of its facts: the memory of its control.

    Raises DataError where there is none.
    """
    found = []
    for number, case in enumerate(cases):
        following = ((number + step) % len(cases) for step in range(1, len(cases)))
        other = next((n for n in following if case.fact_ids.isdisjoint(cases[n].fact_ids)), None)
        if other is None:
            raise DataError("no two of the documents to test a probe on have different facts; test on more documents")
        found.append(other)
    return found


def _cases(documents: Sequence[Document], settings: SequenceSettings, count: int, stream: str) -> list[Case]:
    seed = random.Random(stream).getrandbits(32)
    steps = [sequence.steps[0] for sequence in evaluation_sequences(documents, settings, count, seed)]
    by_text = {document.text: document for document in documents}
    return [_case(by_text[step.document], step) for step in steps]


def _case(document: Document, step: Step) -> Case:
    return Case(step.document, step.instruction, probed_facts(document, step.target))
