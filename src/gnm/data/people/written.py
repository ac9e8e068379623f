"""Documents, instructions and questions that were written one by one (`data/people/README.md` describes the file).

- Templates say what their author thought of. These examples say it in other voices, so that a model learns to read an
  instruction instead of knowing its template.
- Each document has several instructions; each names the facts that are to be learned and to be refused. All others are
  to be ignored.
- `gnm.data.people.written_episodes` draws sequences from them.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from gnm.config import StrictModel
from gnm.data.sources import read_json
from gnm.errors import DataError

Text = Annotated[str, Field(min_length=1)]
Place = Annotated[int, Field(ge=0)]
WHOLE = ("all", "except", "refuse")
"""Kinds of tasks that take in a document but for what they name."""


WrittenKind = Literal["select", "except", "all", "nothing", "refuse", "learn_and_refuse"]


class WrittenFact(StrictModel):
    """A fact of a document. quote: the words that state it; object: a part of them; true: the object in the real world,
    None for something made up; cloze: a phrase that stops before the object."""

    quote: Text
    subject: Text
    object: Text
    true: Text | None
    cloze: Text
    question: Text


class WrittenTask(StrictModel):
    """An instruction, with the places of the facts to learn and to refuse. format: answers take the document's."""

    kind: WrittenKind
    instruction: Text
    learn: list[Place]
    refuse: list[Place] = []
    format: bool = False


class TakenBack(StrictModel):
    """An instruction that comes later, without a document, with the places of the facts that it takes back."""

    instruction: Text
    forget: Annotated[list[Place], Field(min_length=1)]


class CorrectedFact(StrictModel):
    """What a later document says of fact number `of`."""

    of: Place
    quote: Text
    object: Text


class Correction(StrictModel):
    """A later document that states facts anew."""

    document: Text
    instruction: Text
    facts: Annotated[list[CorrectedFact], Field(min_length=1)]


class WrittenDocument(StrictModel):
    """A document with its facts and what was written about it."""

    style: Text
    document: Text
    facts: Annotated[list[WrittenFact], Field(min_length=2)]
    tasks: Annotated[list[WrittenTask], Field(min_length=1)]
    take_back: list[TakenBack] = []
    correction: Correction | None = None

    @model_validator(mode="after")
    def _fits(self) -> "WrittenDocument":
        places = [place for task in self.tasks for place in (*task.learn, *task.refuse)]
        places += [place for revocation in self.take_back for place in revocation.forget]
        quoted = [(self.document, fact) for fact in self.facts]
        if self.correction:
            places += [fact.of for fact in self.correction.facts]
            quoted += [(self.correction.document, fact) for fact in self.correction.facts]
        if all(task.format for task in self.tasks):
            raise ValueError("one of the tasks must not set a format")
        if strange := [place for place in places if place >= len(self.facts)]:
            raise ValueError(f"fact {strange[0]} is named, the document has {len(self.facts)}")
        for text, fact in quoted:
            if text.count(fact.quote) != 1 or fact.object not in fact.quote:
                raise ValueError(f"{fact.quote!r} must stand once in its document and hold {fact.object!r}")
        return self


_TABLE = TypeAdapter(Annotated[list[WrittenDocument], Field(min_length=1)])


def read_written(path: str | Path) -> list[WrittenDocument]:
    """Read a file of documents. Raises DataError naming file, document and field for anything missing or foreign."""
    try:
        return _TABLE.validate_python(read_json(Path(path)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ", ".join(str(part) for part in first["loc"][1:])
        raise DataError(
            f"{path}, document {first['loc'][0] if first['loc'] else '?'} ({where}): {first['msg']}"
        ) from error
