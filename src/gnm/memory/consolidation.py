"""Segments of the same words are one: which are, and which other documents had told them before.

Shape letters: N segments, M times that a document told what a segment of another one states.
"""

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor


@dataclass(frozen=True)
class Told:
    """place: [M] long, places of segments in the store. source: [M] long, the documents that had told the same."""

    place: Tensor
    source: Tensor

    @classmethod
    def nothing(cls) -> "Told":
        return cls(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))

    def add(self, other: "Told", first: int = 0) -> "Told":
        """These and those of segments that stand from place `first` on; each document counts once for a segment."""
        pairs = torch.stack((torch.cat((self.place, other.place + first)), torch.cat((self.source, other.source))))
        return Told(*pairs.unique(dim=1))

    def moved(self, place: Tensor) -> "Told":
        """For segments that stand at `place` [N] long now; negative: they are gone."""
        new = place[self.place]
        return Told(new[new >= 0], self.source[new >= 0])

    def without(self, document: int) -> "Told":
        """What documents but this one told."""
        return Told(self.place[self.source != document], self.source[self.source != document])

    def numbered(self, source: Tensor) -> "Told":
        """With other numbers [M] of the documents."""
        return Told(*torch.stack((self.place, source)).unique(dim=1))

    def of_others(self, source: Tensor) -> "Told":
        """Without what the document told that a segment is of; source: [N] long, the documents of the segments."""
        other = self.source != source[self.place]
        return Told(self.place[other], self.source[other])

    def times(self, count: int) -> Tensor:
        """How many documents told each of a store's `count` segments, with its own: [N] long."""
        return 1 + self.place.bincount(minlength=count)

    def check(self, count: int) -> None:
        """Raise ValueError if these are not of a store of `count` segments."""
        both = (self.place, self.source)
        if any(each.dtype != torch.long or each.dim() != 1 or bool((each < 0).any()) for each in both):
            raise ValueError("what was told again is no list of places and documents")
        if len(self.place) != len(self.source) or bool((self.place >= count).any()):
            raise ValueError("what was told again is of no segment of the store")


def words_of(inputs: Tensor) -> int:
    """A number of the words whose first layer's inputs are [n, E]: the same for the same words."""
    data = inputs.detach().cpu().contiguous().view(torch.uint8).numpy()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little") >> 1


def merged(words: Tensor, order: Tensor) -> Tensor:
    """The place that each segment goes to, [N] long: that of the last one in `order` [N] long with the same `words`."""
    _, group = words.unique(return_inverse=True)
    rank = torch.arange(len(order))
    return order[torch.zeros_like(order).scatter_reduce(0, group[order], rank, "amax")[group]]
