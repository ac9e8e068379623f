"""Probes made of documents that were written one by one: small tests of a memory in words that no training has seen.

- Of each document two of its instructions, one that takes something back and one that corrects, if it has any, each
  make a probe. Which two goes by the document's place, so that every kind comes as often.
- A question about something made up has no true answer: it is asked only where the answer is another, and stands
  against the object of another fact of the document.
"""

import random
from collections.abc import Iterator, Mapping, Sequence

from gnm.data.formats import FORMATS, apply_format
from gnm.data.people.written import WrittenDocument, WrittenTask
from gnm.data.probes import Probe, ProbeQuery


def probes_of(documents: Sequence[WrittenDocument]) -> list[Probe]:
    """The probes of all documents, in their order."""
    return [probe for number, document in enumerate(documents) for probe in _probes(document, number)]


def _probes(document: WrittenDocument, number: int) -> Iterator[Probe]:
    count = len(document.tasks)
    for place in sorted({number % count, (number + count // 2) % count}):
        task = document.tasks[place]
        name = random.Random(f"{number}/{place}").choice(FORMATS) if task.format else None
        text = apply_format(document.document.strip(), name) if name else document.document
        kind = "format" if name else task.kind
        yield _probe(document, f"{number}-{place}", kind, [(text, task.instruction)], _expected(task), name)
    whole = next((task for task in document.tasks if task.kind == "all" and not task.format), None)
    if whole is None:
        return
    first, learned = (document.document, whole.instruction), _expected(whole)
    for place, revocation in enumerate(document.take_back[:1]):
        expected = {fact: "ignored" if fact in revocation.forget else how for fact, how in learned.items()}
        yield _probe(document, f"{number}-back-{place}", "forget", [first, ("", revocation.instruction)], expected)
    if document.correction:
        steps = [first, (document.correction.document, document.correction.instruction)]
        newer = {fact.of: fact.object for fact in document.correction.facts}
        yield _probe(document, f"{number}-corrected", "revise", steps, learned, None, newer)


def _expected(task: WrittenTask) -> dict[int, str]:
    return dict.fromkeys(task.learn, "learned") | dict.fromkeys(task.refuse, "refused")


def _probe(
    document: WrittenDocument,
    name: str,
    kind: str,
    steps: Sequence[tuple[str, str]],
    expected: Mapping[int, str],
    format: str | None = None,
    newer: Mapping[int, str] | None = None,
) -> Probe:
    """A probe that asks about each fact. expected: by fact; what is not named is ignored. newer: corrected objects."""
    queries = []
    for place, fact in enumerate(document.facts):
        expect = expected.get(place, "ignored")
        others = [other.object for other in document.facts if other.object != fact.object]
        if fact.true is None and (expect == "ignored" or not others):
            continue
        form = "cloze" if (place + len(steps[0][1])) % 2 else "question"
        queries.append(
            ProbeQuery(
                text=getattr(fact, form),
                form=form,
                learn=(newer or {}).get(place, fact.object),
                true=fact.true or others[0],
                expect=expect,
                format=format,
                rival=fact.object if newer and place in newer else None,
            )
        )
    return Probe(name, kind, document.style, "mixed", tuple(steps), tuple(queries))
