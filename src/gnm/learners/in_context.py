"""Two baselines: all documents and instructions stand before the question (in-context), or none do (no memory).

The context's keys and values are computed once per state, not once per question.
"""

from collections.abc import Sequence

from gnm.inference.prompts import Order, block
from gnm.inference.questions import Answer, Question
from gnm.inference.reader import Reader
from gnm.learners.base import Cost, Learner
from gnm.models.prefix import Prefix


class InContextLearner(Learner):
    """Reads every document into its context, in the given order of document and instruction."""

    def __init__(self, reader: Reader, order: Order = "document_first"):
        super().__init__()
        self.reader, self.order, self.decoder = reader, order, reader.decoder

    def reset(self, seeds: Sequence[int]) -> Prefix:
        return self.reader.preamble(len(seeds))

    def write(self, state: Prefix, documents: Sequence[str], instructions: Sequence[str]) -> Prefix:
        texts = [block(d, i, self.order) for d, i in zip(documents, instructions, strict=True)]
        text = self.reader.encode(texts)
        return self.decoder.extend(state, text.ids, text.mask)

    def answer(self, state, questions, max_new_tokens):
        return self.reader.answer(state, questions, max_new_tokens)

    def loss(self, state, questions):
        return self.reader.loss(state, questions)

    def detach(self, state: Prefix) -> Prefix:
        return state.detach()

    def cost(self, state: Prefix, row: int, asked: Question) -> Cost:
        kept = int(state.lengths[row])
        return Cost(kept, kept * prefix_token_bytes(state), self.reader.query_flops(asked, kept))


class NoMemoryLearner(InContextLearner):
    """Ignores every document: answers come from the backbone's own knowledge.

    A question that several sequences ask is answered once. `reset` drops the answers.
    """

    can_forget = True
    same_passes = False  # a pass reads the different questions only, and their number varies

    def __init__(self, reader: Reader):
        super().__init__(reader)
        self._answers: dict[tuple[Question, int], Answer] = {}

    def reset(self, seeds: Sequence[int]) -> Prefix:
        self._answers.clear()
        return super().reset(seeds)

    def answer(self, state, questions, max_new_tokens):
        """As the contract says. A question that was asked before gets the same answer: no write can have changed it."""
        fresh = {(q, max_new_tokens): q for row in questions for q in row if (q, max_new_tokens) not in self._answers}
        answers = self.reader.answer(self.reader.preamble(1), [list(fresh.values())], max_new_tokens)[0]
        self._answers.update(zip(fresh, answers, strict=True))
        return [[self._answers[q, max_new_tokens] for q in row] for row in questions]

    def forget(self, state: Prefix, document: int) -> Prefix:
        return state

    def write(self, state: Prefix, documents: Sequence[str], instructions: Sequence[str]) -> Prefix:
        return state


def prefix_token_bytes(prefix: Prefix) -> int:
    """Bytes of the keys and values of one token."""
    key = prefix.keys[0]
    return 2 * len(prefix.keys) * key.shape[1] * key.shape[3] * key.element_size()
