"""Segments of the same words are stored once: which those are, and which other documents stated them.

Shape letters: N segments in the store, M duplicates that were merged into them.
"""

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor


@dataclass(frozen=True)
class Duplicates:
    """Segments that were merged into another one of the same words.

    place: [M] long, where in the store that other one stands. source: [M] long, the documents of the merged ones.
    """

    place: Tensor
    source: Tensor

    @classmethod
    def nothing(cls) -> "Duplicates":
        return cls(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))

    def add(self, other: "Duplicates", first: int = 0) -> "Duplicates":
        """These, and `other` with its places moved up by `first`. A document counts once for each segment."""
        pairs = torch.stack((torch.cat((self.place, other.place + first)), torch.cat((self.source, other.source))))
        return Duplicates(*pairs.unique(dim=1))

    def moved(self, place: Tensor) -> "Duplicates":
        """The same after segment n of the store has moved to `place[n]`; negative: it is gone. place: [N] long."""
        new = place[self.place]
        return Duplicates(new[new >= 0], self.source[new >= 0])

    def without(self, document: int) -> "Duplicates":
        """The duplicates of all documents but this one."""
        return Duplicates(self.place[self.source != document], self.source[self.source != document])

    def numbered(self, source: Tensor) -> "Duplicates":
        """The same with other document numbers, `source` [M] long."""
        return Duplicates(*torch.stack((self.place, source)).unique(dim=1))

    def of_others(self, source: Tensor) -> "Duplicates":
        """Without those that are of the same document as the segment that was kept. source: [N] long, its document."""
        other = self.source != source[self.place]
        return Duplicates(self.place[other], self.source[other])

    def times(self, count: int) -> Tensor:
        """How many documents state each of the store's `count` segments, its own included: [N] long."""
        return 1 + self.place.bincount(minlength=count)

    def check(self, count: int) -> None:
        """Raise ValueError if these are not of a store of `count` segments."""
        both = (self.place, self.source)
        if any(each.dtype != torch.long or each.dim() != 1 or bool((each < 0).any()) for each in both):
            raise ValueError("its duplicates are no list of places and documents")
        if len(self.place) != len(self.source) or bool((self.place >= count).any()):
            raise ValueError("its duplicates are of no segment of the store")


def words_of(inputs: Tensor) -> int:
    """A hash of the words whose inputs to the first layer are [n, E]; the same words have the same."""
    data = inputs.detach().cpu().contiguous().view(torch.uint8).numpy()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little") >> 1


def merged(words: Tensor, order: Tensor) -> Tensor:
    """The place that each segment goes to, [N] long: that of the last one in `order` [N] long with the same `words`."""
    _, group = words.unique(return_inverse=True)
    rank = torch.arange(len(order))
    return order[torch.zeros_like(order).scatter_reduce(0, group[order], rank, "amax")[group]]
