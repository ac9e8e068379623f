"""What a memory knows of its documents in words: their instructions, beginnings, and segments. For people only.

A note is {"instruction", "beginning"}, with write gates also "segments": what they decided on each segment, as the
fields of `Segment`. Without them "slots" is how many slots the write stored. Notes go into the
memory file, so they hold no text of what is not stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch

from gnm.errors import MemoryFileError
from gnm.memory.state import MemoryState
from gnm.memory.written import Segment

Notes = dict[str, dict[str, Any]]


def note_of(document: str, instruction: str, segments: Sequence[Segment], slots: int) -> dict[str, Any]:
    """The note of a document as it was written."""
    note = {"instruction": instruction, "beginning": _beginning(document)}
    if segments:
        return {**note, "segments": [list(astuple(segment)) for segment in segments]}
    return {**note, "slots": slots}


def without_text(notes: Mapping[str, Mapping[str, Any]]) -> Notes:
    """Notes that name the documents and say nothing of them."""
    return {number: {"instruction": "", "beginning": ""} for number in notes}


def without_document(state: MemoryState, notes: Notes, document: int) -> tuple[MemoryState, Notes]:
    """Memory and notes without a document. Raises MemoryFileError if there is none, or its slots can't be told."""
    if str(document) not in notes or document in state.documents():
        try:
            state = state.forget(document)
        except KeyError as error:
            raise MemoryFileError(str(error.args[0])) from error
    return state, {number: note for number, note in notes.items() if number != str(document)}


def only_stored(notes: Mapping[str, Mapping[str, Any]], state: MemoryState) -> Notes:
    """The notes without the text of what `state` holds no slot of; strengths and numbers of tokens stay.

    A document without slots has no text. One that lost some of its slots has that of the segments that are left, or
    without write gates none but its instruction.
    """
    slots, held = state.documents(), _held(state)
    return {number: _only_stored(note, int(number), slots.get(int(number), 0), held) for number, note in notes.items()}


def _only_stored(note: Mapping[str, Any], number: int, slots: int, held: set[tuple[int, int]]) -> dict[str, Any]:
    kept = {**note, "instruction": note["instruction"] if slots else ""}
    if "segments" not in note:
        whole = 0 < slots >= note.get("slots", 1)
        return {**kept, "beginning": note["beginning"] if whole else ""}
    segments = [
        [text if (number, place) in held or not text.strip() else "", *rest]
        for place, (text, *rest) in enumerate(note["segments"])
    ]
    of_document = "".join(each.text for each in (Segment(*values) for values in segments) if each.of_document)
    return {**kept, "segments": segments, "beginning": _beginning(of_document)}


def _held(state: MemoryState) -> set[tuple[int, int]]:
    """Each (document, segment) that has a slot in the first memory of `state`."""
    if state.segment is None:
        return set()
    pairs = torch.stack((state.source[0], state.segment[0]))[:, state.valid[0]]
    held = {(document, segment) for document, segment in pairs.unique(dim=1).T.tolist()}
    stored = zip(state.store[0].source.tolist(), state.store[0].segment.tolist(), strict=True) if state.store else ()
    return held.union(stored)


def _beginning(text: str) -> str:
    return " ".join(text.split())[:80]


def check_notes(path: str | Path, notes: Mapping[str, Any], state: MemoryState) -> None:
    """Raise MemoryFileError if the notes of the file `path` are none of the documents of its `state`."""
    if wrong := _wrong_in(notes, state):
        raise MemoryFileError(f"the notes in {path} are damaged ({wrong}); restore it from a copy")


def _wrong_in(notes: Mapping[str, Any], state: MemoryState) -> str | None:
    for number, note in notes.items():
        if not (_is_count(number) and int(number) < state.written):
            return f"a note is of document {number[:20]!r}, and {state.written} documents were written"
        if not _is_note(note):
            return f"the note of document {number} lacks its instruction or beginning, or holds other values"
        if note.get("segments") and state.segment is None:
            return f"document {number} has segments, and a memory without gates has none"
    for document, segment in _held(state):
        if document >= 0 and segment >= len(notes.get(str(document), {}).get("segments", range(segment + 1))):
            return f"document {document} has no segment {segment}"
    return None


def _is_count(number: str) -> bool:
    return len(number) < 19 and number.isdecimal() and str(int(number)) == number


def _is_text(value: Any) -> bool:
    """Whether `value` is text: JSON can hold halves of characters."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _is_note(note: Any) -> bool:
    return (
        isinstance(note, dict)
        and all(_is_text(note.get(name)) for name in ("instruction", "beginning"))
        and isinstance(note.get("slots", 0), int)
        and isinstance(note.get("segments", []), list)
        and all(_is_segment(each) for each in note.get("segments", []))
    )


def _is_segment(values: Any) -> bool:
    if not isinstance(values, list) or len(values) not in (5, 6):  # older files know of no refusals
        return False
    text, strength, tokens, stored, of_document, refusal = values if len(values) == 6 else (*values, 0.0)
    numbers = all(type(count) is int and count >= 0 for count in (tokens, stored))
    return (
        _is_text(text) and numbers and isinstance(of_document, bool)
        and all(type(gate) is float and 0 <= gate <= 1 for gate in (strength, refusal))
    )  # fmt: skip
