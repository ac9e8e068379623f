"""Slots that questions find in long-term stores, as they stand among the slots of a pool.

Shape letters: B rows, S slots of the pool, R slots from the store, P numbers in the entry of a slot, K key/value heads,
D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gnm.memory.state import PREAMBLE, MemoryState


@dataclass(frozen=True)
class StoredSlots:
    """Slots of the stores of B rows, padded to R: entries [B, R, P]; columns [B, R], fields of MemoryState by name."""

    entries: Tensor
    columns: dict[str, Tensor]

    @classmethod
    def of(cls, rows: Sequence[dict[str, Tensor]], device: torch.device) -> "StoredSlots":
        """rows: what LongTermStore.slots returns, for each of the B rows."""
        padded = {name: pad_sequence([row[name] for row in rows], batch_first=True).to(device) for name in rows[0]}
        return cls(padded.pop("entries"), padded)

    def behind(self, state: MemoryState) -> dict[str, Tensor]:
        """The columns of both, [B, S + R] each: those of the pool's slots in `state`, then these."""
        return {name: torch.cat((getattr(state, name), own), dim=1) for name, own in self.columns.items()}


def order_by_age(source: Tensor, segment: Tensor, valid: Tensor) -> Tensor:
    """The order [B, S] long of slots by document, then segment; the preamble comes first, padding last.

    source, segment: [B, S] long, valid: [B, S] bool, as in MemoryState.
    """
    number = source * (int(segment.max()) + 2) + segment
    number = number.masked_fill(source == PREAMBLE, torch.iinfo(torch.long).min)
    return number.masked_fill(~valid, torch.iinfo(torch.long).max).argsort(dim=-1, stable=True)


def in_order(side: Tensor, order: Tensor) -> Tensor:
    """Keys or values [B, K, S, D] in the order [B, S]."""
    return side.gather(2, order[:, None, :, None].expand(-1, side.shape[1], -1, side.shape[3]))
