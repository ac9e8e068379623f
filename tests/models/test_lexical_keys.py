"""Lexical search keys: what two texts have in common, above all what is rare."""

import itertools

import pytest
import torch

from gnm.models.decoder import Decoder
from gnm.models.lexical_keys import LEXICAL_SIZE, LexicalKeys
from gnm.models.search_keys import beside


@pytest.fixture
def keys(tiny):
    return LexicalKeys(Decoder(tiny.model))


def of(keys, *texts):
    """The keys of texts of token numbers."""
    ids = torch.tensor(list(itertools.chain(*texts)), dtype=torch.long)
    text = torch.tensor([number for number, own in enumerate(texts) for _ in own], dtype=torch.long)
    return keys(keys._decoder.embed(ids), text, len(texts))


def test_a_key_tells_which_tokens_a_text_has_and_not_how_often_or_where(keys):
    same = of(keys, [200, 7, 90], [90, 200, 7, 7, 200])
    assert same.shape == (2, LEXICAL_SIZE) and same.dtype == torch.float32
    assert torch.equal(same[0], same[1]) and torch.allclose(same.norm(dim=-1), torch.ones(2))
    assert torch.equal(of(keys, [5], [], [200, 7, 90])[1:], torch.stack((torch.zeros(LEXICAL_SIZE), same[0])))


def test_products_are_near_the_cosines_of_weighted_sets(keys):
    texts = [[200, 7, 90, 31], [200, 45, 7], [8, 9, 10], [201, 202, 203, 204, 205, 206]]
    made = of(keys, *texts)
    sets = torch.zeros(len(texts), 261)
    for row, own in enumerate(texts):
        for token in own:
            sets[row, token] = torch.tensor(2.0 + token).log() ** 2
    exact = torch.nn.functional.normalize(sets, dim=-1)
    assert torch.allclose(made @ made.T, exact @ exact.T, atol=0.15)  # noise of 512 signs: 3.4 times 1 / 512 ** 0.5


def test_a_rare_token_in_common_weighs_more_than_a_frequent_one(keys):
    asked, rare, frequent = of(keys, [3, 250], [250, 100, 101], [3, 100, 101])
    assert asked @ rare > asked @ frequent + 0.2


def test_tokens_of_no_text_do_not_count(keys):
    inputs = keys._decoder.embed(torch.tensor([200, 7, 90]))
    assert torch.equal(keys(inputs, torch.tensor([0, -1, 0]), 1), of(keys, [200, 90]))


def test_keys_are_the_same_in_both_precisions(keys):
    inputs, text = keys._decoder.embed(torch.tensor([200, 7, 90])).bfloat16(), torch.zeros(3, dtype=torch.long)
    assert torch.equal(keys(inputs, text, 1), keys(inputs.float(), text, 1))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_cosine_of_keys_beside_each_other_is_the_weighted_mean_of_both(share):
    one, two = (torch.nn.functional.normalize(torch.randn(5, size), dim=-1) for size in (7, 11))
    both = beside(one, two, share)
    assert torch.allclose(both @ both.T, (1 - share) * (one @ one.T) + share * (two @ two.T), atol=1e-6)
