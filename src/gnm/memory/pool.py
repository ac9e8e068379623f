"""What happens when a pool is full, and joining new slots to it.

`random` drops old slots uniformly, as MemoryLLM does (Wang et al. 2024, sec. 3.2: self-update); `oldest` drops those
that were written first. New slots are never dropped by their own write.
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from gnm.config import StrictModel
from gnm.errors import MemoryFileError
from gnm.memory.state import HEAD, MemoryState

_MIX = 1_000_003


class PoolSettings(StrictModel):
    """Size of the pool and what is evicted when it is full."""

    capacity: int | None = Field(None, gt=0, description="slots per memory, None: no limit")
    eviction: Literal["random", "oldest"] = "random"


def append(
    state: MemoryState, slots: Tensor, valid: Tensor, settings: PoolSettings
) -> tuple[MemoryState, tuple[Tensor, Tensor] | None]:
    """Write `slots` [B, L, T, E] with `valid` [B, T] as the next document.

    Returns the new state and, if old slots were evicted, what was kept of them: indices [B, S'] long into the old
    slots and which of these count [B, S'] bool (None: all were kept).
    Raises MemoryFileError if a row of the document alone is larger than the pool.
    """
    new = valid.sum(-1)
    check_fits(int(new.max()), settings)
    kept = None
    if settings.capacity is not None:
        surplus = (state.used() + new - settings.capacity).clamp(min=0)
        if bool(surplus.any()):
            state, *kept = state.select(~_evicted(state, surplus, settings))
    source = torch.where(valid, state.written, HEAD)
    joined = replace(
        state,
        slots=torch.cat((state.slots, slots), dim=2),
        valid=torch.cat((state.valid, valid), dim=1),
        source=torch.cat((state.source, source), dim=1),
        written=state.written + 1,
    )
    return joined, tuple(kept) if kept else None


def check_fits(tokens: int, settings: PoolSettings) -> None:
    """Raise MemoryFileError if a document of `tokens` slots cannot fit into the pool."""
    if settings.capacity is not None and tokens > settings.capacity:
        raise MemoryFileError(
            f"a document with its instruction takes {tokens} slots, the pool holds {settings.capacity}; "
            "split the document or raise memory.capacity"
        )


def _evicted(state: MemoryState, surplus: Tensor, settings: PoolSettings) -> Tensor:
    """Which slots go, [B, S] bool: `surplus` [B] of those that belong to documents."""
    candidates = state.valid & (state.source != HEAD)
    order = torch.arange(candidates.shape[1], device=candidates.device).expand_as(candidates).float()
    if settings.eviction == "random":
        order = torch.stack([_noise(row, state) for row in range(state.batch)]).to(order.device)
    order = order.masked_fill(~candidates, float("inf"))
    rank = order.argsort(dim=-1, stable=True).argsort(dim=-1)
    return candidates & (rank < surplus[:, None])


def _noise(row: int, state: MemoryState) -> Tensor:
    """Random order of one row's valid slots; padding between them doesn't shift it."""
    generator = torch.Generator().manual_seed((int(state.seeds[row]) * _MIX + state.written) % 2**63)
    valid = state.valid[row].cpu()
    noise = torch.zeros(valid.shape[0], dtype=torch.float64)
    noise[valid] = torch.rand(int(valid.sum()), generator=generator, dtype=torch.float64)
    return noise.float()
