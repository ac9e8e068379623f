"""A recurrent memory of a few tokens (RMT, Bulatov et al. 2022): each document changes all of it.

It has to be trained. With `loop.gradients_through: all`, gradients pass through writing: RMT's back-propagation
through time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from gnm.inference.prompts import Order, block
from gnm.inference.questions import Question
from gnm.inference.reader import Reader
from gnm.learners.base import Cost, Learner
from gnm.models.prefix import Prefix
from gnm.models.recurrent import RecurrentMemory


@dataclass(frozen=True)
class RecurrentState:
    """vectors: [B, M, E] float32. preamble: the start of a conversation. written: documents so far."""

    vectors: Tensor
    preamble: Prefix
    written: int = 0


class RecurrentLearner(Learner):
    """Writes documents into memory tokens, and answers after these."""

    def __init__(self, memory: RecurrentMemory, reader: Reader, order: Order):
        super().__init__()
        self.memory, self.reader, self.order, self.decoder = memory, reader, order, reader.decoder

    def own_parameters(self):
        return {"start": self.memory.start}

    def reset(self, seeds: Sequence[int]) -> RecurrentState:
        return RecurrentState(self.memory.initial(len(seeds)), self.reader.preamble(len(seeds)))

    def write(self, state: RecurrentState, documents: Sequence[str], instructions: Sequence[str]) -> RecurrentState:
        texts = [block(d, i, self.order) for d, i in zip(documents, instructions, strict=True)]
        text = self.reader.encode(texts)
        vectors = self.memory.write(state.vectors, state.preamble, text.ids, text.mask)
        return replace(state, vectors=vectors, written=state.written + 1)

    def answer(self, state, questions, max_new_tokens):
        return self.reader.answer(self._prefix(state), questions, max_new_tokens)

    def loss(self, state, questions):
        return self.reader.loss(self._prefix(state), questions)

    def detach(self, state: RecurrentState) -> RecurrentState:
        # a new memory's vectors are parameters, not the outcome of earlier writing
        vectors = state.vectors.detach() if state.written else state.vectors
        return replace(state, vectors=vectors, preamble=state.preamble.detach())

    def cost(self, state: RecurrentState, row: int, asked: Question) -> Cost:
        """Kept: the memory's tokens, of one vector each. A question reads them behind the start of a conversation."""
        vectors, preamble = state.vectors[row], int(state.preamble.lengths[row])
        read = preamble + (len(vectors) if state.written else 0)
        return Cost(len(vectors), vectors.numel() * vectors.element_size(), self.reader.query_flops(asked, read))

    def _prefix(self, state: RecurrentState) -> Prefix:
        return self.memory.read(state.vectors, state.preamble) if state.written else state.preamble
