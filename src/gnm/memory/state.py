"""The state of memories: a frozen value with a batch axis. Nothing changes it in place; each method returns a new one.

Shape letters: B states, L layers, S slots, E hidden size.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gnm.memory.store import LongTermStore

PREAMBLE = -1
"""The source of slots of the preamble, with which every conversation starts. They are never evicted or forgotten."""
MIXED = -2
"""The source of slots that belong to no single document: those of a trained starting pool, and all that are left after
an eviction that dropped different slots in different layers. They are evicted like all others, and cannot be forgotten
by document."""


def pack(keep: Tensor) -> tuple[Tensor, Tensor]:
    """The places where `keep` [..., S] bool is true, moved to the left in their order.

    Returns their indices [..., S'] long, padded with 0 up to the longest row S'; and which are real, [..., S'] bool.
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
    strength: [B, S] float32 in (0, 1], the write gate of the slot; None in a memory without gates.
    segment: [B, S] long; the number of the slot's segment in its document's text; None in a memory without gates.
    store: the long-term store of each memory, B of them; None in a memory without stores.

        state.documents()  # {0: 31, 1: 12}: slots by document
        state = state.forget(0)
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

    def from_end(self) -> Tensor:
        """The place of each valid slot counted from the last one, which is 1: [B, S] long."""
        return self.valid.flip(-1).long().cumsum(-1).flip(-1)

    def used(self) -> Tensor:
        """How many slots count against the pool's capacity, [B] long: all valid ones except the preamble's."""
        return (self.valid & (self.source != PREAMBLE)).sum(-1)

    def positions(self, shared: bool = False) -> Tensor:
        """The position at which each slot is read, [B, S] long: valid slots one after another.

        shared: every document begins right after the preamble, so reading does not depend on the documents' order.
        """
        place = (self.valid.long().cumsum(-1) - 1).clamp(min=0)
        if not shared:
            return place
        kind = torch.where(self.valid, self.source, PREAMBLE) - MIXED  # from 0 on, so that it can be an index
        # the place of the first slot of each source
        first = torch.full((self.batch, self.written - MIXED), self.slots.shape[2], device=place.device)
        first = first.scatter_reduce(1, kind, place.where(self.valid, self.slots.shape[2]), "amin")
        preamble = (self.valid & (self.source == PREAMBLE)).sum(-1, keepdim=True)
        return torch.where(kind == PREAMBLE - MIXED, place, preamble + place - first.gather(1, kind))

    def documents(self, row: int = 0) -> dict[int, int]:
        """How many slots each document has in pool and store of memory `row`: {document: slots}, oldest first."""
        sources, counts = self.source[row][self.valid[row]].unique(return_counts=True)
        slots = {int(s): int(c) for s, c in zip(sources, counts, strict=True) if s >= 0}
        return _sum(slots, self.store[row].slots_of("source")) if self.store else slots

    def segments(self, document: int, row: int = 0) -> dict[int, int]:
        """How many slots each segment of `document` has in pool and store of memory `row`: {segment: slots}.

        Only for memories with gates.
        """
        held = self.segment[row][self.valid[row] & (self.source[row] == document)]
        slots = {int(s): int(c) for s, c in zip(*held.unique(return_counts=True), strict=True)}
        return _sum(slots, self.store[row].slots_of("segment", document)) if self.store else slots

    def segment_numbers(self) -> Tensor:
        """A number for each slot, the same for slots of one segment of one document: [B, S] long, -1 without a segment.

        Older documents have smaller numbers. Only for memories with gates.
        """
        own = self.valid & (self.source >= 0)
        width = int(self.segment.max()) + 1 if self.segment.numel() else 1
        return (self.source * width + self.segment).masked_fill(~own, -1)

    def select(self, keep: Tensor) -> tuple["MemoryState", Tensor]:
        """The state with the slots where `keep` is true, moved to the left; the long-term store stays as it is.

        keep: [B, S] bool, the same slots in every layer. Or [B, L, S] bool, different slots in different layers, but as
        many in each; then all slots of a row that drops any become MIXED.
        Also returns the indices [B, L, S'] long of the kept slots, for tensors that are held beside the state.
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

        Raises KeyError if no row holds a slot of it, or if eviction mixed its slots with others.
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
        """The memory without the slots of `document`, in pool and store. Unlike `forget` it raises nothing if there are
        none."""
        store = self.store and tuple(each.without(document) for each in self.store)
        return replace(self.select(self.source != document)[0], store=store)

    def rows(self, index: Tensor | list[int]) -> "MemoryState":
        """The memories of the rows in `index`, with their stores, as a batch of their own."""
        index = torch.as_tensor(index, device=self.slots.device)
        store = self.store and tuple(self.store[row] for row in index.tolist())
        return replace(self, **{name: tensor[index] for name, tensor in self.tensors().items()}, store=store)

    def to(self, device: torch.device | str) -> "MemoryState":
        """The same memory with its tensors on `device`; itself if they are there. The store stays on the CPU."""
        if self.slots.device == torch.device(device):
            return self
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def detach(self) -> "MemoryState":
        """The same memory, cut from the graph of gradients."""
        return replace(self, **{name: tensor.detach() for name, tensor in self.tensors().items()})

    def equals(self, other: "MemoryState") -> bool:
        """Whether both hold the same slots of the same documents. False if nothing was written into them.

        How often questions found a segment of the store (`retrieved`) does not count.
        """
        ours, theirs = self.tensors(), other.tensors()
        stores = self.store or (), other.store or ()
        return (
            self.written == other.written > 0
            and ours.keys() == theirs.keys()
            and all(torch.equal(ours[name], theirs[name]) for name in ours)
            and len(stores[0]) == len(stores[1])
            and all(own.equals(others) for own, others in zip(*stores, strict=True))
        )

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, each with the batch axis first."""
        named = {name: getattr(self, name) for name in ("slots", "valid", "source", "seeds", "strength", "segment")}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def _sum(slots: dict[int, int], others: dict[int, int]) -> dict[int, int]:
    """The sums of two counts, {number: slots}, in the order of their numbers."""
    return {number: slots.get(number, 0) + others.get(number, 0) for number in sorted({*slots, *others})}
