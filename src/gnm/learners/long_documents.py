"""A document longer than the decoder's window: written in parts, which are one document of the memory.

Each part is read with the instruction, and none reads another. So what a write takes of memory grows with the
document's length, not with its square.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from gnm.data.segments import split_segments
from gnm.errors import MemoryFileError
from gnm.inference.prompts import block
from gnm.learners.memory import MemoryLearner
from gnm.memory.written import Segment
from gnm.models.projected import Memory

Long = Literal["refuse", "split"]


def parts_for(learner: MemoryLearner, document: str, instruction: str) -> list[str]:
    """`document` in parts that `learner` can write one by one with `instruction`; itself alone if it can write that.

    Raises MemoryFileError if a part cannot be made short enough, or if the instruction, which each part is read with,
    would take more than half of it: little of a document would fit into a part, and there would be many.
    """

    def tokens(text: str) -> int:
        return len(learner.reader.chat.encode(text))

    room = learner.lm.room
    if tokens(block(document, instruction, learner.order)) <= room:
        return [document]
    taken = tokens(block(".", instruction, learner.order))
    if 2 * taken > room:
        raise MemoryFileError(
            f"the instruction takes {taken} tokens, more than half of the {room} of a part of the document: "
            "shorten the instruction, or write shorter documents one by one"
        )
    parts = split_to(document, room - taken, tokens)
    learner.check(parts, [instruction] * len(parts))
    return parts


def split_to(document: str, room: int, tokens: Callable[[str], int]) -> list[str]:
    """`document` in parts of whole segments, each of at most `room` tokens, as long as they can be."""
    parts, part, used = [], "", 0
    for segment in split_segments(document):
        size = tokens(segment)
        if size > room:
            raise MemoryFileError(
                f"the clause {segment[:40]!r}... takes {size} tokens, {max(room, 0)} are free for a part: "
                "break it into sentences, or shorten the instruction"
            )
        if part and used + size > room:
            parts, part, used = [*parts, part], "", 0
        part, used = part + segment, used + size
    return [each for each in (*parts, part) if each.strip()]


def write_parts(
    learner: MemoryLearner, memory: Memory, parts: Sequence[str], instruction: str
) -> tuple[Memory, list[Segment], int]:
    """`memory` with `parts` written as one document.

    Also the segments of all of them, numbered on from part to part, and how many slots were stored: a full pool may
    have dropped those of the first parts again.
    """
    number, segments, slots = memory.state.written, [], 0
    for part in parts:
        memory = learner.write(memory, [part], [instruction])
        decided = learner.segments(memory, 0, part, instruction)
        slots += memory.state.documents().get(memory.state.written - 1, 0)
        memory = _as_document(memory, number, len(segments))
        segments += decided
    return memory, segments, slots


def _as_document(memory: Memory, number: int, first: int) -> Memory:
    """The last document of `memory` as a part of document `number`, its segments numbered from `first` on."""
    state = memory.state
    new = state.valid & (state.source == state.written - 1)
    source = state.source.masked_fill(new, number)
    segment = None if state.segment is None else state.segment + first * new
    store = state.store and tuple(own.renumbered(state.written - 1, number, first) for own in state.store)
    return replace(memory, state=replace(state, source=source, segment=segment, written=number + 1, store=store))
