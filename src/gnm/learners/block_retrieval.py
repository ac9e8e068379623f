"""Block retrieval: every token is kept, each question reads the blocks that are like it (`models/blocks.py`).

InfLLM's and EM-LLM's way, without training: what a user would take instead of write gates who has the room to keep
everything. What was to be left out stays readable.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gnm.errors import ConfigError
from gnm.inference.prompts import Order
from gnm.inference.questions import Question
from gnm.inference.reader import Reader
from gnm.learners.base import Cost
from gnm.learners.key_values import PerQuestionLearner, Reads
from gnm.learners.memory import gated_parts
from gnm.models import flops
from gnm.models.blocks import NO_BLOCK, BlockSettings, relevance, representatives, scores_of_entries
from gnm.models.key_values import KeyValues, best, in_order, read
from gnm.models.prefix import Prefix


@dataclass(frozen=True)
class Blocks:
    """All entries; the block of each, [B, S] long; and which represent theirs, [B, K, S] bool per layer."""

    kept: KeyValues
    block: Tensor
    represents: tuple[Tensor, ...]


class BlockRetrievalLearner(PerQuestionLearner):
    """Finds the most relevant blocks for each question and answers from these."""

    def __init__(self, reader: Reader, settings: BlockSettings, order: Order, reads: Reads):
        super().__init__(reader, order, reads)
        self.settings, layers = settings, len(reader.decoder.layers)
        if settings.layer is not None and settings.layer >= layers:
            raise ConfigError(f"blocks.layer: {settings.layer} is none of the decoder's layers 0 to {layers - 1}")

    def reset(self, seeds: Sequence[int]) -> Blocks:
        kept = super().reset(seeds)
        heads, width = kept.keys[0].shape[1], kept.valid.shape[1]
        nothing = torch.zeros(len(seeds), heads, width, dtype=torch.bool, device=kept.valid.device)
        return Blocks(kept, torch.full_like(kept.source, NO_BLOCK), (nothing,) * len(kept.keys))

    def entries(self, state: Blocks) -> KeyValues:
        return state.kept

    def write(self, state: Blocks, documents: Sequence[str], instructions: Sequence[str]) -> Blocks:
        pairs = zip(documents, instructions, strict=True)
        rows = [[part for part, _ in gated_parts(*pair, self.order)] for pair in pairs]
        ids, mask, segment = self.reader.encode_segments(rows)
        passed = read(self.decoder, self.read_by_write(state.kept), ids, mask)
        block = self._blocks(state, segment, mask)
        queries, keys = (passed.rotated(self.decoder, side) for side in (passed.queries, passed.keys))
        represents = tuple(
            torch.cat((old, representatives(query, key, block, self.settings.representatives)), dim=2)
            for old, query, key in zip(state.represents, queries, keys, strict=True)
        )
        kept = state.kept.append(passed.keys, passed.values, mask)
        return Blocks(kept, torch.cat((state.block, block), dim=1), represents)

    def forget(self, state: Blocks, document: int) -> Blocks:
        kept, index = state.kept.select(state.kept.source != document)
        block = torch.where(kept.documents, state.block.gather(1, index), NO_BLOCK)
        own = index[:, None].expand(-1, kept.keys[0].shape[1], -1)
        return Blocks(kept, block, tuple(marks.gather(2, own) & kept.valid[:, None] for marks in state.represents))

    def cut(self, state: Blocks) -> Blocks:
        return replace(state, kept=state.kept.detach())

    def budget(self, kept: Tensor) -> Tensor:
        return kept.clamp(max=self.settings.tokens)

    def prefix_for(self, state: Blocks, rows: Tensor, questions: Sequence[Question]) -> Prefix:
        head = self.reader.shared(self.reader.head(1)).rows(torch.zeros_like(rows))
        passed = self.words(head, questions)
        valid, documents, block = state.kept.valid[rows], state.kept.documents[rows], state.block[rows]
        count, always = self.budget(documents.sum(-1)), valid & ~documents
        shares = passed.mask / passed.mask.sum(-1, keepdim=True).clamp(min=1)
        indices, chosen = [], valid
        for layer in self._deciding:
            question = torch.einsum("qhtd,qt->qhd", passed.queries[layer].float(), shares)
            alike = relevance(question, state.kept.keys[layer][rows], state.represents[layer][rows], block)
            scores = scores_of_entries(alike, block, count, self.settings.neighbours).masked_fill(always, torch.inf)
            index, chosen = best(scores, count + always.sum(-1))
            indices.append(index[:, None])
        if self.settings.layer is not None:
            indices *= len(self.decoder.layers)
        return in_order(self.decoder, *state.kept.at(rows, tuple(indices)), chosen)

    def cost(self, state: Blocks, row: int, asked: Question) -> Cost:
        """Kept: all tokens. A question pays for finding its blocks, where it cannot read all, and for reading these."""
        documents, lengths = (int(each[row]) for each in (state.kept.documents.sum(-1), state.kept.lengths))
        head, read_of = lengths - documents, min(documents, self.settings.tokens)
        query = self.reader.query_flops(asked, head + read_of)
        if read_of < documents:
            before = head + len(self.reader.chat.encode_lead())
            query += flops.prefill_flops(self.decoder.config, len(self.own_words(asked)), before)
            compared = sum(int(state.represents[layer][row].sum()) for layer in self._deciding)
            query += 2 * compared * self.decoder.head_size
        return Cost(lengths, lengths * self.token_bytes, query)

    @property
    def _deciding(self) -> range | list[int]:
        """The layers that find blocks."""
        return range(len(self.decoder.layers)) if self.settings.layer is None else [self.settings.layer]

    def _blocks(self, state: Blocks, segment: Tensor, mask: Tensor) -> Tensor:
        """The block of each token of a text that is written next, [B, T] long; segment, mask [B, T]."""
        last = torch.nn.functional.pad(state.block, (0, 1), value=NO_BLOCK).amax(-1, keepdim=True)
        if self.settings.block == "segment":
            return (segment + last + 1).masked_fill(~mask, NO_BLOCK)
        filled = ((state.block == last) & (last != NO_BLOCK)).sum(-1, keepdim=True)
        place = torch.arange(mask.shape[1], device=mask.device) + filled
        return (last.clamp(min=0) + place // self.settings.block).masked_fill(~mask, NO_BLOCK)
