"""Memory is a value with a batch axis: it goes in and comes out, nothing is changed in place.

Shape letters: B states, L layers, S slots, E hidden size.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gnm.memory.store import LongTermStore

PREAMBLE = -1
"""Source of the slots that hold the start of every conversation (BOS, system turn); never evicted or forgotten."""
MIXED = -2
"""Source of slots that no single document wrote: those of a trained starting pool, and what is left of earlier
documents after an eviction that differs from layer to layer. Evicted like any other, never forgotten."""


def pack(keep: Tensor) -> tuple[Tensor, Tensor]:
    """The columns where `keep` [..., S] is true, packed to the left in their order.

    Returns indices [..., S'] long, padded with 0 to the longest row, and which of them count, [..., S'] bool.
    """
    length = int(keep.sum(-1).max()) if keep.numel() else 0
    index = (~keep).int().argsort(dim=-1, stable=True)[..., :length]
    valid = keep.gather(-1, index)
    return torch.where(valid, index, 0), valid


@dataclass(frozen=True)
class MemoryState:
    """The slots of B memories and where each came from.

    slots: [B, L, S, E] hidden states in the backbone's dtype, oldest first.
    valid: [B, S] bool; invalid slots are padding and are never read.
    source: [B, S] long; the number of the document that wrote the slot (0, 1, ...), or PREAMBLE, or MIXED.
    seeds: [B] long; each memory's own seed for random eviction, so results don't depend on its batch.
    written: documents written so far; the next one gets this number.
    strength: [B, S] float32 in (0, 1], what the write gate gave the slot; None in a memory without gates.
    segment: [B, S] long; the number of the slot's segment in its document's text; None in a memory without gates.
    store: of each memory, the segments that are kept beside its slots; None in a memory without such a store.
    """

    slots: Tensor
    valid: Tensor
    source: Tensor
    seeds: Tensor
    written: int = 0
    strength: Tensor | None = None
    segment: Tensor | None = None
    store: tuple[LongTermStore, ...] | None = None

    @property
    def batch(self) -> int:
        return self.slots.shape[0]

    def used(self) -> Tensor:
        """Slots that count against the pool's capacity, [B] long: valid and not of the preamble."""
        return (self.valid & (self.source != PREAMBLE)).sum(-1)

    def positions(self, shared: bool = False) -> Tensor:
        """At which position each slot is read, [B, S] long: valid ones in their order.

        shared: every document begins where the preamble ends, so that nothing tells in which order they were written.
        """
        place = (self.valid.long().cumsum(-1) - 1).clamp(min=0)
        if not shared:
            return place
        kind = torch.where(self.valid, self.source, PREAMBLE) - MIXED
        first = torch.full((self.batch, self.written - MIXED), self.slots.shape[2], device=place.device)
        first = first.scatter_reduce(1, kind, place.where(self.valid, self.slots.shape[2]), "amin")
        preamble = (self.valid & (self.source == PREAMBLE)).sum(-1, keepdim=True)
        return torch.where(kind == PREAMBLE - MIXED, place, preamble + place - first.gather(1, kind))

    def documents(self, row: int = 0) -> dict[int, int]:
        """Slots of each document that is still in memory: {document: slots}, oldest first."""
        sources, counts = self.source[row][self.valid[row]].unique(return_counts=True)
        slots = {int(s): int(c) for s, c in zip(sources, counts, strict=True) if s >= 0}
        return _sum(slots, self.store[row].slots_of("source")) if self.store else slots

    def segments(self, document: int, row: int = 0) -> dict[int, int]:
        """Slots of each segment of `document` that is still in a memory with gates: {segment: slots}."""
        held = self.segment[row][self.valid[row] & (self.source[row] == document)]
        slots = {int(s): int(c) for s, c in zip(*held.unique(return_counts=True), strict=True)}
        return _sum(slots, self.store[row].slots_of("segment", document)) if self.store else slots

    def segment_numbers(self) -> Tensor:
        """One number for each stored segment, the same in every row: [B, S] long, -1 for slots without one."""
        own = self.valid & (self.source >= 0)
        width = int(self.segment.max()) + 1 if self.segment.numel() else 1
        return (self.source * width + self.segment).masked_fill(~own, -1)

    def select(self, keep: Tensor) -> tuple["MemoryState", Tensor]:
        """Keep the slots where `keep` is true, packed to the left.

        keep: [B, S] bool, the same slots in every layer; or [B, L, S], equally many in each (what is kept of the
        documents is then MIXED). Returns the new state, and the kept slots' indices [B, L, S'] long for those who
        hold something per slot.
        """
        per_layer = keep.dim() == 3
        index, valid = pack(keep & (self.valid[:, None] if per_layer else self.valid))
        if per_layer:
            valid, source = valid[:, 0], self.source.gather(1, index[:, 0])
            dropped = valid.sum(-1) < self.valid.sum(-1)
            source = torch.where(dropped[:, None] & (source != PREAMBLE), MIXED, source)
        else:
            source = self.source.gather(1, index)
            index = index[:, None].expand(-1, self.slots.shape[1], -1)
        slots = self.slots.gather(2, index[..., None].expand(-1, -1, -1, self.slots.shape[3]))
        kept = replace(self, slots=slots, valid=valid, source=torch.where(valid, source, PREAMBLE))
        gated = {name: getattr(self, name) for name in ("strength", "segment") if getattr(self, name) is not None}
        return replace(kept, **{name: tensor.gather(1, index[:, 0]) for name, tensor in gated.items()}), index

    def forget(self, document: int) -> "MemoryState":
        """The memory without any slot that `document` wrote (in every row of the batch).

        Raises KeyError if no row holds a slot of it, or its slots can no longer be told from others.
        """
        held = sorted({number for row in range(self.batch) for number in self.documents(row)})
        if document not in held:
            if 0 <= document < self.written and bool((self.valid & (self.source == MIXED)).any()):
                raise KeyError(
                    f"what is left of document {document} can't be told apart: this pool drops other slots in each "
                    "layer; undo the writes instead, or start anew"
                )
            raise KeyError(f"document {document} has no slots in this memory; it holds {held}")
        return self.without(document)

    def without(self, document: int) -> "MemoryState":
        """The memory without the slots of `document`, if it has any, also in its store."""
        store = self.store and tuple(each.select(each.source != document) for each in self.store)
        return replace(self.select(self.source != document)[0], store=store)

    def rows(self, index: Tensor | list[int]) -> "MemoryState":
        """The memories of the rows in `index`, as a batch of their own."""
        index = torch.as_tensor(index, device=self.slots.device)
        store = self.store and tuple(self.store[row] for row in index.tolist())
        return replace(self, **{name: tensor[index] for name, tensor in self.tensors().items()}, store=store)

    def to(self, device: torch.device | str) -> "MemoryState":
        """The same memory on `device`; itself if it is there."""
        if self.slots.device == torch.device(device):
            return self
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def detach(self) -> "MemoryState":
        """The same memory, cut from the graph of gradients."""
        return replace(self, **{name: tensor.detach() for name, tensor in self.tensors().items()})

    def equals(self, other: "MemoryState") -> bool:
        """Whether `other` holds the same slots of the same documents, at least one of them."""
        ours, theirs = self.tensors(), other.tensors()
        stores = [each.tensors() for each in self.store or ()], [each.tensors() for each in other.store or ()]
        pairs = [(ours, theirs), *zip(*stores, strict=False)]
        return (
            self.written == other.written > 0
            and len(stores[0]) == len(stores[1])
            and all(one.keys() == two.keys() for one, two in pairs)
            and all(torch.equal(one[name], two[name]) for one, two in pairs for name in one if name != "retrieved")
        )

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, each with the batch axis first."""
        named = {name: getattr(self, name) for name in ("slots", "valid", "source", "seeds", "strength", "segment")}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def _sum(slots: dict[int, int], others: dict[int, int]) -> dict[int, int]:
    """Both counts together, in the order of their numbers."""
    return {number: slots.get(number, 0) + others.get(number, 0) for number in sorted({*slots, *others})}
