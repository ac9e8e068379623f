"""Revoking: an instruction that stands alone takes back what earlier ones had stored.

- Every stored segment is read once more, after this instruction: the slots of the first layer are its tokens'
  embeddings, so the memory is all that it takes. A linear function of what enters the gates' layer at the segment's end
  tells whether the instruction is about it.
- Segments are read apart from each other, so that none depends on what else is stored.
- An instruction that comes with a document speaks of this document: it takes nothing else back.

Shape letters: B states, S slots of the pool, n stored segments, T tokens of a segment or an instruction, E hidden.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gnm.memory.state import MemoryState, pack
from gnm.models.attention import at_ends, at_once
from gnm.models.decoder import Decoder
from gnm.models.prefix import Prefix
from gnm.models.taps import LayerTap


def about(decoder: Decoder, gate: Callable[[Tensor], Tensor], layer: int, prefix: Prefix, state: MemoryState) -> Tensor:
    """The gate of each slot's segment when it is read after `prefix`: logits [B, S], -inf where there is none."""
    number = state.segment_numbers()
    stored = number[number >= 0].unique()
    logits = torch.full(number.shape, -torch.inf, device=number.device)
    if not len(stored):
        return logits
    index, there = pack(number[:, None] == stored[:, None])
    longest, heads = index.shape[2], decoder.config.num_attention_heads
    size = at_once(state.batch * heads * longest * (longest + prefix.valid.shape[1]))
    of_segments = [
        _reread(decoder, gate, layer, prefix, state, *parts)
        for parts in zip(index.split(size, dim=1), there.split(size, dim=1), strict=True)
    ]
    place = torch.searchsorted(stored, number.clamp(min=0)).clamp(max=len(stored) - 1)
    return torch.where(number >= 0, torch.cat(of_segments, dim=1).gather(1, place), logits)


def _reread(decoder, gate, layer: int, prefix: Prefix, state: MemoryState, index: Tensor, there: Tensor) -> Tensor:
    """The gate of segments, whose slots are `index` [B, n, T] where `there` [B, n, T]: logits [B, n]."""
    inputs = state.slots[:, 0].gather(1, index.flatten(1)[..., None].expand(-1, -1, state.slots.shape[3]))
    tap = LayerTap(layer, inputs.unflatten(1, index.shape[1:]), ends_before=layer)
    decoder.read(prefix, torch.zeros_like(index), there, tap)
    return gate(at_ends(tap.seen, there))
