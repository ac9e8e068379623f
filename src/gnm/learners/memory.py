"""Latent memory: documents become slots, questions read slots (GNM, MemoryLLM and the ablation).

`gnm`, `gnm_ablation` and `memoryllm` are this learner with different weights; the ablation is trained without
gradient through writing ("Tell Me What To Learn", 2026).
"""

from collections.abc import Sequence

import torch

from gnm.learners.base import Cost, Learner
from gnm.memory.pool import check_fits
from gnm.models.memory_lm import Memory, MemoryLM
from gnm.prompts import Order, block
from gnm.reader import Question, Reader


class MemoryLearner(Learner):
    """Writes with a MemoryLM and answers from its prefix."""

    def __init__(self, lm: MemoryLM, reader: Reader, order: Order = "instruction_first"):
        super().__init__()
        self.lm, self.reader, self.order = lm, reader, order
        # an adapter that only writes, and the mark of what is written
        self.trains_all = lm.gradient_through_writing or lm.write_settings.tap == "inputs"

    def own_parameters(self):
        return self.lm.own_parameters()

    def reset(self, seeds: Sequence[int]) -> Memory:
        return self.lm.initial(torch.tensor(seeds, dtype=torch.long))

    def write(self, state: Memory, documents: Sequence[str], instructions: Sequence[str]) -> Memory:
        texts = [block(d, i, self.order) for d, i in zip(documents, instructions, strict=True)]
        ids, mask = self.reader.encode(texts)
        return self.lm.write(state, ids, mask)

    def check(self, documents: Sequence[str], instructions: Sequence[str]) -> None:
        for document, instruction in zip(documents, instructions, strict=True):
            tokens = len(self.reader.chat.encode(block(document, instruction, self.order)))
            check_fits(self.lm.slots_of(tokens), self.lm.pool)

    def answer(self, state, questions, max_new_tokens):
        return self.reader.answer(self.lm.prefix(state), questions, max_new_tokens)

    def loss(self, state, questions):
        return self.reader.loss(self.lm.prefix(state), questions)

    def cut(self, state: Memory) -> Memory:
        return self.lm.attach(state.state.detach())

    def cost(self, state: Memory, row: int, asked: Question) -> Cost:
        kept, slots = int(state.state.valid[row].sum()), state.state.slots
        size = slots.shape[1] * slots.shape[3] * slots.element_size()
        return Cost(kept, kept * size, self.reader.query_flops(asked, kept))
