"""Documents of the memory analysis: `python -m gnm.probing.distracted [--params FILE] [--block B] [key=value ...]`.

- A target fact stands in several documents, each time among other distractors: one fact of each of some other groups,
  in random order, under one header.
- Every document has two instructions of the same phrasing: to learn the target's group alone, and to learn the group
  of one of its distractors alone. What differs between the two writes is what the instruction does.
- Written: a JSON list of documents, of the same target one after another.
"""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from gnm.config import StrictModel
from gnm.data.counterfact import read_facts
from gnm.data.documents import BULLET, HEADER
from gnm.data.instructions import instruction_for
from gnm.data.sources import read_json
from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import Fact
from gnm.errors import DataError
from gnm.files import write_json
from gnm.program import run_program

Positive = Annotated[int, Field(gt=0, le=10**5)]
Groups = Annotated[list[str], Field(min_length=1)]


class DistractedParams(StrictModel):
    """What is drawn. facts: a file of categorised facts. count: of target facts, taken from `targets` in turn.

    targets, distractors: subcategories, none in both; a document has one fact of each of `distractors`.
    paraphrased: questions are the facts' first paraphrases; otherwise in the words of the document, which are fewer.
    """

    facts: Path
    targets: Groups
    distractors: Groups
    count: Positive
    documents: Positive = Field(description="of each target fact")
    paraphrased: bool
    seed: int
    output: Path

    @model_validator(mode="after")
    def _groups_apart(self) -> "DistractedParams":
        known = load_taxonomy().subcategories
        if strange := [group for group in self.targets + self.distractors if group not in known]:
            raise ValueError(f"{strange[0]!r} is no subcategory; known: {', '.join(known)}")
        if both := set(self.targets) & set(self.distractors):
            raise ValueError(f"{sorted(both)[0]!r} is in targets and in distractors; name it in one of them")
        return self


class Statement(StrictModel):
    """A fact as its line states it: `phrase` and the `stated` object. question: how it is asked for."""

    fact_id: int
    subcategory: str
    phrase: str
    stated: str
    true: str
    question: str


class DistractedDocument(StrictModel):
    """A document of the target fact number `target`, and its statements in order.

    about, named: places among the statements of the target, and of the distractor whose group the instruction
    `swapped` is about; `instruction` is about the target's group.
    """

    target: int
    statements: tuple[Statement, ...]
    about: int
    named: int
    instruction: str
    swapped: str

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Each statement's line in two parts: up to the object, and the object with the blank before it."""
        return [(f"{BULLET}{each.phrase}", f" {each.stated}") for each in self.statements]

    @property
    def text(self) -> str:
        """The document as it is written."""
        return "\n".join([HEADER, *("".join(line) for line in self.lines)]) + "\n"


def distracted_documents(facts: Iterable[Fact], params: DistractedParams) -> list[DistractedDocument]:
    """Documents of `params.count` targets. Raises DataError if a group has fewer facts than are drawn of it."""
    rng = random.Random(params.seed)
    by_group: dict[str, list[Fact]] = {group: [] for group in params.targets + params.distractors}
    for fact in sorted(facts, key=lambda fact: fact.fact_id):
        if fact.subcategory in by_group:
            by_group[fact.subcategory].append(fact)
    of_targets = -(-params.count // len(params.targets))
    for group, own in by_group.items():
        needed = of_targets if group in params.targets else params.documents
        if len(own) < needed:
            raise DataError(
                f"{params.facts} has {len(own)} facts of {group}, {needed} are drawn; lower count or documents, or "
                "name another group"
            )
    drawn = {group: iter(rng.sample(by_group[group], of_targets)) for group in params.targets}
    targets = [next(drawn[params.targets[number % len(params.targets)]]) for number in range(params.count)]
    found = []
    for number, target in enumerate(targets):
        others = [rng.sample(by_group[group], params.documents) for group in params.distractors]
        found += [_document(number, [target, *own], params, rng) for own in zip(*others, strict=True)]
    return found


def read_distracted(path: Path) -> list[DistractedDocument]:
    """What `main` wrote. Raises DataError for a missing, damaged or foreign file."""
    records = read_json(path)
    try:
        if not isinstance(records, list) or not records:
            raise ValueError("no list of documents")
        return [DistractedDocument.model_validate(record) for record in records]
    except (ValidationError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} holds no documents of a memory analysis ({reason}); make it again") from error


def by_target(documents: Sequence[DistractedDocument], most: int | None = None) -> list[list[DistractedDocument]]:
    """The documents of each target, the first `most` of them; None: all."""
    groups: dict[int, list[DistractedDocument]] = {}
    for document in documents:
        groups.setdefault(document.target, []).append(document)
    return [group[:most] for group in groups.values()]


def _document(number: int, drawn: Sequence[Fact], params: DistractedParams, rng: random.Random) -> DistractedDocument:
    """The document of `drawn` facts, the target first of them."""
    facts, target, named = rng.sample(drawn, len(drawn)), drawn[0], rng.choice(drawn[1:])
    return DistractedDocument(
        target=number,
        statements=tuple(_statement(fact, params.paraphrased) for fact in facts),
        about=facts.index(target),
        named=facts.index(named),
        instruction=instruction_for(target.subcategory, "test"),
        swapped=instruction_for(named.subcategory, "test"),
    )


def _statement(fact: Fact, paraphrased: bool) -> Statement:
    question = fact.paraphrases[0] if paraphrased else fact.phrase
    return Statement(
        fact_id=fact.fact_id, subcategory=fact.subcategory, phrase=fact.phrase, stated=fact.false, true=fact.true,
        question=question,
    )  # fmt: skip


def write_documents(params: DistractedParams) -> str:
    """Draw the documents and write them to `params.output`; returns a sentence that says how many."""
    documents = distracted_documents(read_facts(params.facts), params)
    write_json(params.output, [each.model_dump(mode="json") for each in documents], indent=1)
    return f"{len(documents)} documents of {params.count} target facts: {params.output}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, draw, write."""
    program = "gnm.probing.distracted"
    run_program(program, __doc__, DistractedParams, lambda params, _: print(write_documents(params)), arguments)


if __name__ == "__main__":
    main()
