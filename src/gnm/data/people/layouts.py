"""Documents as people write them: facts in lists, prose, dialogues, e-mails, notes, tables and news items.

- A text is made of parts; a part that states a fact carries the fact's number, so where a fact stands is known and
  need not be searched for.
- Prose joins up to three facts in a sentence.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import yaml

from gnm.data.people.wordings import Stated, filled, wording

STYLES = ("bullets", "prose", "dialogue", "email", "notes", "table", "news")
_JOINED = (1, 1, 2, 2, 3)  # facts in a sentence, as often as they stand here


@dataclass
class Text:
    """A text as it grows, with the place (start, end) of each fact."""

    text: str = ""
    spans: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def add(self, text: str, fact: Stated | None = None) -> None:
        """Append `text`, which states `fact`, if it states any."""
        if fact is not None:
            self.spans.setdefault(fact.fact_id, []).append((len(self.text), len(self.text) + len(text)))
        self.text += text


@cache
def load_layouts() -> dict[str, list[str]]:
    """The words around facts, `layouts.yaml`."""
    return yaml.safe_load(files("gnm.data.people").joinpath("layouts.yaml").read_text(encoding="utf-8"))


def lay_out(facts: Sequence[Stated], style: str, fillers: Sequence[str], rng: random.Random) -> Text:
    """A text in one of STYLES that states `facts` in this order, with some of `fillers` between them."""
    text = Text()
    _LAYOUTS[style](text, facts, [*load_layouts()["fillers"], *rng.sample(fillers, min(3, len(fillers)))], rng)
    return text


def _pick(name: str, rng: random.Random) -> str:
    return rng.choice(load_layouts()[name]).replace("<name>", rng.choice(load_layouts()["names"]))


def _bullets(text: Text, facts: Sequence[Stated], fillers: Sequence[str], rng: random.Random) -> None:
    header, mark, stop = _pick("headers", rng), rng.choice(load_layouts()["marks"]), rng.choice(("", "", "."))
    text.add(f"{header}\n" if header else "")
    for number, fact in enumerate(facts, 1):
        text.add(mark.replace("1", str(number)).replace("a)", f"{chr(96 + number)})"))
        text.add(_said(fact, ("statements", "statements", "leading"), rng), fact)
        text.add(f"{stop}\n")
        if rng.random() < 0.1:
            text.add(f"{mark}{rng.choice(fillers)}\n")


def _notes(text: Text, facts: Sequence[Stated], fillers: Sequence[str], rng: random.Random) -> None:
    mark, separator = rng.choice(load_layouts()["marks"]), rng.choice((": ", " - ", ", ", " = ", " -> "))
    for fact in facts:
        text.add(mark)
        if rng.random() < 0.5:
            text.add(_said(fact, ("short", "reduced"), rng), fact)
        else:
            known = rng.choice(wording(fact.relation).field)
            named = (f"{fact.subject}, {known}", f"{known} of {fact.subject}", f"{fact.subject} ({known})")
            text.add(f"{rng.choice(named)}{separator}{fact.object}", fact)
        text.add("\n")
    if rng.random() < 0.3:
        text.add(f"{mark}{rng.choice(fillers)}\n")


def _table(text: Text, facts: Sequence[Stated], fillers: Sequence[str], rng: random.Random) -> None:
    separator, first = rng.choice(load_layouts()["separators"]), rng.choice(load_layouts()["columns"])
    with_field = rng.random() < 0.7
    if rng.random() < 0.7:
        middle = ["about"] if with_field else []
        text.add(separator.join([first, *middle, rng.choice(("value", "answer", "entry", "what it says"))]) + "\n")
    for fact in facts:
        known = rng.choice(wording(fact.relation).field)
        cells = [fact.subject, known, fact.object] if with_field else [fact.subject, f"{known} {fact.object}"]
        text.add(separator.join(cells), fact)
        text.add("\n")


def _dialogue(text: Text, facts: Sequence[Stated], fillers: Sequence[str], rng: random.Random) -> None:
    speakers = rng.sample(load_layouts()["names"], 2)
    turn = rng.randrange(2)
    for fact in facts:
        form = rng.random()
        if form < 0.25:
            text.add(f"{speakers[turn % 2]}: ")
            text.add(filled(rng.choice(wording(fact.relation).questions), fact), fact)
            text.add(f"\n{speakers[(turn + 1) % 2]}: ")
            text.add(_pick("replies", rng).replace("{o}", fact.object), fact)
        else:
            text.add(f"{speakers[turn % 2]}: ")
            text.add(_said(fact, ("short",) if form < 0.45 else ("statements", "leading", "statements"), rng), fact)
            text.add(rng.choice((".", ".", "!", "")))
        text.add("\n")
        turn += 1
        if rng.random() < 0.25:
            text.add(f"{speakers[turn % 2]}: {_pick('chatter', rng)}\n")
            turn += 1


def _prose(text: Text, facts: Sequence[Stated], fillers: Sequence[str], rng: random.Random) -> None:
    opener = _pick("openers", rng)
    text.add(f"{opener} " if opener else "")
    _sentences(text, facts, fillers, "leads", rng)


def _email(text: Text, facts: Sequence[Stated], fillers: Sequence[str], rng: random.Random) -> None:
    text.add(f"{_pick('subjects', rng)}{_pick('greetings', rng)}\n{_pick('mail_openers', rng)} ")
    _sentences(text, facts, fillers, "leads", rng)
    text.add(f"\n{_pick('farewells', rng)}")


def _news(text: Text, facts: Sequence[Stated], fillers: Sequence[str], rng: random.Random) -> None:
    text.add(f"{_pick('news_openers', rng)} ")
    _sentences(text, facts, fillers, "news_leads", rng)
    text.add(f" {_pick('news_closers', rng)}")


def _sentences(text: Text, facts: Sequence[Stated], fillers: Sequence[str], leads: str, rng: random.Random) -> None:
    """Sentences of one to three facts each, a filler here and there."""
    left = list(facts)
    while left:
        together = [left.pop(0) for _ in range(min(len(left), rng.choice(_JOINED)))]
        lead = _pick(leads, rng)
        text.add(lead)
        form = ("reduced",) if lead else ("statements", "statements", "leading")
        for number, fact in enumerate(together):
            if number:
                text.add(rng.choice(load_layouts()["joins"]))
                form = ("reduced",)
            text.add(_said(fact, form, rng), fact)
        text.add(".")
        if left or rng.random() < 0.3:
            text.add(" ")
            text.add(f"{rng.choice(fillers)} " if rng.random() < 0.35 else "")
    text.text = text.text.rstrip()


def _said(fact: Stated, forms: Sequence[str], rng: random.Random) -> str:
    return filled(rng.choice(getattr(wording(fact.relation), rng.choice(forms))), fact)


_LAYOUTS = {
    "bullets": _bullets,
    "prose": _prose,
    "dialogue": _dialogue,
    "email": _email,
    "notes": _notes,
    "table": _table,
    "news": _news,
}
