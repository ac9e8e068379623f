"""Sequences of documents that were written one by one, as training sees them.

- They have the form of those of `gnm.data.people.episodes`: a pure function of (documents, formats, seed, index).
- A document that corrects another comes right after it; where sequences have one document, it may stand alone.
"""

import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from gnm.data.asking import format_in_force
from gnm.data.formats import apply_format
from gnm.data.people.written import WHOLE, Correction, WrittenDocument, WrittenKind, WrittenTask
from gnm.data.segments import segments_at, wanted_segments
from gnm.data.types import PARAPHRASE, REFUSAL_ANSWER, Episode, Query, Step
from gnm.errors import DataError

_ALONE = 0.4  # of the documents that are corrected, where sequences have one document
Asked = tuple[tuple[Query, ...], ...]
_EQUAL: Mapping[WrittenKind, float] = MappingProxyType({})
Held = Mapping[tuple[int, int], tuple[str, str]]
"""What holds of a fact by (document, place): "learned" or "refused", and the object that was stated last."""


def draw_written(
    documents: Sequence[WrittenDocument],
    formats: Sequence[str],
    seed: int,
    index: int,
    length: int,
    count: int = 1,
    kinds: Mapping[WrittenKind, float] = _EQUAL,
) -> list[tuple[Episode, Asked]]:
    """Sequence number `index` of the stream `seed`, `count` times with the same documents under different instructions;
    each with what is asked after every document. A pure function of its arguments.

    formats: those that a document may be wrapped in. Without any, tasks that set a format are left out.
    kinds: the weights with which a document's tasks are drawn one after another; 1 for kinds that are not named.
    Raises DataError if there are fewer documents than `length`.
    """
    rng = random.Random(f"{seed}/written/{index}")
    if length > len(documents):
        raise DataError(
            f"a sequence of {length} documents needs as many that were written one by one, not {len(documents)}"
        )
    chosen = rng.sample(documents, length)
    fitting = [[task for task in document.tasks if formats or not task.format] for document in chosen]
    tasks = [_drawn(own, kinds, rng) for own in fitting]
    return [
        _sequence(chosen, [own[number % len(own)] for own in tasks], formats, length, random.Random(rng.random()))
        for number in range(count)
    ]


def _drawn(tasks: Sequence[WrittenTask], kinds: Mapping[WrittenKind, float], rng: random.Random) -> list[WrittenTask]:
    """All of `tasks` in the order of a weighted draw without replacement (Efraimidis and Spirakis 2006)."""
    return sorted(tasks, key=lambda task: rng.random() ** (1 / kinds.get(task.kind, 1)), reverse=True)


def _sequence(
    documents: Sequence[WrittenDocument],
    tasks: Sequence[WrittenTask],
    formats: Sequence[str],
    length: int,
    rng: random.Random,
) -> tuple[Episode, Asked]:
    """The documents, each under its task, as many as `length`; a correction takes the place of a document."""
    steps: list[Step] = []
    held: dict[tuple[int, int], tuple[str, str]] = {}
    asked = []
    for number, (document, task) in enumerate(zip(documents, tasks, strict=True)):
        correction = document.correction
        alone = correction is not None and length == 1 and rng.random() < _ALONE
        if not alone and len(steps) < length:
            steps.append(_step(document, task, formats, rng))
            held.update({(number, place): ("learned", document.facts[place].object) for place in task.learn})
            held.update({(number, place): ("refused", document.facts[place].object) for place in task.refuse})
            asked.append(_ask(documents[: number + 1], held, steps, rng))
        if alone or (correction and task.kind == "all" and len(steps) < length):
            steps.append(_corrected(document, correction, None if alone else steps[-1].document))
            held.update({(number, fact.of): ("learned", fact.object) for fact in correction.facts})
            asked.append(_ask(documents[: number + 1], held, steps, rng))
    return Episode(tuple(steps), False), tuple(asked)


def _step(document: WrittenDocument, task: WrittenTask, formats: Sequence[str], rng: random.Random) -> Step:
    plain = document.document.strip()
    name = rng.choice(formats) if task.format and formats else None
    text = apply_format(plain, name) if name else plain
    spans = [_span(text, fact.quote) for fact in document.facts]
    meant = {*task.learn, *task.refuse}
    return Step(
        document=text,
        instruction=task.instruction,
        target=task.kind,
        target_type="fact_format_compositions" if name else task.kind,
        format=name,
        queries=(),
        wanted=wanted_segments(
            text,
            [span for place, span in enumerate(spans) if place in meant],
            [span for place, span in enumerate(spans) if place not in meant] if task.kind in WHOLE else None,
            plain if name else None,
        ),
        revocations=tuple(
            (back.instruction, segments_at(text, [spans[place] for place in back.forget]))
            for back in document.take_back
        ),
        refused=segments_at(text, [spans[place] for place in task.refuse]),
        is_rule=bool(task.refuse or name),
    )


def _corrected(document: WrittenDocument, correction: Correction, earlier: str | None) -> Step:
    """The step that corrects `document`, which was written as the text `earlier`; None: it was not written."""
    text = correction.document.strip()
    outdated = [document.facts[fact.of].quote for fact in correction.facts]
    return Step(
        document=text,
        instruction=correction.instruction,
        target="all",
        target_type="all",
        format=None,
        queries=(),
        wanted=segments_at(text, [(0, len(text))]),
        revokes=segments_at(earlier or "", [_span(earlier, quote) for quote in outdated] if earlier else []),
    )


def _span(text: str, quote: str) -> tuple[int, int]:
    start = text.index(quote)
    return start, start + len(quote)


def _ask(
    documents: Sequence[WrittenDocument],
    held: Held,
    steps: Sequence[Step],
    rng: random.Random,
) -> tuple[Query, ...]:
    """A question about each fact so far, in random order; what was ignored is asked if it has a true answer."""
    wrapping = format_in_force(Episode(tuple(steps), False), len(steps) - 1)
    queries = []
    for number, document in enumerate(documents):
        for place, fact in enumerate(document.facts):
            what, said = held.get((number, place), ("ignored", fact.object))
            if what == "ignored" and not fact.true:
                continue
            other = rng.choice([f.object for f in document.facts if f.object != said] or [""])
            true = fact.true or other
            target, against = {
                "learned": (said, fact.object if fact.object != said and rng.random() < 0.5 else true),
                "refused": (REFUSAL_ANSWER, ""),
                "ignored": (true, said),
            }[what]
            queries.append(
                Query(
                    input=rng.choice((fact.cloze, fact.question)),
                    true_output=true,
                    false_output=said,
                    category="written",
                    subcategory="written",
                    type=PARAPHRASE,
                    fact_id=1000 * number + place,
                    target_output=target,
                    non_target_output=against,
                    should_refuse=what == "refused",
                    neighbor_of_should_refuse=False,
                    fact_id_targeted_for_fact_learning=what == "learned",
                    fact_id_targeted_for_refusal_learning=what == "refused",
                    format=wrapping,
                )
            )
    return tuple(rng.sample(queries, len(queries)))
