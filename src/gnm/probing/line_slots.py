"""The slots that a document alone leaves in a new memory, each with the line and the part of it that its token is of.

Shape letters: L layers, S slots, T tokens of a document, E hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnm.errors import ConfigError
from gnm.inference.prompts import block
from gnm.learners.memory import MemoryLearner
from gnm.probing.distracted import DistractedDocument

OUTSIDE, STEM, OBJECT, END = range(4)
"""Parts: header and what stands around the document; a line up to its object; the object; the line's end."""


@dataclass(frozen=True)
class LineSlots:
    """What a document left. every: all its slots [L, S, E], those of the instruction and of reused places too.

    slots: [L, T, E] float32 on the CPU, one for each of the document's tokens. line: [T] long, the number of the
    token's statement, -1 outside. part: [T] long, one of the parts above.
    """

    every: Tensor
    slots: Tensor
    line: Tensor
    part: Tensor

    def of(self, line: int, *parts: int) -> Tensor:
        """The slots of these parts of one statement's line, [L, n, E]."""
        return self.slots[:, (self.line == line) & torch.isin(self.part, torch.tensor(parts))]


@torch.no_grad()
def write_lines(
    learner: MemoryLearner, documents: Sequence[DistractedDocument], instructions: Sequence[str], at_once: int
) -> list[LineSlots]:
    """Each document under its instruction, written alone. at_once: documents in a batch; changes speed, and rounding in
    bfloat16.

    Raises ConfigError if not every token of a document becomes a slot, so that slots cannot be matched with lines.
    """
    found: list[LineSlots] = []
    for start in range(0, len(documents), at_once):
        batch, orders = documents[start : start + at_once], instructions[start : start + at_once]
        state = learner.write(learner.reset(range(len(batch))), [each.text for each in batch], orders).state
        own = state.valid & (state.source >= 0)
        for row, document in enumerate(batch):
            line, part = _places(learner, document, orders[row])
            every = state.slots[row][:, own[row]].float().cpu()
            if every.shape[1] < len(line):
                raise ConfigError(
                    f"a document of {len(line)} tokens left {every.shape[1]} slots; write every token "
                    "(write.gates: {threshold: 0}, no share or budget, or a memory model of more slots a document)"
                )
            slots = every[:, every.shape[1] - len(line) :]  # the last slots are those of the text's tokens
            inside = part != OUTSIDE
            found.append(LineSlots(every, slots[:, inside], line[inside], part[inside]))
    return found


def _places(learner: MemoryLearner, document: DistractedDocument, instruction: str) -> tuple[Tensor, Tensor]:
    """Line and part of each token of what is written, [T] long each."""
    text, inner = block(document.text, instruction, learner.order), document.text.strip()
    front, _, back = text.partition(inner)
    pieces, kinds = [], []
    for number, (stem, stated) in enumerate(document.lines):
        pieces += [stem, stated, "\n"]
        kinds += [(number, STEM), (number, OBJECT), (number, END)]
    header = inner[: inner.index(document.lines[0][0])]
    # the last line ends with what follows the document
    pieces, kinds = [front, header, *pieces[:-1], back], [(-1, OUTSIDE), (-1, OUTSIDE), *kinds]
    number = learner.reader.encode_segments([pieces]).segment[0].cpu()
    line, part = (torch.tensor(each)[number] for each in zip(*kinds, strict=True))
    return line, part
