"""Attention to a shared prefix against attention written out token by token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gnm.models.attention import Reading, _Move, _Pick, additive, attend
from gnm.models.decoder import Decoder
from gnm.models.prefix import Prefix
from stock import another

SIZE = 4


class Layer(nn.Module):
    """What `attend` needs of a layer."""

    layer_idx = 0
    num_key_value_groups = 2
    is_causal = True


def random_prefix(batch, groups, length, valid):
    keys, values = torch.randn(2, batch, groups, length, SIZE)
    # what is not valid must not be read: make it loud
    loud = (~valid)[:, None, :, None] * 1e3
    return Prefix((keys + loud,), (values + loud,), valid, valid.cumsum(-1) - 1, valid.sum(-1))


def causal_reading(prefix, mask, keep=False):
    tokens = mask.shape[2]
    own = torch.ones(tokens, tokens, dtype=torch.bool).tril() & mask[:, :, None]
    own = own | torch.eye(tokens, dtype=torch.bool)
    bias = additive(prefix.valid, torch.float32)[:, None, None, None]
    own_bias = additive(own, torch.float32)[:, None]
    return Reading(prefix, tuple(mask.shape), mask.flatten().nonzero()[:, 0], bias, own_bias, keep)


def attention_of_one(query, keys, values, scaling):
    """Plain attention of one token: query [H, D], keys and values [K, S, D]; two query heads share a key head."""
    out = []
    for head in range(query.shape[0]):
        weights = (keys[head // 2] @ query[head] * scaling).softmax(-1)
        out.append(weights @ values[head // 2])
    return torch.stack(out)


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), min_size=1, max_size=3),
    st.lists(st.booleans(), max_size=3),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_each_token_reads_its_prefix_and_what_stands_before_it_in_its_query(lengths, valid, gradient, seed):
    torch.manual_seed(seed)
    batch, groups, scaling = len(lengths), 2, 0.3
    lengths[0][0] += 1  # at least one token
    width = max(max(row) for row in lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[..., None]
    prefix = random_prefix(batch, groups, len(valid), torch.tensor(valid, dtype=torch.bool).repeat(batch, 1))
    count = int(mask.sum())
    query, key, value = torch.randn(1, 4, count, SIZE), *torch.randn(2, 1, groups, count, SIZE)
    with torch.set_grad_enabled(gradient):
        out, _ = attend(Layer(), query, key, value, None, scaling, reading=causal_reading(prefix, mask))
    start = 0
    for row in range(batch):
        keep = prefix.valid[row]
        before = prefix.keys[0][row][:, keep], prefix.values[0][row][:, keep]
        for length in lengths[row]:
            for t in range(start, start + length):
                own = slice(start, t + 1)
                keys, values = (torch.cat((p, o[0, :, own]), 1) for p, o in zip(before, (key, value), strict=True))
                torch.testing.assert_close(out[0, t], attention_of_one(query[0, :, t], keys, values, scaling))
            start += length
    assert start == count


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("half", [3, 4])  # several tokens come later, or one
def test_kept_keys_of_earlier_passes_are_read_by_later_ones(gradient, half):
    """Two passes over halves equal one pass over the whole."""
    prefix, scaling = random_prefix(1, 2, 2, torch.tensor([[True, False]])), 0.5
    query, key, value = torch.randn(1, 4, 5, SIZE), *torch.randn(2, 1, 2, 5, SIZE)
    early, late = slice(half), slice(half, None)
    whole, first, second = (
        causal_reading(prefix, torch.ones(1, 1, tokens, dtype=torch.bool), keep=tokens == half)
        for tokens in (5, half, 5 - half)
    )
    second.own_bias = torch.cat((torch.zeros(1, 1, 1, 5 - half, half), second.own_bias), -1)
    with torch.set_grad_enabled(gradient):
        expected, _ = attend(Layer(), query, key, value, None, scaling, reading=whole)
        attend(Layer(), *(x[:, :, early] for x in (query, key, value)), None, scaling, reading=first)
        second.own = dict(first.own)
        out, _ = attend(Layer(), *(x[:, :, late] for x in (query, key, value)), None, scaling, reading=second)
    torch.testing.assert_close(out, expected[:, half:])
    assert second.own[0][0] is first.own[0][0]  # without `keep`, what was there stays


def test_moving_and_picking_tokens_have_true_gradients():
    cells = torch.tensor([4, 0, 5])
    packed = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    rectangle = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: _Move.apply(x, cells, 6), packed)
    assert torch.autograd.gradcheck(lambda x: _Pick.apply(x, cells), rectangle)
    assert torch.equal(_Pick.apply(_Move.apply(packed, cells, 6), cells), packed)


def test_a_prefix_is_extended_selected_and_cut_as_a_value():
    prefix = random_prefix(2, 2, 3, torch.tensor([[True, False, True], [True, True, True]]))
    assert prefix.lengths.tolist() == [2, 3]
    more = torch.randn(2, 2, 2, 1, SIZE)
    longer = prefix.extend((more[0],), (more[1],), torch.tensor([[True], [False]]))
    assert (longer.lengths.tolist(), prefix.lengths.tolist()) == ([3, 3], [2, 3])
    assert torch.equal(longer.keys[0][:, :, 3:], more[0]) and torch.equal(longer.values[0][:, :, 3:], more[1])
    swapped = longer.rows(torch.tensor([1, 0, 1]))
    assert swapped.lengths.tolist() == [3, 3, 3]
    assert torch.equal(swapped.keys[0][1], longer.keys[0][0]) and torch.equal(swapped.valid[0], longer.valid[1])
    key = torch.randn(1, 2, 3, SIZE, requires_grad=True)
    places = torch.arange(3)[None]
    cut = Prefix((key * 2,), (key * 3,), places >= 0, places, torch.tensor([3])).detach()
    assert not cut.keys[0].requires_grad and not cut.values[0].requires_grad


@pytest.mark.parametrize("side", ["left", "right"])
def test_without_a_reading_the_model_is_the_stock_model(tiny_family, side):
    """Whoever uses the backbone by itself finds transformers' own model: forward with padding, and generate."""
    ids, mask = torch.randint(5, 261, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    empty = slice(0, 4) if side == "left" else slice(5, 9)
    mask[1, empty] = 0
    stock = another(tiny_family)
    Decoder(tiny_family.model)
    with torch.no_grad():
        ours, theirs = (m(ids, attention_mask=mask).logits[mask.bool()] for m in (tiny_family.model, stock))
    torch.testing.assert_close(ours, theirs)
    if side == "left":
        options = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False}
        assert torch.equal(tiny_family.model.generate(ids, **options), stock.generate(ids, **options))
