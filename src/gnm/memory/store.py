"""A long-term store beside the pool: whole segments that questions find again.

- A `LongTermStore` belongs to one memory of a batch. It is a value: what adds or drops segments gives a new one.
- What a reader needs of a segment lies on the CPU as one tensor, its entries.
- Writes don't read the store (as in M+, Wang et al. 2025). What gates drop of the pool they drop here too.

Shape letters: N segments, n slots of a segment, P numbers of a slot's entry, E hidden size, D numbers of a search key.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn

from gnm.memory.consolidation import Duplicates, merged, words_of
from gnm.memory.mapped import Mapped, last, read
from gnm.memory.search import KeyIndex

COLUMNS = {
    "source": torch.long,
    "segment": torch.long,
    "stored_at": torch.long,
    "retrieved": torch.long,
    "words": torch.long,
    "strength": torch.float32,
    "keys": torch.float32,
    "meanings": torch.float32,
}
"""What a store holds of each segment, and its dtype."""
_WIDE = ("keys", "meanings")


@dataclass(frozen=True)
class LongTermStore:
    """N segments, in the order in which they came.

    search_key: what `keys` are, in words. source, segment: [N] long, as in MemoryState. stored_at: [N] long, documents
    that were written when the segment left the pool. retrieved: [N] long, how often questions of a conversation read
    it. strength: [N] float32. keys: [N, D] float32 of length 1. meanings: [N, E] float32, what keep gates compare.
    words: [N] long, the same for segments of the same words. entries: N tensors [n, P] in the backbone's dtype, or
    where they lie in a file. blank: [0, P] in that dtype. index: of the first of `keys`, None: a search compares all.
    duplicates: which other documents stated the same.
    """

    search_key: str
    source: Tensor
    segment: Tensor
    stored_at: Tensor
    retrieved: Tensor
    strength: Tensor
    keys: Tensor
    meanings: Tensor
    words: Tensor
    blank: Tensor
    entries: tuple[Tensor | Mapped, ...] = ()
    index: KeyIndex | None = None
    duplicates: Duplicates = field(default_factory=Duplicates.nothing)

    @classmethod
    def empty(cls, search_key: str, key: int, size: int, width: int, dtype: torch.dtype) -> "LongTermStore":
        """A store without segments; key: D, size: E, width: P, dtype: of the entries."""
        wide = {"keys": (0, key), "meanings": (0, size)}
        columns = {name: torch.zeros(wide.get(name, 0), dtype=of) for name, of in COLUMNS.items()}
        return cls(search_key, **columns, blank=torch.zeros(0, width, dtype=dtype))

    @classmethod
    def cut(
        cls, search_key: str, columns: Mapping[str, Tensor], entries: Tensor, lengths: Sequence[int]
    ) -> "LongTermStore":
        """The store of `columns`, with the entries of all its segments, cut by their `lengths`.

        Each segment has memory of its own, which is free again when it is dropped.
        """
        cut = tuple(each.clone() for each in entries.split(list(lengths))) if len(lengths) else ()
        words = _words(cut, columns["meanings"].shape[1])
        return cls(search_key, **columns, blank=entries[:0].clone(), words=words, entries=cut)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def lengths(self) -> Tensor:
        """Slots of each segment, [N] long."""
        return torch.tensor([len(entry) for entry in self.entries], dtype=torch.long)

    @property
    def bytes(self) -> int:
        """Bytes of all segments with their search keys, in memory and on disk."""
        return sum(each.nbytes for each in (*self.entries, *(getattr(self, name) for name in COLUMNS)))

    def add(self, other: "LongTermStore") -> "LongTermStore":
        """This store with the segments of `other` behind its own."""
        columns = {name: torch.cat((getattr(self, name), getattr(other, name))) for name in COLUMNS}
        duplicates = self.duplicates.add(other.duplicates, len(self))
        return replace(self, **columns, entries=self.entries + other.entries, duplicates=duplicates)

    def select(self, keep: Tensor) -> "LongTermStore":
        """The store of the segments where `keep` [N] bool."""
        if bool(keep.all()):
            return self
        entries = tuple(entry for entry, kept in zip(self.entries, keep.tolist(), strict=True) if kept)
        index = self.index and self.index.select(keep)
        duplicates = self.duplicates.moved(torch.where(keep, keep.long().cumsum(0) - 1, -1))
        columns = {name: getattr(self, name)[keep] for name in COLUMNS}
        return replace(self, **columns, entries=entries, index=index, duplicates=duplicates)

    def without(self, document: int) -> "LongTermStore":
        """The store without what `document` wrote, and without a trace that it stated what other documents state."""
        return replace(self, duplicates=self.duplicates.without(document)).select(self.source != document)

    def consolidated(self) -> "LongTermStore":
        """The store in which segments of the same words are one: that of the newest document, found as often as all.

        Segments with any other word stay apart, however near their keys are.
        """
        if not len(self):
            return self
        here, width = torch.arange(len(self)), self.meanings.shape[1]
        order = self.segment.argsort(stable=True)
        into = merged(self.words, order[self.source[order].argsort(stable=True)])
        for place in (into != here).nonzero()[:, 0].tolist():
            if not torch.equal(last(self.entries[place], width), last(self.entries[into[place]], width)):
                into[place] = place
        duplicates = self.duplicates.moved(into).add(Duplicates(into, self.source)).of_others(self.source)
        retrieved = torch.zeros_like(self.retrieved).index_add(0, into, self.retrieved)
        return replace(self, duplicates=duplicates, retrieved=retrieved).select(into == here)

    def indexed(self, start: int | None) -> "LongTermStore":
        """The store with an index of its keys if it has `start` segments or more, which takes a while to build.

        Raises ConfigError if FAISS is needed and not installed.
        """
        if start is None or len(self) < start:
            return replace(self, index=None) if self.index else self
        if self.index and not self.index.outgrown(len(self)):
            return self
        return replace(self, index=KeyIndex.build(self.keys))

    def scaled(self, gates: Tensor) -> "LongTermStore":
        """The store after keep gates [N] float32: what is below one half goes, the rest is as much weaker."""
        return replace(self, strength=self.strength * gates).select(gates >= 0.5)

    def renumbered(self, number: int, new: int, first: int = 0) -> "LongTermStore":
        """Document `number` as a part of document `new`, its segments counted from `first` on."""
        own = self.source == number
        source = self.source.masked_fill(own, new)
        duplicates = self.duplicates.numbered(
            self.duplicates.source.masked_fill(self.duplicates.source == number, new)
        ).of_others(source)
        return replace(self, source=source, segment=self.segment + first * own, duplicates=duplicates)

    def numbered_on(self, written: int) -> "LongTermStore":
        """The store of a memory that follows one of `written` documents."""
        duplicates = self.duplicates.numbered(self.duplicates.source + written)
        return replace(self, source=self.source + written, stored_at=self.stored_at + written, duplicates=duplicates)

    def count(self, found: Sequence[int]) -> "LongTermStore":
        """The store after questions that read the segments `found`, each as often as it is named."""
        return replace(self, retrieved=self.retrieved + torch.tensor(list(found)).long().bincount(minlength=len(self)))

    def by_age(self, which: Sequence[int]) -> tuple[int, ...]:
        """The segments `which`, those of older documents first, in each document in their order."""
        return tuple(sorted(which, key=lambda place: (int(self.source[place]), int(self.segment[place]))))

    def fitting(self, which: Sequence[int], slots: int) -> list[int]:
        """The first of the segments `which` that together have at most so many slots."""
        ends = accumulate(len(self.entries[place]) for place in which)
        return [place for place, end in zip(which, ends, strict=True) if end <= slots]

    def slots(self, which: Sequence[int], width: int | None = None) -> dict[str, Tensor]:
        """The segments `which` slot by slot: "entries" [R, P] and, [R] each, what MemoryState says of a slot.

        width: entries are the last so many numbers alone.
        Raises MemoryFileError if an entry lies in a file that was damaged.
        """
        index = torch.tensor(list(which), dtype=torch.long)
        sizes = torch.tensor([len(self.entries[place]) for place in which], dtype=torch.long)
        columns = {n: getattr(self, n)[index].repeat_interleave(sizes) for n in ("source", "segment", "strength")}
        found = [self.entries[place] for place in which] or [self.blank]
        entries = [read(entry) if width is None else last(entry, width) for entry in found]
        return {"entries": torch.cat(entries), "valid": torch.ones(int(sizes.sum()), dtype=torch.bool), **columns}

    def slots_of(self, column: Literal["source", "segment"], document: int | None = None) -> dict[int, int]:
        """Slots by document or, of one `document`, by segment: {number: slots}."""
        found: dict[int, int] = {}
        for source, number, size in zip(
            self.source.tolist(), getattr(self, column).tolist(), self.lengths.tolist(), strict=True
        ):
            if document in (None, source):
                found[number] = found.get(number, 0) + size
        return found

    def with_entries(self, entries: Iterable[Tensor | Mapped]) -> "LongTermStore":
        """The same segments, with their entries in memory or in a file."""
        return replace(self, entries=tuple(entries))

    def equals(self, other: "LongTermStore") -> bool:
        """Whether both hold the same segments, however often questions found them."""
        return (
            all(torch.equal(getattr(self, name), getattr(other, name)) for name in COLUMNS if name != "retrieved")
            and len(self) == len(other)
            and all(torch.equal(read(one), read(two)) for one, two in zip(self.entries, other.entries, strict=True))
        )

    def columns(self) -> dict[str, Tensor]:
        """What a file holds of it, by name, but for its entries."""
        duplicates = {"told.place": self.duplicates.place, "told.source": self.duplicates.source}
        return {name: getattr(self, name) for name in COLUMNS} | {"lengths": self.lengths, **duplicates}

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds of it, by name; entries are one tensor, cut by `lengths`."""
        return self.columns() | {"entries": torch.cat([read(entry) for entry in self.entries or (self.blank,)])}

    @classmethod
    def mapped(cls, search_key: str, tensors: Mapping[str, Tensor], entries: tuple[Mapped, ...]) -> "LongTermStore":
        """The store of `tensors`, as `columns()` gives them, and of `entries` in files. KeyError if one is missing."""
        columns = {name: tensors[name] for name in COLUMNS}
        duplicates = Duplicates(tensors["told.place"], tensors["told.source"])
        return cls(search_key, **columns, blank=tensors["entries"], entries=entries, duplicates=duplicates)

    @classmethod
    def of(cls, search_key: str, tensors: Mapping[str, Tensor]) -> "LongTermStore":
        """The store of `tensors`, as `tensors()` gives them; entries stay where they are mapped from.

        Raises KeyError or ValueError if one is missing, or lengths and entries don't fit together.
        """
        entries, lengths = tensors["entries"], tensors["lengths"]
        if entries.dim() != 2 or lengths.dim() != 1 or not bool((lengths > 0).all()) or lengths.sum() != len(entries):
            raise ValueError("the segments of the store are not as long as its entries")
        cut = tuple(entries.split(lengths.tolist())) if len(lengths) else ()
        if "words" not in tensors:  # a file from before there were any
            tensors = {
                **tensors,
                "words": _words(cut, tensors["meanings"].shape[-1] if tensors["meanings"].dim() else 0),
            }
        columns = {name: tensors[name] for name in COLUMNS}
        duplicates = (
            Duplicates(tensors["told.place"], tensors["told.source"])
            if "told.place" in tensors
            else Duplicates.nothing()
        )
        return cls(search_key, **columns, blank=entries[:0].clone(), entries=cut, duplicates=duplicates)

    def to(self, dtype: torch.dtype) -> "LongTermStore":
        """The store with entries of `dtype`."""
        if self.blank.dtype == dtype:
            return self
        entries = tuple(entry.to(dtype) for entry in self.entries)
        return replace(self, blank=self.blank.to(dtype), entries=entries)

    def check(self) -> None:
        """Raise ValueError if its columns don't fit together, or hold what no memory makes."""
        for name, dtype in COLUMNS.items():
            column = getattr(self, name)
            if column.dtype != dtype or column.dim() != 1 + (name in _WIDE) or len(column) != len(self):
                raise ValueError(f"{name} of the store are {column.dtype} of shape {tuple(column.shape)}")
            if not bool(column.isfinite().all()) or (dtype == torch.long and bool((column < 0).any())):
                raise ValueError(f"{name} of the store hold a number that none can be")
        if not bool(((self.strength > 0) & (self.strength <= 1)).all()):
            raise ValueError("a strength of the store is not in (0, 1]")
        self.duplicates.check(len(self))
        held = (entry for entry in self.entries if isinstance(entry, Tensor))  # those in files were checked before
        if not self.blank.is_floating_point() or not all(bool(entry.isfinite().all()) for entry in held):
            raise ValueError("entries of the store are no numbers")


def _words(entries: Sequence[Tensor], width: int) -> Tensor:
    return torch.tensor([words_of(entry[:, -width:]) for entry in entries], dtype=torch.long)


def unit(hidden: Tensor) -> Tensor:
    """Search keys of hidden states [..., E]: normalised as a layer's norm does, of length 1, float32."""
    return nn.functional.normalize(nn.functional.layer_norm(hidden.float(), hidden.shape[-1:]), dim=-1)
