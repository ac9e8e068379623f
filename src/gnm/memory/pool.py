"""The pool: new slots join it, and old slots leave it when it is full (eviction).

- `random` drops old slots uniformly at random, as MemoryLLM does (Wang et al. 2024, sec. 3.2: self-update): the same
  places in all layers, or other ones in each (`per_layer`).
- `oldest` drops the slots that were written first.
- `weakest` drops the slots with the smallest write gates; among equal ones the oldest.
- A write never drops its own slots.
- MemoryLLM's pool is full from the first document on: its slots are repeated until the pool is full (`fill`).
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gnm.config import StrictModel
from gnm.errors import MemoryFileError
from gnm.memory.state import PREAMBLE, MemoryState, pack
from gnm.memory.store_settings import StoreSettings

_MIX = 1_000_003  # a prime: seeds and numbers of documents give different generators


class PoolSettings(StrictModel):
    """The size of the pool, and which slots leave it when it is full.

    PoolSettings(capacity=512, eviction="oldest")
    """

    capacity: int | None = Field(None, gt=0, description="slots per memory, None: no limit")
    eviction: Literal["random", "oldest", "weakest"] = "random"
    per_layer: bool = Field(False, description="random eviction draws anew for each layer; documents then mix")
    fill: bool = Field(False, description="the first document fills the whole pool, repeated")
    positions: Literal["in_order", "shared"] = Field(
        "in_order", description="slots are read one after another, or every document at the same positions"
    )
    store: StoreSettings | None = Field(None, description="where evicted segments go, None: they are lost")

    @model_validator(mode="after")
    def _fits_together(self) -> "PoolSettings":
        if self.fill and self.capacity is None:
            raise ValueError("memory.fill needs memory.capacity: how many slots are to be filled")
        if self.per_layer and self.eviction != "random":
            raise ValueError("memory.per_layer goes with memory.eviction: random; the others are so in every layer")
        if self.store and (self.per_layer or self.fill):
            raise ValueError("memory.store keeps whole segments; leave out memory.per_layer and memory.fill")
        if self.store and self.store.takes == "evicted" and self.capacity is None:
            raise ValueError(
                "memory.store takes what the pool evicts, and a pool without memory.capacity evicts nothing; set it, "
                "or store.takes: written"
            )
        return self


def append(
    state: MemoryState, slots: Tensor, valid: Tensor, settings: PoolSettings, **gated: Tensor
) -> tuple[MemoryState, Tensor | None]:
    """Add the slots of one document per row, and evict old slots where the pool is full.

    slots: [B, L, T, E]. valid: [B, T] bool, false for padding. gated: in a memory with gates, `strength` and `segment`
    [B, T] of the slots.
    Returns the new state, and the indices [B, L, S'] long of the old slots that were kept; None: all were.
    With `settings.store` nothing is evicted here: the caller moves what is too much into the store.
    Raises MemoryFileError if a document alone is larger than the pool.
    """
    new, kept = valid.sum(-1), None
    if settings.capacity is not None and settings.store is None:
        check_fits(int(new.max()), settings)
        surplus = (state.used() + new - settings.capacity).clamp(min=0)
        if bool(surplus.any()):
            state, kept = state.select(~_evicted(state, surplus, settings))
    source = torch.where(valid, state.written, PREAMBLE)
    joined = replace(
        state,
        slots=torch.cat((state.slots, slots), dim=2),
        valid=torch.cat((state.valid, valid), dim=1),
        source=torch.cat((state.source, source), dim=1),
        written=state.written + 1,
        **{name: torch.cat((getattr(state, name), tensor), dim=1) for name, tensor in gated.items()},
    )
    return joined, kept


def merge(state: MemoryState, other: MemoryState, settings: PoolSettings) -> MemoryState:
    """Both memories as one. The documents of `other` follow those of `state`, and their numbers too.

    Both must be of the same model. If writes read nothing of the pool (write.reads: nothing), the result has the slots
    of one memory that was given all documents. A pool that is too full evicts. With `settings.store` it does not: what
    is too much goes into the store when the memory is attached to its model.
    Raises MemoryFileError if the memories differ in batch, layers, width, or in whether they have gates, and if `other`
    alone has a long-term store.
    """
    kind = (state.batch, state.slots.shape[1], state.slots.shape[3], state.strength is None)
    if kind != (other.batch, other.slots.shape[1], other.slots.shape[3], other.strength is None):
        raise MemoryFileError(
            "these memories are of two kinds (another model, batch, or gates); merge memories of one model"
        )
    if other.store and not state.store:
        raise MemoryFileError(
            "the memory to be merged has a long-term store, and this one has none to take it in; give this one a store "
            "(memory.store and memory.capacity), or merge this one into the other"
        )
    added = other.select(other.source != PREAMBLE)[0]
    numbered = torch.where(added.source >= 0, added.source + state.written, added.source)
    parts = {**added.tensors(), "source": numbered}
    parts.pop("seeds")
    joined = {
        name: torch.cat((tensor, parts[name]), dim=2 if name == "slots" else 1)
        for name, tensor in state.tensors().items()
        if name in parts
    }
    merged = replace(state, **joined, written=state.written + other.written)
    if state.store:
        stores = zip(state.store, other.store or [store.select(store.source < 0) for store in state.store], strict=True)
        merged = replace(merged, store=tuple(store.add(more.numbered_on(state.written)) for store, more in stores))
    if settings.capacity is None or settings.store:
        return merged
    surplus = (merged.used() - settings.capacity).clamp(min=0)
    return merged.select(~_evicted(merged, surplus, settings))[0]


def repeated(state: MemoryState, valid: Tensor, settings: PoolSettings) -> tuple[Tensor, Tensor]:
    """Which slots of a document are written, in which order, when an empty pool is filled by repetition.

    valid: [B, T] bool, the document's slots. Returns the places of the written slots, [B, T'] long, and which of them
    count, [B, T'] bool. With `settings.fill`, a row whose pool is empty takes the document as often as it fits whole,
    and then its last slots, up to the capacity. Any other row takes the document once.
    """
    once, counts = pack(valid)
    if not settings.fill or bool(state.used().all()):
        return once, counts
    length, capacity = valid.sum(-1, keepdim=True).clamp(min=1), settings.capacity
    slot = torch.arange(capacity, device=valid.device).expand(valid.shape[0], -1)
    whole = capacity // length * length  # slots that whole repetitions fill; the document's last slots fill the rest
    repeated_from = torch.where(slot < whole, slot % length, length - capacity + slot)
    filling, empty = once.gather(1, repeated_from), (state.used() == 0) & valid.any(-1)
    padding = (0, capacity - once.shape[1])
    once, counts = nn.functional.pad(once, padding), nn.functional.pad(counts, padding)
    return torch.where(empty[:, None], filling, once), counts | empty[:, None]


def check_fits(tokens: int, settings: PoolSettings) -> None:
    """Raise MemoryFileError if a document of `tokens` slots cannot fit into the pool."""
    if settings.capacity is not None and tokens > settings.capacity:
        raise MemoryFileError(
            f"a document with its instruction takes {tokens} slots, the pool holds {settings.capacity}; "
            "split the document or raise memory.capacity (in the shell --capacity)"
        )


def _evicted(state: MemoryState, surplus: Tensor, settings: PoolSettings) -> Tensor:
    """Which slots are evicted, `surplus` [B] of each row, none of the preamble: [B, S] bool; per layer [B, L, S]."""
    candidates = state.valid & (state.source != PREAMBLE)
    if settings.eviction == "oldest":
        order = torch.arange(candidates.shape[1], device=candidates.device).expand_as(candidates).float()
    elif settings.eviction == "weakest":
        order = state.strength
    else:
        draws = state.slots.shape[1] if settings.per_layer else None
        order = torch.stack([_noise(row, state, draws) for row in range(state.batch)]).to(candidates.device)
        if settings.per_layer:
            candidates, surplus = candidates[:, None], surplus[:, None]
    order = order.masked_fill(~candidates, float("inf"))
    rank = order.argsort(dim=-1, stable=True).argsort(dim=-1)  # 0 for the slot that is evicted first
    return candidates & (rank < surplus[..., None])


def evicted_segments(state: MemoryState, surplus: Tensor, settings: PoolSettings) -> Tensor:
    """Which slots are evicted if only whole segments are, as few as free `surplus` [B] slots: [B, S] bool."""
    evicted = []
    for row, numbers in enumerate(state.segment_numbers()):
        segments, segment_of_slot, sizes = numbers.unique(return_inverse=True, return_counts=True)
        if settings.eviction == "weakest":
            order = torch.zeros(len(segments), device=numbers.device)
            order = order.index_copy(0, segment_of_slot, state.strength[row])
        elif settings.eviction == "random":
            order = random_order(int(state.seeds[row]), state.written, len(segments)).to(numbers.device)
        else:
            order = segments
        ranked = order.argsort(stable=True)
        ranked = ranked[segments[ranked] >= 0]  # the preamble stays
        freed_before = sizes[ranked].cumsum(0) - sizes[ranked]  # slots that the segments evicted earlier have freed
        evicted.append(torch.isin(numbers, segments[ranked[freed_before < surplus[row]]]))
    return torch.stack(evicted)


def _noise(row: int, state: MemoryState, draws: int | None) -> Tensor:
    """Random numbers for one row's valid slots, [S] or [draws, S]; they do not depend on where padding is."""
    valid = state.valid[row].cpu()
    noise = torch.zeros(draws or 1, valid.shape[0], dtype=torch.float64)
    noise[:, valid] = random_order(int(state.seeds[row]), state.written, draws or 1, int(valid.sum()))
    return noise.float() if draws else noise[0].float()


def random_order(seed: int, written: int, *size: int) -> Tensor:
    """Uniform numbers in [0, 1), float64, for the memory of this seed after `written` documents."""
    generator = torch.Generator().manual_seed((seed * _MIX + written) % 2**63)
    return torch.rand(size, generator=generator, dtype=torch.float64)
