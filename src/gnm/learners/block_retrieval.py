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
from gnm.models.blocks import NO_BLOCK, BlockSettings, likeness, relevance, representatives, scores_of_entries
from gnm.models.key_values import KeyValues, Passed, best, in_order, read
from gnm.models.prefix import Prefix


@dataclass(frozen=True)
class Blocks:
    """All entries; the block of each, [B, S] long; and what blocks are found by: with `keys` which entries represent
    theirs, [B, K, S] bool per layer, with `inputs` the inputs of one layer, [B, S, E]."""

    kept: KeyValues
    block: Tensor
    represents: tuple[Tensor, ...] = ()
    inputs: Tensor | None = None


class BlockRetrievalLearner(PerQuestionLearner):
    """Finds the most relevant blocks for each question and answers from these."""

    def __init__(self, reader: Reader, settings: BlockSettings, order: Order, reads: Reads):
        super().__init__(reader, order, reads)
        self.settings, layers = settings, len(reader.decoder.layers)
        if settings.searched is not None and settings.searched >= layers:
            raise ConfigError(f"blocks.layer: {settings.searched} is none of the decoder's layers 0 to {layers - 1}")

    def reset(self, seeds: Sequence[int]) -> Blocks:
        kept = super().reset(seeds)
        block = torch.full_like(kept.source, NO_BLOCK)
        if self.settings.compare == "inputs":
            size = self.decoder.config.hidden_size
            return Blocks(kept, block, inputs=kept.keys[0].new_zeros(*block.shape, size))
        nothing = torch.zeros(len(seeds), kept.keys[0].shape[1], block.shape[1], dtype=torch.bool, device=block.device)
        return Blocks(kept, block, (nothing,) * len(kept.keys))

    def entries(self, state: Blocks) -> KeyValues:
        return state.kept

    def write(self, state: Blocks, documents: Sequence[str], instructions: Sequence[str]) -> Blocks:
        pairs = zip(documents, instructions, strict=True)
        rows = [[part for part, _ in gated_parts(*pair, self.order)] for pair in pairs]
        text = self.reader.encode_segments(rows)
        passed = read(self.decoder, self.read_by_write(state.kept), text.ids, text.mask)
        block = self._blocks(state, text.segment, text.mask)
        kept = state.kept.append(passed.keys, passed.values, text.mask)
        blocks = torch.cat((state.block, block), dim=1)
        if state.inputs is not None:
            inputs = torch.cat((state.inputs, passed.inputs[:, self.settings.searched].detach()), dim=1)
            return Blocks(kept, blocks, inputs=inputs)
        queries, keys = (passed.rotated(self.decoder, side) for side in (passed.queries, passed.keys))
        represents = tuple(
            torch.cat((old, representatives(query, key, block, self.settings.representatives, window)), dim=2)
            for old, query, key, window in zip(state.represents, queries, keys, self.decoder.windows, strict=True)
        )
        return Blocks(kept, blocks, represents)

    def forget(self, state: Blocks, document: int) -> Blocks:
        kept, index = state.kept.select(state.kept.source != document)
        block = torch.where(kept.documents, state.block.gather(1, index), NO_BLOCK)
        own = index[:, None].expand(-1, kept.keys[0].shape[1], -1)
        marks = tuple(marks.gather(2, own) & kept.valid[:, None] for marks in state.represents)
        inputs = state.inputs
        if inputs is not None:
            inputs = inputs.gather(1, index[..., None].expand(-1, -1, inputs.shape[2]))
        return Blocks(kept, block, marks, inputs)

    def detach(self, state: Blocks) -> Blocks:
        return replace(state, kept=state.kept.detach())

    def budget(self, kept: Tensor) -> Tensor:
        return kept.clamp(max=self.settings.tokens)

    def prefix_for(self, state: Blocks, rows: Tensor, questions: Sequence[Question]) -> Prefix:
        preamble = self.reader.shared(self.reader.preamble(1)).rows(torch.zeros_like(rows))
        passed = self.words(preamble, questions)
        valid, documents, block = state.kept.valid[rows], state.kept.documents[rows], state.block[rows]
        count, always = self.budget(documents.sum(-1)), valid & ~documents
        indices, chosen = [], valid
        for layer in self._deciding:
            alike = self._alike(state, rows, passed, layer)
            scores = scores_of_entries(alike, block, count, self.settings.neighbours).masked_fill(always, torch.inf)
            index, chosen = best(scores, count + always.sum(-1))
            indices.append(index[:, None])
        if self.settings.searched is not None:
            indices *= len(self.decoder.layers)
        return in_order(self.decoder, *state.kept.at(rows, tuple(indices)), chosen)

    def cost(self, state: Blocks, row: int, asked: Question) -> Cost:
        """Kept: all tokens. A question pays for finding its blocks, where it cannot read all, and for reading these."""
        documents, lengths = (int(each[row]) for each in (state.kept.documents.sum(-1), state.kept.lengths))
        preamble, read_of = lengths - documents, min(documents, self.settings.tokens)
        query = self.reader.query_flops(asked, preamble + read_of)
        if read_of < documents:
            before = preamble + len(self.reader.chat.encode_lead())
            query += flops.prefill_flops(self.decoder.config, len(self.own_words(asked)), before)
            query += 2 * self._compared(state, row)
        extra = 0 if state.inputs is None else self._compared(state, row) * state.inputs.element_size()
        return Cost(lengths, lengths * self.token_bytes + extra, query)

    def _compared(self, state: Blocks, row: int) -> int:
        """How many numbers a question is compared with: those of representative keys, or of the blocks' mean inputs."""
        if state.inputs is not None:
            return len(state.block[row][state.kept.documents[row]].unique()) * state.inputs.shape[2]
        return sum(int(state.represents[layer][row].sum()) for layer in self._deciding) * self.decoder.head_size

    def _alike(self, state: Blocks, rows: Tensor, passed: Passed, layer: int) -> Tensor:
        """How relevant the blocks of the states `rows` [Q] are to as many questions, [Q, N] float32."""
        shares = passed.mask / passed.mask.sum(-1, keepdim=True).clamp(min=1)
        if state.inputs is not None:
            question = torch.einsum("qte,qt->qe", passed.inputs[:, layer].float(), shares)
            return likeness(question, state.inputs[rows], state.block[rows])
        question = torch.einsum("qhtd,qt->qhd", passed.queries[layer].float(), shares)
        return relevance(question, state.kept.keys[layer][rows], state.represents[layer][rows], state.block[rows])

    @property
    def _deciding(self) -> range | list[int]:
        """The layers that find blocks."""
        one = self.settings.searched
        return range(len(self.decoder.layers)) if one is None else [one]

    def _blocks(self, state: Blocks, segment: Tensor, mask: Tensor) -> Tensor:
        """The block of each token of a text that is written next, [B, T] long; segment, mask [B, T]."""
        last = torch.nn.functional.pad(state.block, (0, 1), value=NO_BLOCK).amax(-1, keepdim=True)
        if self.settings.block == "segment":
            return (segment + last + 1).masked_fill(~mask, NO_BLOCK)
        filled = ((state.block == last) & (last != NO_BLOCK)).sum(-1, keepdim=True)
        place = torch.arange(mask.shape[1], device=mask.device) + filled
        return (last.clamp(min=0) + place // self.settings.block).masked_fill(~mask, NO_BLOCK)
