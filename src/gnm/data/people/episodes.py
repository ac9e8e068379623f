"""Sequences as people would have them: documents, instructions and questions in their own words.

- A pure function of (facts, settings, seed, index), as `gnm.data.sequences` is.
- What a fact is to be answered with goes by what every document so far said of it: the last one under whose instruction
  it is learned or refused decides, so a correction wins; a fact that none took up is answered with the true object.
- The pairs of groups that experiment 3 evaluates are never composed here.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from gnm.config import StrictModel
from gnm.data.asking import format_in_force
from gnm.data.formats import apply_format
from gnm.data.instructions import Split, kind_of
from gnm.data.people.asking import Held, ask
from gnm.data.people.everyday import draw_everyday, load_everyday
from gnm.data.people.grammar import CORRECTION, worded, worded_instruction, worded_revocation
from gnm.data.people.layouts import STYLES, Text, lay_out
from gnm.data.people.targets import FORMATTING_KINDS, KINDS, SORTS, draw_target, reversed_target
from gnm.data.people.themes import groups_of
from gnm.data.people.wordings import Stated, filler_of, is_worded
from gnm.data.segments import segments_at, wanted_segments
from gnm.data.sequences import Formats
from gnm.data.targets import ALL, Target
from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import Episode, Fact, Query, Step
from gnm.errors import DataError

Share = Annotated[float, Field(ge=0, le=1)]


class PeopleSettings(StrictModel):
    """How documents, targets and questions are drawn.

    redrawn: share of the facts that are stated with another object than CounterFact's false one, any of its kind being
    as likely: CounterFact states few objects again and again, which can be guessed instead of read.
    kinds: how often each kind of target is drawn, in proportion.
    corrections: share of the documents, after the first, that state facts of an earlier one anew.
    wrapped: share of the documents that stand in a format without setting it.
    sorts: how often the groups of a target are of each sort, in proportion: of the taxonomy; themes; subjects; fine
    groups.
    everyday: share of the documents that state facts about made-up persons; half of these state nothing else.
    reversed: where documents are drawn under several instructions, share of every second one that is the reverse of
    the first, of those that have one: the same groups are named and the opposite is wanted of them.
    """

    kinds: dict[Literal[KINDS], Annotated[float, Field(ge=0)]] = dict.fromkeys(KINDS, 1.0)
    facts: tuple[Annotated[int, Field(ge=2)], int] = (3, 7)
    redrawn: Share = 0.7
    corrections: Share = 0.3
    wrapped: Share = 0.1
    sorts: dict[Literal[SORTS], Annotated[float, Field(ge=0)]] = {"taxonomy": 0.55, "theme": 0.35, "subject": 0.1}
    everyday: Share = 0.0
    reversed: Share = 0.5
    eligible_formats: Formats = []

    def draws(self, kind: str) -> bool:
        """Whether a kind of target can be drawn: those of formats need some."""
        return bool(self.eligible_formats) or kind not in FORMATTING_KINDS

    @model_validator(mode="after")
    def _something_is_drawn(self) -> "PeopleSettings":
        if not any(weight for kind, weight in self.kinds.items() if self.draws(kind)):
            raise ValueError("kinds: give one of them a weight above 0 (those of formats need eligible_formats)")
        if self.facts[0] > self.facts[1]:
            raise ValueError("facts: the first number must not be above the second")
        if not self.sorts.get("taxonomy"):
            raise ValueError("sorts: give taxonomy a weight above 0; compositions and small documents need it")
        return self


@dataclass(frozen=True)
class Facts:
    """Facts with wordings, by subcategory; the objects that may be stated for each (relation, subcategory): those that
    CounterFact states, those of `objects.yaml`, and where any member of the subcategory makes sense (none of
    occupations does) all of these; sentences that state no fact."""

    by_group: Mapping[str, tuple[Fact, ...]]
    objects: Mapping[tuple[str, str], tuple[str, ...]]
    fillers: tuple[str, ...]


@dataclass(frozen=True)
class _Plain:
    """A document before any instruction: its facts, each with the object in `false` that is stated, and the text."""

    facts: tuple[Fact, ...]
    text: Text


def index_facts(facts: Sequence[Fact]) -> Facts:
    """`facts` for drawing. Raises DataError if fewer than two subcategories have facts with wordings."""
    by_group, objects = defaultdict(list), defaultdict(set)
    for fact in sorted((fact for fact in facts if is_worded(fact)), key=lambda fact: fact.fact_id):
        by_group[fact.subcategory].append(fact)
        objects[fact.relation, fact.subcategory].add(fact.false)
        if fact.category != "occupation":
            objects[fact.relation, fact.subcategory].update(load_taxonomy().members(fact.subcategory))
    for relation, subcategory in objects:
        objects[relation, subcategory].update(load_objects().get(relation, {}).get(subcategory, ()))
    for name, group in load_everyday().items():
        objects.update({(relation, name): set(group.objects) for relation in group.relations})
    if len(by_group) < 2:
        raise DataError("people's sequences need facts of two groups whose relations have wordings (wordings.yaml)")
    fillers = {filler_of(text) for fact in facts for text in fact.paraphrases} - {None}
    return Facts(
        {group: tuple(own) for group, own in by_group.items()},
        {key: tuple(sorted(own)) for key, own in objects.items()},
        tuple(sorted(fillers)),
    )


@cache
def load_objects() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """The packaged objects that documents may state beside CounterFact's: by relation id, then by subcategory."""
    table = yaml.safe_load(files("gnm.data.people").joinpath("objects.yaml").read_text(encoding="utf-8"))
    return {
        relation: {subcategory: tuple(own) for subcategory, own in groups.items()} for relation, groups in table.items()
    }


def draw_people(
    facts: Facts, settings: PeopleSettings, split: Split, seed: int, index: int, length: int, count: int = 1
) -> list[tuple[Episode, tuple[tuple[Query, ...], ...]]]:
    """Sequence number `index` of the stream `seed`, `count` times with the same documents under different targets;
    each with what is asked after every document. Every second one has some targets that reverse the first's."""
    rng = random.Random(f"{seed}/people/{split}/{index}")
    plain: list[_Plain] = []
    for _ in range(length):
        plain.append(_document(facts, settings, plain, rng))
    drawn, targets = [], []
    for number in range(count):
        own = random.Random(rng.random())
        targets = _targets(plain, settings, targets if number % 2 else [], own)
        drawn.append(_sequence(plain, targets, settings, split, own))
    return drawn


def _targets(
    plain: Sequence[_Plain], settings: PeopleSettings, before: Sequence[tuple[str, Target]], rng: random.Random
) -> list[tuple[str, Target]]:
    """A target for every document, with its kind; a share of them the reverse of the target `before` has there."""
    kinds = {kind: weight for kind, weight in settings.kinds.items() if settings.draws(kind)}
    targets = []
    for t, document in enumerate(plain):
        opposite = reversed_target(before[t][1]) if before and rng.random() < settings.reversed else None
        if opposite and kinds.get(kind_of(opposite)):
            targets.append((kind_of(opposite), opposite))
        else:
            kind = rng.choices(list(kinds), list(kinds.values()))[0]
            targets.append((kind, draw_target(kind, document.facts, settings.sorts, rng)))
    return targets


def _document(facts: Facts, settings: PeopleSettings, earlier: Sequence[_Plain], rng: random.Random) -> _Plain:
    """A document of new facts, or of some new ones and some that state anew what an earlier one says."""
    used = {fact.fact_id for document in earlier for fact in document.facts}
    number = rng.randint(*settings.facts)
    everyday = 0
    if rng.random() < settings.everyday:
        everyday = rng.choice((number, number // 2))
    drawn = _draw_facts(facts, number - everyday, used, rng)
    if everyday:
        drawn = rng.sample([*drawn, *draw_everyday(everyday, rng)], number)
    for place, fact in enumerate(drawn):
        others = [o for o in facts.objects[fact.relation, fact.subcategory] if o != fact.true]
        if others and rng.random() < settings.redrawn:
            drawn[place] = replace(fact, false=rng.choice(others))
    if earlier and rng.random() < settings.corrections:
        before = rng.choice(earlier)
        for fact in rng.sample(before.facts, min(len(before.facts), rng.randint(1, 3))):
            others = [o for o in facts.objects[fact.relation, fact.subcategory] if o not in (fact.false, fact.true)]
            if others:
                place = rng.randrange(len(drawn) + 1)
                drawn.insert(place, replace(fact, false=rng.choice(others)))
    stated = [Stated(fact.fact_id, fact.relation, fact.subject, fact.false) for fact in drawn]
    text = lay_out(stated, rng.choice(STYLES), facts.fillers, rng)
    return _Plain(tuple(drawn), text)


def _draw_facts(facts: Facts, number: int, used: set[int], rng: random.Random) -> list[Fact]:
    """Facts that are not `used`, of a few groups, so that each group has some and there are others beside it."""
    groups = rng.sample(sorted(facts.by_group), min(len(facts.by_group), rng.randint(2, max(2, number - 1))))
    drawn: dict[int, Fact] = {}
    while len(drawn) < number:
        fact = rng.choice(facts.by_group[groups[len(drawn) % len(groups)]])
        if fact.fact_id not in used:
            drawn[fact.fact_id] = fact
    return rng.sample(list(drawn.values()), number)


def _sequence(
    plain: Sequence[_Plain],
    targets: Sequence[tuple[str, Target]],
    settings: PeopleSettings,
    split: Split,
    rng: random.Random,
) -> tuple[Episode, tuple[tuple[Query, ...], ...]]:
    steps: list[Step] = []
    held: dict[int, Held] = {}
    asked = []
    for t, (document, (kind, target)) in enumerate(zip(plain, targets, strict=True)):
        step = _step(document, kind, target, settings, split, rng)
        again = {fact.fact_id for fact in document.facts if fact.fact_id in held}
        if again and rng.random() < 0.6:
            step = replace(step, instruction=f"{worded(CORRECTION, (), (), split, rng)} {step.instruction}")
        for fact in document.facts:
            before = held.get(fact.fact_id)
            held[fact.fact_id] = Held.after(before, fact, target, t)
        revised = {f for f in again if held[f].document == t and held[f].learned}
        step = replace(step, revokes=_segments_of(steps, plain, revised))
        steps.append(step)
        wrapping = format_in_force(Episode(tuple(steps), False), t)
        asked.append(tuple(replace(query, format=wrapping) for query in ask(held.values(), t, rng)))
    return Episode(tuple(steps), False), tuple(asked)


def _step(
    document: _Plain, kind: str, target: Target, settings: PeopleSettings, split: Split, rng: random.Random
) -> Step:
    """The document as it is written under `target`."""
    sets = kind in FORMATTING_KINDS
    wrapped = sets or (settings.eligible_formats and rng.random() < settings.wrapped)
    name = rng.choice(settings.eligible_formats) if wrapped else None
    plain = document.text.text.strip()
    text = apply_format(plain, name) if name else plain
    instruction = worded_instruction(target, split, rng)
    said, groups = worded_revocation(target, split, rng)
    return Step(
        document=text,
        instruction=instruction,
        target=kind,
        target_type=FORMATTING_KINDS.get(kind, kind),
        format=name,
        queries=(),
        wanted=_wanted(document, target, plain, text),
        revocations=((said, _segments_about(document, groups, plain, text)),),
        refused=_segments_about(document, target.refuse, plain, text),
        is_rule=target.is_rule,
    )


def _wanted(document: _Plain, target: Target, plain: str, text: str) -> frozenset[str]:
    """The segments of `text` that `target` is about: all but what is left out, or the facts to learn or to refuse; and
    the ends of the text, if its format counts."""
    spans = _spans(document, plain, text)
    groups = {fact.fact_id: groups_of(fact) for fact in document.facts}
    taken = {fact for fact, group in groups.items() if target.learns(*group) or target.refuses(*group)}
    return wanted_segments(
        text,
        [span for fact in taken for span in spans[fact]],
        [span for fact in groups.keys() - taken for span in spans[fact]] if target.learns_all else None,
        plain if target.format else None,
    )


def _segments_about(document: _Plain, groups: Sequence[str], plain: str, text: str) -> frozenset[str]:
    """The segments of `text` that state facts of `groups`; all of them where that is ALL."""
    if ALL in groups:
        return segments_at(text, [(0, len(text))])
    meant = [fact.fact_id for fact in document.facts if set(groups) & set(groups_of(fact))]
    spans = _spans(document, plain, text)
    return segments_at(text, [span for fact in meant for span in spans[fact]])


def _segments_of(steps: Sequence[Step], plain: Sequence[_Plain], facts: set[int]) -> frozenset[str]:
    """The segments of earlier steps that state `facts`."""
    found: set[str] = set()
    for step, document in zip(steps, plain, strict=False):
        spans = _spans(document, document.text.text.strip(), step.document)
        found |= segments_at(step.document, [span for fact in facts for span in spans.get(fact, ())])
    return frozenset(found)


def _spans(document: _Plain, plain: str, text: str) -> dict[int, list[tuple[int, int]]]:
    """Where `text`, which holds the `plain` text of a document, states each fact: (start, end) by the fact's number."""
    shift = text.index(plain) - document.text.text.index(plain)
    return {fact: [(start + shift, end + shift) for start, end in own] for fact, own in document.text.spans.items()}
