"""A memory state with what readers take from it: each slot's keys and values, projected once.

Shape letters: B states, L layers, K key/value heads, S slots, D head size, E hidden size.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from gnm.memory.state import MemoryState
from gnm.models.gates.keep import Kept
from gnm.models.gates.write import Decisions


@dataclass(frozen=True)
class Memory:
    """A memory state with its slots' projections: keys (not rotated) and values, [B, K, S, D] per layer.

    decisions, kept: what gates decided on the document that was written last, and on the slots before it, if any do.
    """

    state: MemoryState
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    decisions: Decisions | None = None
    kept: Kept | None = None

    def select(self, keep: Tensor) -> "Memory":
        """The memory of the slots where `keep` is true; as MemoryState.select."""
        state, index = self.state.select(keep)
        return replace(self, state=state, keys=at_layers(self.keys, index), values=at_layers(self.values, index))

    def revised(self, kept: Kept) -> "Memory":
        """The memory after keep gates: a slot's strength is multiplied by its gate; below one half it is dropped."""
        gates = kept.gates
        state = replace(self.state, strength=self.state.strength * gates)
        memory = replace(self, state=state, decisions=None, kept=kept)
        return memory if bool((gates >= 0.5).all()) else memory.select(gates >= 0.5)


def at_layers(projected: tuple[Tensor, ...], index: Tensor) -> tuple[Tensor, ...]:
    """Entries `index` [B, L, S'] of keys or values, [B, K, S, D] per layer."""
    return tuple(
        tensor.gather(2, index[:, layer, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3]))
        for layer, tensor in enumerate(projected)
    )


def slots_at(slots: Tensor, index: Tensor) -> Tensor:
    """Slots `index` [B, S'] of [B, L, S, E], in every layer."""
    return slots.gather(2, index[:, None, :, None].expand(-1, slots.shape[1], -1, slots.shape[3]))
