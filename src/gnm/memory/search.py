"""The stored segments whose search keys are nearest to a question's: by comparing all of them, or by an index.

- Exact search multiplies all keys, block by block.
- The index is an inverted file of FAISS over keys of eight bits a number (Douze et al. 2024, arXiv:2401.08281). What it
  proposes is ranked by the keys themselves. Keys that came after it was built are compared exactly.
- An index is a value: dropping keys gives another index, which holds nothing of them.
- `benchmarks/store_search.py` measures both.

Shape letters: N keys, E hidden size, n questions, M keys that an index was built of.
"""

from dataclasses import dataclass, replace
from math import log2
from typing import Any

import torch
from torch import Tensor

from gnm.errors import ConfigError
from gnm.extras import optional_imports

BLOCK = 1 << 16
"""Keys of one product: more questions at once take no more memory for their scores."""
LISTS_VISITED = 32
_MOST_LISTS, _TRAINED_ON = 1024, 40  # keys of a list that its centre is trained on
_PROPOSED = 4  # keys that the index proposes for each that is asked for
_OUTGROWN = 1.5  # as many times the keys that it was built of: a new index is built
_OF_ALL = 100  # who asks for more than a hundredth of all keys compares all


@dataclass(frozen=True)
class KeyIndex:
    """An index of the first `covered` keys of a store.

    inner: FAISS's index, never changed after it was built. place: [M] long, the place in the store of each key that it
    was built of, -1 of those that were dropped.
    """

    inner: Any
    place: Tensor
    covered: int

    @classmethod
    def build(cls, keys: Tensor) -> "KeyIndex":
        """The index of keys [N, E] float32. Raises ConfigError if FAISS is not installed."""
        faiss = _faiss(len(keys))
        lists = list_count(len(keys))
        inner = faiss.index_factory(keys.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
        inner.cp.min_points_per_centroid = 1  # says nothing about small stores
        inner.train(keys[:: max(1, len(keys) // (_TRAINED_ON * lists))].contiguous().numpy())
        for block in keys.split(BLOCK):
            inner.add(block.numpy())
        inner.nprobe = LISTS_VISITED
        return cls(inner, torch.arange(len(keys)), len(keys))

    def outgrown(self, count: int) -> bool:
        """Whether a store of `count` keys needs a new index."""
        return count > _OUTGROWN * self.covered

    def select(self, keep: Tensor) -> "KeyIndex":
        """The index of a store from which all keys but those where `keep` [N] bool are dropped."""
        new = torch.where(keep, keep.long().cumsum(0) - 1, -1)
        place = torch.where(self.place >= 0, new[self.place.clamp(min=0)], -1)
        gone = ((self.place >= 0) & (place < 0)).nonzero()[:, 0]
        inner = self.inner
        if len(gone):
            faiss = _faiss(len(keep))
            inner = faiss.clone_index(inner)
            inner.remove_ids(faiss.IDSelectorBatch(gone.numpy()))
        return replace(self, inner=inner, place=place, covered=int(keep[: self.covered].sum()))

    def propose(self, questions: Tensor, count: int) -> Tensor:
        """Places of about the `count` nearest keys of each of questions [n, E]: [n, count] long, -1 where none is."""
        found = torch.from_numpy(self.inner.search(questions.contiguous().numpy(), count)[1])
        return torch.where(found >= 0, self.place[found.clamp(min=0)], -1)

    def compared(self, count: int, k: int) -> int:
        """About how many keys a question is compared with that asks for k of a store of `count`."""
        lists = self.inner.nlist
        visited = min(LISTS_VISITED, lists) * self.covered // lists
        return lists + visited + _PROPOSED * k + count - self.covered


def nearest(
    questions: Tensor, keys: Tensor, k: int, bias: Tensor | None = None, index: KeyIndex | None = None
) -> Tensor:
    """Places of the k keys with the largest score for each question, the largest first: [n, k] long.

    questions: [n, E]; keys: [N, E] of length 1, float32. bias: [N], added to the cosines. index: of the keys; it is
    asked if few keys are wanted, proposes by the cosine alone, and where it finds fewer than k, places are -1.
    """
    if index is None or not uses_index(len(keys), k):
        return _best(*_exactly(questions, keys, k, bias), k)
    places = index.propose(questions, _PROPOSED * k)
    own = keys[places.clamp(min=0)]
    scores = torch.einsum("ne,nce->nc", questions, own)
    if bias is not None:
        scores = scores + bias[places.clamp(min=0)]
    scores = scores.masked_fill(places < 0, -torch.inf)
    if len(keys) > index.covered:
        later = None if bias is None else bias[index.covered :]
        more, behind = _exactly(questions, keys[index.covered :], k, later)
        scores, places = torch.cat((scores, more), 1), torch.cat((places, behind + index.covered), 1)
    return _best(scores, places, k)


def uses_index(count: int, k: int) -> bool:
    """Whether k of `count` keys are few enough for an index."""
    return k * _OF_ALL <= count


def list_count(count: int) -> int:
    """The lists of an index of `count` keys: the power of two nearest to four times its root, as FAISS advises."""
    return min(1 << round(log2(4 * count**0.5)), _MOST_LISTS, count)


def _exactly(questions: Tensor, keys: Tensor, k: int, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores and places of the best k keys of each block, [n, C] each."""
    best = []
    for start in range(0, len(keys), BLOCK):
        block = keys[start : start + BLOCK]
        scores = questions @ block.T
        if bias is not None:
            scores = scores + bias[start : start + BLOCK]
        found = scores.topk(min(k, len(block)))
        best.append((found.values, found.indices + start))
    scores, places = (torch.cat(side, 1) for side in zip(*best, strict=True))
    return scores, places


def _best(scores: Tensor, places: Tensor, k: int) -> Tensor:
    found = scores.topk(k)
    return places.gather(1, found.indices).masked_fill(found.values == -torch.inf, -1)


def _faiss(count: int) -> Any:
    try:
        with optional_imports():
            import faiss
    except ConfigError as error:
        raise ConfigError(
            f"{count} stored segments are searched by an index: {error}; or search all of them each time with "
            "store={'index_from': None}"
        ) from error
    return faiss
