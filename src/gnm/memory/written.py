"""What people see of the documents in a memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gnm.memory.state import MemoryState

REFUSED_FROM = 0.5
"""From this refuse gate on a segment counts as refused."""


@dataclass(frozen=True)
class Segment:
    """What a write decided on a segment of its text: its strength in (0, 1), and how many of its tokens are stored.

    of_document: whether it holds words of the document; others are of the instruction.
    refusal: its refuse gate, in (0, 1): how surely questions about its facts are to be refused; 0 without such gates.
    """

    text: str
    strength: float
    tokens: int
    stored: int
    of_document: bool
    refusal: float = 0.0

    @property
    def is_refused(self) -> bool:
        """Whether questions about its facts are to be refused."""
        return self.refusal >= REFUSED_FROM


@dataclass(frozen=True)
class Written:
    """What a memory knows of one document: its number, instruction, first words, and the slots it still has.

    segments: with write gates, what they decided, piece by piece; for people, the model never reads it.
    Of what is not stored there is no text: an instruction or beginning is "", a segment's text too. Until the next
    change or save, the document that was written last has all of its text.
    """

    number: int
    instruction: str
    beginning: str
    slots: int
    segments: tuple[Segment, ...] = ()


def written_documents(notes: Mapping[str, Mapping[str, Any]], state: MemoryState) -> list[Written]:
    """The documents that `notes` are of, in their order, with the slots that `state` still has of each."""
    slots = state.documents()
    return [
        Written(
            int(number),
            note["instruction"],
            note["beginning"],
            slots.get(int(number), 0),
            _segments(state, int(number), note.get("segments", ())),
        )
        for number, note in notes.items()
    ]


def _segments(state: MemoryState, document: int, noted: Sequence) -> tuple[Segment, ...]:
    """The segments of a document as they were written, with what is still stored of them."""
    held = state.segments(document) if noted else {}
    return tuple(replace(Segment(*each), stored=held.get(place, 0)) for place, each in enumerate(noted))
