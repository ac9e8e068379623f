"""Search of a store's keys: exact search against brute force, an index against exact search."""

import sys
from functools import partial

import pytest
import torch
from torch.nn.functional import normalize

from gnm.errors import ConfigError
from gnm.memory import search
from gnm.memory.search import KeyIndex, list_count, nearest, uses_index
from gnm.models.retriever import Retriever

K = 8


def clustered(count, seed=0, size=32, topics=40):
    """Keys of length 1 about some topics, as those of lines about some relations are: [count, size]."""
    generator = torch.Generator().manual_seed(seed)
    topic = torch.randn(topics, size, generator=torch.Generator().manual_seed(99))
    number = torch.randint(topics, (count,), generator=generator)
    return normalize(topic[number] + 0.5 * torch.randn(count, size, generator=generator), dim=-1)


def trained(side):
    """What one side of a retriever with random weights makes of such keys."""
    return partial(Retriever.new((32, 48, 24), 2, True, 0), side)


def brute(questions, keys, k, bias=0.0):
    """As `nearest`, one question and one key after another."""
    places = []
    for question in questions.double():
        scores = [float(question @ key) for key in keys.double()]
        scores = torch.tensor(scores) + bias
        places.append(scores.argsort(descending=True)[:k])
    return torch.stack(places)


def recall(found, right):
    return sum(len({*a} & {*b}) for a, b in zip(found.tolist(), right.tolist(), strict=True)) / right.numel()


@pytest.mark.parametrize("block", [1 << 16, 64, 7])
def test_exact_search_is_brute_force_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr(search, "BLOCK", block)
    keys, questions = clustered(200), clustered(5, seed=1)
    bias = torch.linspace(-1, 0, 200)
    assert torch.equal(nearest(questions, keys, K), brute(questions, keys, K))
    assert torch.equal(nearest(questions, keys, K, bias), brute(questions, keys, K, bias))
    assert sorted(nearest(questions, keys, 200)[0].tolist()) == list(range(200))


@pytest.mark.parametrize("of", [lambda side: lambda keys: keys, trained], ids=["untrained", "trained"])
def test_an_index_finds_nearly_all_that_exact_search_finds(of):
    pytest.importorskip("faiss")
    keys, questions = of("segment")(clustered(20_000)), of("question")(clustered(100, seed=1))
    exact = nearest(questions, keys, K)
    index = KeyIndex.build(keys[:18_000])
    found = nearest(questions, keys, K, index=index)
    assert recall(found, exact) >= 0.95
    later = exact >= 18_000  # not in the index, and compared exactly
    assert bool(later.any()) and set(exact[later].tolist()) <= set(found[found >= 18_000].tolist())
    scores = torch.einsum("ne,nke->nk", questions, keys[found])
    assert bool((scores[:, 1:] <= scores[:, :-1]).all())
    bias = torch.where(torch.arange(20_000) % 2 == 0, 0.0, -3.0)  # more than any cosine makes up for
    assert bool((nearest(questions, keys, 2, bias, index) % 2 == 0).all())
    assert index.compared(20_000, K) < 20_000 / 2


def test_what_was_dropped_is_neither_found_nor_held():
    keys, questions = clustered(4000), clustered(50, seed=1)
    index = KeyIndex.build(keys)
    keep = torch.ones(4000, dtype=torch.bool)
    keep[nearest(questions, keys, K).flatten()] = False
    left = index.select(keep)
    assert left.inner.ntotal == int(keep.sum()) == left.covered and index.inner.ntotal == 4000
    found = nearest(questions, keys[keep], K, index=left)
    assert recall(found, nearest(questions, keys[keep], K)) >= 0.95
    again = torch.arange(left.covered) % 3 > 0
    twice = left.select(again)
    assert recall(nearest(questions, keys[keep][again], K, index=twice), brute(questions, keys[keep][again], K)) >= 0.95
    assert left.select(torch.ones(left.covered, dtype=torch.bool)).inner is left.inner


def test_an_index_that_finds_too_few_says_so(monkeypatch):
    monkeypatch.setattr(search, "LISTS_VISITED", 1)
    monkeypatch.setattr(search, "list_count", lambda count: 512)
    keys = clustered(2000)
    found = nearest(keys[:50], keys, 20, index=KeyIndex.build(keys))
    assert bool((found == -1).any()) and bool((found[:, 0] == torch.arange(50)).all())
    for own in found.tolist():
        assert len({*own} - {-1}) == len([place for place in own if place >= 0])


def test_an_index_is_asked_only_if_few_are_wanted_and_built_anew_when_outgrown():
    assert uses_index(800, 8) and not uses_index(799, 8)
    keys = clustered(400)
    index = KeyIndex.build(keys[:300])
    assert torch.equal(nearest(keys[:3], keys, 5, index=index), brute(keys[:3], keys, 5))
    assert not index.outgrown(450) and index.outgrown(451)
    assert [list_count(count) for count in (4, 1_000, 10**5, 10**8)] == [4, 128, 1024, 1024]


def test_without_faiss_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"300 stored segments.*pip install 'gnm\[search\]'.*index_from"):
        KeyIndex.build(clustered(300))
