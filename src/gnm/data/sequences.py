"""Sequences of documents with targets, instructions and queries, and what is asked after each document.

- `draw_sequence` is a pure function of (documents, settings, seed, index): no global random state, no
  order of calls.
- Documents of a sequence share no fact, so no fact has two answers in it (files of a split share facts).
- Where formats are eligible every document is wrapped in a random eligible format, and exactly one document,
  at a uniformly drawn place, sets the format of all later answers.
- Unlearning appends the first document with its learned facts turned round, each in its own line. The
  published code swaps the words wherever they occur in the document, and skips facts.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gnm.config import StrictModel
from gnm.data.documents import lines_of_facts, turn_round
from gnm.data.formats import apply_format, formats_of
from gnm.data.instructions import Split, instruction_for
from gnm.data.sampling import Sampling, select
from gnm.data.segments import segments_of_lines
from gnm.data.targets import (
    FORMATTING_TYPES,
    TARGET_TYPES,
    Groups,
    Target,
    expected_queries,
    parse_target,
    targets_in,
)
from gnm.data.types import PARAPHRASE, Document, Episode, Step
from gnm.errors import ConfigError, DataError


def _formats(named: Any) -> list[str]:
    try:
        return formats_of(named)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    except (TypeError, AttributeError) as error:
        raise ValueError("it must be a list of formats, or the name of a group of them") from error


TargetType = Literal[TARGET_TYPES]
Formats = Annotated[list[str], BeforeValidator(_formats)]
Length = Annotated[int, Field(ge=1)]


class SequenceSettings(StrictModel):
    """How sequences are drawn. `split` decides phrasings and sampling: random in "train", fixed in "test".

    phrasings: in "train", instructions come from the first so many phrasings of their kind; None: from all.
    """

    target_types: Annotated[list[TargetType], Field(min_length=1)]
    groups: Groups
    sequence_length: Length | tuple[Length, Length]
    unlearning: bool
    split: Split
    sampling: Sampling
    eligible_formats: Formats = []
    phrasings: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "SequenceSettings":
        if not isinstance(self.sequence_length, int) and self.sequence_length[0] > self.sequence_length[1]:
            raise ValueError("sequence_length: the first number must not be above the second")
        if self.sets_format and not self.eligible_formats:
            raise ValueError("eligible_formats is empty, but target_types has formats; name at least one format")
        return self

    @property
    def sets_format(self) -> bool:
        """Whether documents are wrapped and one of a sequence sets the format of the answers."""
        return any(target_type in FORMATTING_TYPES for target_type in self.target_types)


def draw_sequence(documents: Sequence[Document], settings: SequenceSettings, seed: int, index: int) -> Episode:
    """Episode number `index` of the stream `seed`. Raises DataError if the documents don't give one."""
    return draw_contrastive(documents, settings, seed, index, 1)[0]


def draw_contrastive(
    documents: Sequence[Document], settings: SequenceSettings, seed: int, index: int, count: int
) -> list[Episode]:
    """Episode number `index` of the stream `seed`, and others of the same documents under other targets.

    `count` sequences in all; a document with fewer targets has some of them more than once. What tells them apart
    is what their instructions tell apart, so training on them is about nothing else. Raises DataError if the
    documents don't give a sequence.
    """
    rng = random.Random(f"{seed}/{index}")
    candidates = (documents[place] for place in _permutation(len(documents), rng))
    first, used = _build(candidates, settings, rng)
    episodes = [first]
    while len(episodes) < count:
        steps = [
            _another_step([own.steps[t] for own in episodes], document, settings, rng)
            for t, document in enumerate(used)
        ]
        if settings.unlearning:
            steps.append(turned_step(steps[0], used[0]))
        episodes.append(Episode(tuple(steps), settings.unlearning))
    return episodes


def evaluation_sequences(
    documents: Sequence[Document], settings: SequenceSettings, count: int, seed: int
) -> list[Episode]:
    """`count` sequences that share no document while documents last; then all of them are there again.

    Raises DataError if the documents don't give one sequence.
    """
    rng = random.Random(f"{seed}/evaluation")
    pool: list[Document] = []
    sequences = []
    while len(sequences) < count:
        fresh = not pool
        if fresh:
            pool = [documents[place] for place in _permutation(len(documents), rng)]
        try:
            sequence, used = _build(pool, settings, rng)
        except DataError:
            if fresh:
                raise
            pool = []
            continue
        sequences.append(sequence)
        used_ids = {id(document) for document in used}
        pool = [document for document in pool if id(document) not in used_ids]
    return sequences


def make_step(
    document: Document,
    target: str,
    target_type: str,
    format: str | None,
    settings: SequenceSettings,
    rng: random.Random,
) -> Step:
    """The step that writes `document` under `target`; it may have no queries if the sampling counts leave none."""
    training = settings.split == "train"
    text = apply_format(document.text, format)
    return Step(
        document=text,
        instruction=instruction_for(target, settings.split, rng, settings.phrasings),
        target=target,
        target_type=target_type,
        format=format,
        queries=select(expected_queries(document.pairs, target), settings.sampling, rng if training else None),
        wanted=_wanted(document, document.text, text, parse_target(target)),
        refused=_refused(document, document.text, parse_target(target)),
        is_rule=parse_target(target).is_rule,
    )


def _wanted(document: Document, plain: str, text: str, target: Target) -> frozenset[str] | None:
    """The segments that `target` is about: facts to learn or to refuse, and lines that show the format.

    plain: the lines of `document` as they are written, perhaps turned round; text: those in their format.
    None if a fact's line cannot be told.
    """
    stated = _stated(document, plain, lambda *group: target.learns(*group) or target.refuses(*group))
    if stated is None:
        return None
    lines = plain.split("\n")
    formatting = [line for line in text.split("\n") if line not in lines] if target.format else []
    return segments_of_lines([*stated, *formatting])


def _refused(document: Document, plain: str, target: Target) -> frozenset[str]:
    """The segments of `plain` (as in `_wanted`) whose facts `target` refuses; none if their lines cannot be told."""
    return segments_of_lines(_stated(document, plain, target.refuses) or [])


def _stated(document: Document, plain: str, chosen: Callable[[str, str], bool]) -> list[str] | None:
    """The lines of `plain` that state the facts of `document` whose category and subcategory are `chosen`; None if they
    cannot be told."""
    try:
        stated = lines_of_facts(document, document.text.split("\n"))
    except DataError:
        return None
    lines = plain.split("\n")
    groups = {pair.fact_id: (pair.category, pair.subcategory) for pair in document.pairs}
    return [lines[stated[fact]] for fact, group in groups.items() if chosen(*group)]


def turned_step(step: Step, document: Document) -> Step:
    """`step` of `document` once more, with the facts to learn turned round in the text and in the answers.

    Same instruction, format and questions. Raises DataError if a fact's line cannot be told.
    """
    target = parse_target(step.target)
    learned = {pair.fact_id for pair in document.pairs if target.learns(pair.category, pair.subcategory)}
    queries = tuple(
        replace(query, target_output=query.non_target_output, non_target_output=query.target_output)
        if query.learn and query.type == PARAPHRASE
        else query
        for query in step.queries
    )
    plain = turn_round(document, learned)
    text = apply_format(plain, step.format)
    wanted = _wanted(document, plain, text, target)
    revokes = (step.wanted or frozenset()) - (wanted or frozenset())
    refused = _refused(document, plain, target)
    return replace(step, document=text, queries=queries, wanted=wanted, refused=refused, revokes=revokes)


def _permutation(count: int, rng: random.Random) -> Iterator[int]:
    """Numbers below `count` in random order, drawn only as far as they are used."""
    moved: dict[int, int] = {}
    for place in range(count):
        other = rng.randrange(place, count)
        yield moved.get(other, other)
        moved[other] = moved.get(place, place)


def _build(
    candidates: Iterable[Document], settings: SequenceSettings, rng: random.Random
) -> tuple[Episode, list[Document]]:
    """The sequence of the first candidates that fit, and those documents."""
    length = settings.sequence_length
    if not isinstance(length, int):
        length = rng.randint(*length)
    setting = [kind for kind in settings.target_types if kind in FORMATTING_TYPES]
    plain = [kind for kind in settings.target_types if kind not in FORMATTING_TYPES]
    format_place = rng.randrange(length) if setting else None
    steps: list[Step] = []
    used: list[Document] = []
    facts: set[int] = set()
    for document in candidates:
        kinds = setting if not plain or len(steps) == format_place else plain
        step = None if facts.intersection(document.fact_ids) else _step(document, kinds, settings, rng)
        if step is None:
            continue
        steps.append(step)
        used.append(document)
        facts.update(document.fact_ids)
        if len(steps) == length:
            break
    else:
        raise DataError(
            f"only {len(steps)} of {length} documents of a sequence could be found: no further one has a "
            f"target of {', '.join(settings.target_types)} among the groups {settings.groups!r}, queries under "
            "the sampling counts, and facts of its own; give more documents or shorter sequences"
        )
    if settings.unlearning:
        steps.append(turned_step(steps[0], used[0]))
    return Episode(tuple(steps), settings.unlearning), used


def _another_step(steps: Sequence[Step], document: Document, settings: SequenceSettings, rng: random.Random) -> Step:
    """A step of `document` under none of the targets of `steps`, as far as there are others of their kind."""
    formatting = steps[0].target_type in FORMATTING_TYPES
    kinds = [kind for kind in settings.target_types if (kind in FORMATTING_TYPES) == formatting]
    known = {step.target for step in steps}
    return _step(document, kinds, settings, rng, known) or _step(document, kinds, settings, rng) or steps[0]


def _step(
    document: Document, kinds: Sequence[str], settings: SequenceSettings, rng: random.Random, known: Iterable[str] = ()
) -> Step | None:
    """A step with a random target of one of `kinds`, not in `known`; None if there is none or nothing to ask."""
    targets = targets_in(document, kinds, settings.groups)
    targets = {kind: [name for name in names if name not in known] for kind, names in targets.items()}
    targets = {kind: names for kind, names in targets.items() if names}
    if not targets:
        return None
    target_type = rng.choice(list(targets))
    target = rng.choice(targets[target_type])
    name = rng.choice(settings.eligible_formats) if settings.sets_format else None
    step = make_step(document, target, target_type, name, settings, rng)
    return step if step.queries else None
