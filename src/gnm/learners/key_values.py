"""What methods have in common that keep keys and values of documents' tokens, all or a choice of them.

A document is read by itself, with its instruction, or after all that is kept (`write.reads`).
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from gnm.errors import MemoryFileError
from gnm.inference.padding import pad
from gnm.inference.prompts import Order, block
from gnm.inference.questions import Answer, AnswerLoss, Question
from gnm.inference.reader import Reader
from gnm.learners.base import Cost, Learner
from gnm.learners.in_context import prefix_token_bytes
from gnm.models.key_values import KeyValues, Passed, preamble_of, read
from gnm.models.prefix import Prefix

Reads = Literal["nothing", "all"]
QUESTIONS_AT_ONCE = 16


class KeyValueLearner(Learner):
    """Keeps keys and values; all questions of a state read all of them."""

    can_forget = True
    same_passes = False  # `models/key_values.py` does not run on a backbone that is shared out

    def __init__(self, reader: Reader, order: Order, reads: Reads):
        super().__init__()
        self.reader, self.decoder, self.order, self.reads = reader, reader.decoder, order, reads

    def reset(self, seeds: Sequence[int]) -> Any:
        return preamble_of(self.decoder, self.reader.chat.preamble, len(seeds))

    def entries(self, state: Any) -> KeyValues:
        """All that is kept."""
        return state

    def texts(self, document: str, instruction: str) -> tuple[str, str]:
        """What is read to write a document: the text that may be kept, and what guides the choice, if anything does."""
        return block(document, instruction, self.order), ""

    def check(self, documents: Sequence[str], instructions: Sequence[str]) -> None:
        room = self.decoder.window - len(self.reader.chat.preamble)
        for pair in zip(documents, instructions, strict=True):
            tokens = sum(len(self.reader.chat.encode(text)) for text in self.texts(*pair))
            if tokens > room:
                raise MemoryFileError(
                    f"a document and what is read with it take {tokens} tokens; {room} of the {self.decoder.window} "
                    "positions that the decoder attends over are free for them: split the document"
                )

    def read_by_write(self, entries: KeyValues) -> Prefix:
        """What a document is read after."""
        seen = entries if self.reads == "all" else entries.select(~entries.documents)[0]
        return seen.prefix(self.decoder)

    def forget(self, state: KeyValues, document: int) -> KeyValues:
        return state.select(state.source != document)[0]

    def answer(self, state, questions, max_new_tokens):
        return self.reader.answer(self.entries(state).prefix(self.decoder), questions, max_new_tokens)

    def loss(self, state, questions):
        return self.reader.loss(self.entries(state).prefix(self.decoder), questions)

    def detach(self, state: KeyValues) -> KeyValues:
        return state.detach()

    def cost(self, state: Any, row: int, asked: Question) -> Cost:
        kept = int(self.entries(state).lengths[row])
        return Cost(kept, kept * self.token_bytes, self.reader.query_flops(asked, kept))

    @property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of one token."""
        return prefix_token_bytes(self.decoder.empty_prefix(1))


class PerQuestionLearner(KeyValueLearner):
    """Keeps every token; each question reads a choice of its own.

    Where that is everything there is, all questions of a state share one prefix, as with any other method.
    """

    @abstractmethod
    def budget(self, kept: Tensor) -> Tensor:
        """How many entries of documents a question reads where there are `kept` [B] long, [B] long."""

    @abstractmethod
    def prefix_for(self, state: Any, rows: Tensor, questions: Sequence[Question]) -> Prefix:
        """What each of Q questions reads of the state in its row, `rows` [Q] long."""

    def answer(self, state, questions, max_new_tokens):
        if self._reads_all(state):
            return super().answer(state, questions, max_new_tokens)
        answers: list[list[Answer]] = [[] for _ in questions]
        flat = _flat(questions)
        for start in range(0, len(flat), QUESTIONS_AT_ONCE):
            some = flat[start : start + QUESTIONS_AT_ONCE]
            with torch.no_grad():
                prefix = self._prefix(state, some)
            found = self.reader.answer(prefix, [[question] for _, question in some], max_new_tokens)
            for (row, _), (answer,) in zip(some, found, strict=True):
                answers[row].append(answer)
        return answers

    def loss(self, state, questions):
        flat = _flat(questions)
        if self._reads_all(state) or not flat:
            return super().loss(state, questions)
        loss = self.reader.loss(self._prefix(state, flat), [[question] for _, question in flat])
        right: list[list[bool]] = [[] for _ in questions]
        for (row, _), (verdict,) in zip(flat, loss.right, strict=True):
            right[row].append(verdict)
        return AnswerLoss(loss.total, loss.tokens, right)

    def words(self, prefix: Prefix, questions: Sequence[Question]) -> Passed:
        """A pass over each question's own words, without those that all begin with or that end the turn."""
        ids, mask = pad([[self.own_words(question)] for question in questions], self.decoder.device)
        return read(self.decoder, prefix, ids[:, 0], mask[:, 0])

    def own_words(self, question: Question) -> list[int]:
        """The token ids of the words that are a question's own."""
        prompt, tail = self.reader.chat.encode_question(question.phrase), len(self.reader.chat.tail)
        return prompt[: len(prompt) - tail]

    def _reads_all(self, state) -> bool:
        kept = self.entries(state).documents.sum(-1)
        return bool((self.budget(kept) >= kept).all())

    def _prefix(self, state, asked: Sequence[tuple[int, Question]]) -> Prefix:
        rows = torch.tensor([row for row, _ in asked], device=self.decoder.device)
        return self.prefix_for(state, rows, [question for _, question in asked])


def _flat(questions: Sequence[Sequence[Question]]) -> list[tuple[int, Question]]:
    """Every question with the row of its state."""
    return [(row, question) for row, asked in enumerate(questions) for question in asked]
