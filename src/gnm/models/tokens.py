"""Texts as tokens: what a write is given."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenBatch:
    """Texts as tokens: one text a row, padded on the right.

    ids: [B, T] long. mask: [B, T] bool, false for padding. segment: [B, T] long, the number of each token's segment in
    its text, -1 for padding. is_document: [B, T] bool, true for the tokens of a document; false for those of its
    instruction, for the words around both, and for padding.

        text = reader.encode(["Oslo lies on a fjord."])
        memory = lm.write(memory, text)
    """

    ids: Tensor
    mask: Tensor
    segment: Tensor
    is_document: Tensor

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor) -> "TokenBatch":
        """Texts of one segment each, all of it a document's."""
        return cls(ids, mask, torch.where(mask, 0, -1), mask)

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.ids)
