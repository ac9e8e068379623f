"""A decoder with a latent memory: writing a text into slots, reading slots through a key/value prefix.

- A write is one pass of the decoder over the text; the input of every layer, at every token, becomes a slot of that
  layer. Untrained, such a memory is the same function as the text in the context (if the write reads everything).
- A read projects slots to keys and values once per state and hands them to the decoder as a prefix.
- Keys are kept unrotated beside the state (`Memory.keys`), because eviction moves positions; a write projects only
  its own slots.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import field_validator
from torch import Tensor, nn

from gnm.config import StrictModel
from gnm.memory.pool import PoolSettings, append, check_fits
from gnm.memory.state import HEAD, MemoryState, pack
from gnm.models.attention import Prefix
from gnm.models.decoder import Decoder


class WriteSettings(StrictModel):
    """What a write reads of the pool: "nothing", "all", or the number of its last slots (MemoryLLM)."""

    reads: Literal["nothing", "all"] | int = "nothing"

    @field_validator("reads")
    @classmethod
    def _positive(cls, reads):
        if isinstance(reads, int) and reads < 1:
            raise ValueError("a number of slots to read must be positive; use 'nothing' to read none")
        return reads


@dataclass(frozen=True)
class Memory:
    """A memory state with its slots' projections: keys (not rotated) and values, [B, K, S, D] per layer."""

    state: MemoryState
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class MemoryLM(nn.Module):
    """Any decoder of the Llama shape with a latent memory."""

    def __init__(
        self,
        decoder: Decoder,
        head: list[int],
        pool: PoolSettings,
        write: WriteSettings,
        gradient_through_writing: bool = True,
    ):
        super().__init__()
        self.decoder, self.head, self.pool, self.write_settings = decoder, head, pool, write
        self.gradient_through_writing = gradient_through_writing

    def initial(self, seeds: Tensor) -> Memory:
        """Empty memories, one for each of `seeds` [B] long: they hold the conversation's head and nothing else."""
        decoder, batch = self.decoder, seeds.shape[0]
        ids = torch.tensor([[self.head]], dtype=torch.long, device=decoder.device)
        if ids.numel():
            slots = self._slots(decoder.empty_prefix(1), ids, torch.ones_like(ids, dtype=torch.bool))
        else:
            size = (1, len(decoder.layers), 0, decoder.config.hidden_size)
            slots = torch.empty(size, dtype=decoder.dtype, device=decoder.device)
        slots = slots.expand(batch, -1, -1, -1)
        valid = torch.ones(batch, slots.shape[2], dtype=torch.bool, device=decoder.device)
        state = MemoryState(slots, valid, torch.full_like(valid, HEAD, dtype=torch.long), seeds.to(decoder.device))
        return self.attach(state)

    def attach(self, state: MemoryState) -> Memory:
        """`state` with the keys and values of all its slots."""
        return Memory(state, *self.decoder.project(state.slots))

    def write(self, memory: Memory, ids: Tensor, mask: Tensor) -> Memory:
        """Write one text per row: ids [B, T] long, mask [B, T] bool (false: padding on the right).

        Raises MemoryFileError if a text is longer than the pool.
        """
        check_fits(int(mask.sum(-1).max()), self.pool)
        slots = self._slots(self._read_by_write(memory), ids[:, None], mask[:, None])
        state, kept = append(memory.state, slots, mask, self.pool)
        keys, values = memory.keys, memory.values
        if kept is not None:
            keys, values = (tuple(_gather(tensor, kept[0]) for tensor in side) for side in (keys, values))
        new_keys, new_values = self.decoder.project(slots)
        return Memory(
            state,
            tuple(torch.cat(pair, dim=2) for pair in zip(keys, new_keys, strict=True)),
            tuple(torch.cat(pair, dim=2) for pair in zip(values, new_values, strict=True)),
        )

    def prefix(self, memory: Memory) -> Prefix:
        """What queries of `memory` read: its slots' keys, rotated to their present positions, and values."""
        return self.decoder.rotated(memory.keys, memory.values, memory.state.valid)

    def _slots(self, prefix: Prefix, ids: Tensor, mask: Tensor) -> Tensor:
        """Layer inputs of ids [B, 1, T] read after `prefix`: [B, L, T, E]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.gradient_through_writing):
            reading, positions = self.decoder.start(prefix, mask)
            return self.decoder.run(ids, positions, reading, tap=True)[1]

    def _read_by_write(self, memory: Memory) -> Prefix:
        reads, state = self.write_settings.reads, memory.state
        if reads == "all":
            return self.prefix(memory)
        visible = state.source == HEAD
        if reads != "nothing":
            from_end = state.valid.flip(-1).long().cumsum(-1).flip(-1)
            visible = visible | (from_end <= reads)
        index, valid = pack(visible & state.valid)
        keys, values = (tuple(_gather(t, index) for t in side) for side in (memory.keys, memory.values))
        return self.decoder.rotated(keys, values, valid)


def _gather(tensor: Tensor, index: Tensor) -> Tensor:
    """Entries `index` [B, S'] of [B, K, S, D] along S."""
    return tensor.gather(2, index[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3]))
