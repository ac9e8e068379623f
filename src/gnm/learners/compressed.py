"""Compressed memory: of every document the keys and values of a share of its tokens, chosen by a score.

KNorm, KeyDiff, SnapKV and Finch (`models/compression.py`): what a user would take instead of write gates who does not
want to train any.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gnm.inference.padding import pad
from gnm.inference.prompts import Order, block
from gnm.inference.questions import Question
from gnm.inference.reader import Reader
from gnm.learners.base import Cost
from gnm.learners.key_values import KeyValueLearner, PerQuestionLearner, Reads
from gnm.models.compression import CompressionSettings, chosen, chosen_for
from gnm.models.key_values import KeyValues, in_order, read
from gnm.models.prefix import Prefix


class CompressedLearner(KeyValueLearner):
    """Drops all but the best tokens while writing; with a guide, this is the instruction once more."""

    def __init__(self, reader: Reader, settings: CompressionSettings, order: Order, reads: Reads):
        super().__init__(reader, order, reads)
        self.settings = settings

    def texts(self, document: str, instruction: str) -> tuple[str, str]:
        guide = block("", instruction, self.order) if self.settings.guided else ""
        return block(document, instruction, self.order), guide

    def write(self, state: KeyValues, documents: Sequence[str], instructions: Sequence[str]) -> KeyValues:
        encode = self.reader.chat.encode
        pairs = [[encode(text) for text in self.texts(*pair)] for pair in zip(documents, instructions, strict=True)]
        ids, mask = (part[:, 0] for part in pad([[text + guide] for text, guide in pairs], self.decoder.device))
        lengths = torch.tensor([len(text) for text, _ in pairs], device=ids.device)
        may_stay = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        prefix = self.read_by_write(state)
        passed = read(self.decoder, prefix, ids, mask)
        index, valid = chosen(self.decoder, prefix, passed, may_stay, self.settings)
        new = KeyValues(passed.keys, passed.values, mask, torch.zeros_like(ids))
        return state.append(*new.at(torch.arange(len(ids), device=ids.device), index), valid)


class QuestionGuidedLearner(PerQuestionLearner):
    """Keeps everything, and reads for each question what its own words attend to most.

    An upper bound for compression, not a method: its cost is that of a memory that foresaw the question.
    """

    def __init__(self, reader: Reader, settings: CompressionSettings, order: Order, reads: Reads):
        super().__init__(reader, order, reads)
        self.settings = settings

    def write(self, state: KeyValues, documents: Sequence[str], instructions: Sequence[str]) -> KeyValues:
        texts = [self.texts(*pair)[0] for pair in zip(documents, instructions, strict=True)]
        text = self.reader.encode(texts)
        passed = read(self.decoder, self.read_by_write(state), text.ids, text.mask)
        return state.append(passed.keys, passed.values, text.mask)

    def budget(self, kept: Tensor) -> Tensor:
        return self.settings.count(kept)

    def prefix_for(self, state: KeyValues, rows: Tensor, questions: Sequence[Question]) -> Prefix:
        state = state.select(state.valid)[0]  # neighbours are smoothed over, so no padding may lie between them
        everything = self.reader.shared(state.prefix(self.decoder)).rows(rows)
        passed = self.words(everything, questions)
        index, valid = chosen_for(self.decoder, everything, passed, state.documents[rows], self.settings)
        return in_order(self.decoder, *state.at(rows, index), valid)

    def cost(self, state: KeyValues, row: int, asked: Question) -> Cost:
        documents = state.documents.sum(-1)
        kept = int(state.lengths[row] - documents[row] + self.budget(documents)[row])
        return Cost(kept, kept * self.token_bytes, self.reader.query_flops(asked, kept))
