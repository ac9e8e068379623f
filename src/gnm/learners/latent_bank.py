"""A gated latent bank (G-MemLLM, Xu 2026): documents change a fixed number of slots, tokens of questions recall them.

The backbone reads documents and questions as it is; only the bank is trained (`models/latent_bank.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from gnm.data.labels import WriteLabels
from gnm.inference.prompts import Order, block
from gnm.inference.questions import Question
from gnm.inference.reader import Reader
from gnm.learners.base import Cost, Learner
from gnm.models.latent_bank import LatentBank, bank_loss
from gnm.models.prefix import Prefix


@dataclass(frozen=True)
class BankState:
    """slots: [B, M, D] float32. preamble: the start of a conversation, which texts and questions read first.

    written: documents so far.
    """

    slots: Tensor
    preamble: Prefix
    written: int = 0


class LatentBankLearner(Learner):
    """Writes the last hidden states of documents into a bank and answers with what is recalled from it."""

    needs_adapter = False

    def __init__(self, bank: LatentBank, reader: Reader, order: Order = "instruction_first"):
        super().__init__()
        self.bank, self.reader, self.order, self.decoder = bank, reader, order, reader.decoder

    def own_parameters(self):
        return dict(self.bank.named_parameters())

    def reset(self, seeds: Sequence[int]) -> BankState:
        return BankState(self.bank.initial(len(seeds)), self.reader.preamble(len(seeds)))

    def write(self, state: BankState, documents: Sequence[str], instructions: Sequence[str]) -> BankState:
        text = self.reader.encode([block(d, i, self.order) for d, i in zip(documents, instructions, strict=True)])
        hidden = self.decoder.read(state.preamble, text.ids[:, None], text.mask[:, None])[:, 0]
        return replace(state, slots=self.bank.write(state.slots, hidden, text.mask), written=state.written + 1)

    def write_loss(self, state: BankState, labels: Sequence[WriteLabels]) -> Tensor:
        return bank_loss(self.bank.importance(state.slots), self.bank.settings)

    def answer(self, state, questions, max_new_tokens):
        return self._reader(state).answer(state.preamble, questions, max_new_tokens)

    def loss(self, state, questions):
        return self._reader(state).loss(state.preamble, questions)

    def detach(self, state: BankState) -> BankState:
        # a new bank's slots are parameters, not the outcome of earlier writing
        slots = state.slots.detach() if state.written else state.slots
        return replace(state, slots=slots, preamble=state.preamble.detach())

    def cost(self, state: BankState, row: int, asked: Question) -> Cost:
        slots = state.slots[row]
        read = self.reader.query_flops(asked, int(state.preamble.lengths[row]))
        recalled = self.bank.recall_flops(self.reader.question_tokens(asked))
        return Cost(slots.shape[0], slots.numel() * slots.element_size(), read + recalled)

    def _reader(self, state: BankState) -> Reader:
        return self.reader.recalling(self.bank.recall(state.slots))
