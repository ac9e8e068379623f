"""Scores of tokens for compression: against attention of the stock model, known answers, and NVIDIA's kvpress."""

from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from gnm.config import validate
from gnm.errors import ConfigError
from gnm.models.compression import (
    CompressionSettings,
    attention,
    causal,
    chosen,
    guided,
    key_differences,
    key_norms,
    smoothed,
)
from gnm.models.decoder import Decoder
from gnm.models.key_values import best, in_order, preamble_of, read
from gnm.weights.backbones import load_backbone
from processes import in_processes
from stock import another

LENGTHS, GUIDE = (23, 14), 4


@pytest.fixture
def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [2, 23] of two texts of other lengths, and their mask."""
    return torch.randint(3, 250, (2, max(LENGTHS))), torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


def passed(backbone, ids, mask, preamble=()):
    """A decoder, what it read of texts, and the prefix that it read them after."""
    decoder = Decoder(backbone.model)
    prefix = preamble_of(decoder, list(preamble), len(ids)).prefix(decoder)
    return decoder, prefix, read(decoder, prefix, ids, mask)


# --- known answers


def test_the_best_are_the_highest_scores_in_their_own_order():
    scores = torch.tensor([[[1.0, 5.0, 3.0, 5.0], [0.0, 2.0, 2.0, 2.0]], [[9.0, 8.0, -torch.inf, -torch.inf]] * 2])
    index, valid = best(scores, torch.tensor([3, 2]))
    assert valid.tolist() == [[True, True, True], [True, True, False]]
    assert index[0].tolist() == [[1, 2, 3], [1, 2, 3]] and index[1, :, :2].tolist() == [[0, 1]] * 2
    first_of_equals, _ = best(torch.ones(1, 1, 4), torch.tensor([2]))
    assert first_of_equals.tolist() == [[[0, 1]]]


def test_short_keys_and_keys_unlike_the_others_are_kept():
    keys = torch.tensor([[[[3.0, 0.0], [0.5, 0.0], [2.0, 0.0], [0.0, -4.0]]]])
    assert key_norms(keys)[0, 0].tolist() == [-3.0, -0.5, -2.0, -4.0]
    of_text = torch.ones(1, 4, dtype=torch.bool)
    assert int(key_differences(keys, of_text).argmax()) == 3
    # the mean of directions is (3, -1) / 4; of lengths nothing depends
    expected = torch.tensor([-3.0, -3.0, -3.0, -1.0]) / 10**0.5
    torch.testing.assert_close(key_differences(keys, of_text)[0, 0], expected)
    without = torch.tensor([[True, True, True, False]])
    torch.testing.assert_close(key_differences(keys, without)[0, 0], torch.tensor([-1.0, -1.0, -1.0, 0.0]))


def test_attention_is_a_softmax_over_what_is_visible():
    queries, keys = torch.tensor([[[[1.0], [1.0]]]]), torch.tensor([[[[0.0], [2.0]]]])
    weights = attention(queries, keys, causal(torch.ones(1, 2, dtype=torch.bool)), 0.5)[0, 0, 0]
    torch.testing.assert_close(weights, torch.stack((torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]).softmax(-1))))


def test_smoothing_is_a_mean_of_neighbours():
    spike = torch.tensor([[[0.0, 0.0, 6.0, 0.0, 0.0, 0.0]]])
    assert smoothed(spike, 3)[0, 0].tolist() == pytest.approx([0.0, 2.0, 2.0, 2.0, 0.0, 0.0])


@torch.no_grad()
@pytest.mark.parametrize("by", ["snapkv", "finch"])
def test_a_guides_attention_is_the_stock_models(tiny_family, texts, by):
    """Mean over the guide's tokens and over the heads that share keys, behind a preamble, whatever the padding."""
    preamble = [5, 9, 7]
    decoder, prefix, found = passed(tiny_family, *texts, preamble)
    ids, mask = texts
    places = torch.arange(mask.shape[1])
    lengths = mask.sum(-1, keepdim=True)
    asks = mask & (places >= lengths - GUIDE)
    scores = guided(decoder, prefix, found, asks, CompressionSettings(by=by))
    stock = another(tiny_family)
    stock.set_attn_implementation("eager")
    for row, length in enumerate(LENGTHS):
        whole = torch.tensor([preamble + ids[row, :length].tolist()])
        weights = stock(whole, output_attentions=True).attentions
        for layer, own in enumerate(weights):
            seen = own[0, :, -GUIDE:]
            if by == "finch":
                seen = seen * torch.arange(len(whole[0]) - GUIDE + 1, len(whole[0]) + 1)[None, :, None]
            expected = seen.mean(1).unflatten(0, (scores[layer].shape[1], -1)).mean(1)
            torch.testing.assert_close(scores[layer][row, :, : len(whole[0])], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("by", ["knorm", "keydiff", "snapkv", "finch"])
def test_the_share_is_kept_in_every_head_and_the_guide_is_not(tiny, texts, by):
    ids, mask = texts
    decoder, prefix, found = passed(tiny, ids, mask, [5])
    guide = GUIDE if by in ("snapkv", "finch") else 0
    text = mask & (torch.arange(ids.shape[1]) < mask.sum(-1, keepdim=True) - guide)
    settings = CompressionSettings(by=by, share=0.3)
    index, valid = chosen(decoder, prefix, found, text, settings)
    assert valid.sum(-1).tolist() == [-(-(length - guide) * 3 // 10) for length in LENGTHS]
    for layer in index:
        for row, own in enumerate(layer):
            kept = own[:, valid[row]]
            assert bool((kept.diff(dim=-1) > 0).all()) and bool(text[row][kept].all())
    # a row is chosen from as if it were alone
    for row, length in enumerate(LENGTHS):
        one = slice(row, row + 1)
        alone = passed(tiny, ids[one, :length], mask[one, :length], [5])
        own, _ = chosen(*alone, text[one, :length], settings)
        assert all(torch.equal(a[0], b[row][:, valid[row]]) for a, b in zip(own, index, strict=True))


@torch.no_grad()
def test_what_is_kept_is_read_without_gaps(tiny, texts):
    decoder, _, found = passed(tiny, *texts)
    entries = preamble_of(decoder, [], 2).append(found.keys, found.values, found.mask)
    index = (torch.tensor([[[2, 5, 9]], [[0, 1, 13]]]),) * len(decoder.layers)
    valid = torch.tensor([[True, True, True], [True, True, False]])
    prefix = in_order(decoder, *entries.at(torch.tensor([0, 1]), index), valid)
    assert prefix.next_position.tolist() == [3, 2]
    cos, sin = (part[0, 2] for part in decoder.rotary(torch.tensor([[0, 1, 2]]))[1])
    key = found.keys[1][0, :, 9]
    turned = key * cos + torch.cat((-key[:, key.shape[1] // 2 :], key[:, : key.shape[1] // 2]), -1) * sin
    torch.testing.assert_close(prefix.keys[1][0, :, 2], turned)
    assert torch.equal(prefix.values[1][1, :, 1], found.values[1][1, :, 1])


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"by": "knorm", "guide": "question"}, "goes with compression.by: snapkv or finch"),
        ({"kernel": 4}, "use an odd number"),
        ({"share": 0}, "share"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, why):
    with pytest.raises(ConfigError, match=why):
        validate(wrong, CompressionSettings, "params.yaml")


# --- against kvpress


def scores_of_kvpress(family: str, ids: list[int], module: str, name: str, settings: dict) -> list:
    """What a press of the package scores in every layer of the stock model, from its hidden states and cached keys.

    For a process of its own: to import the package changes the attention of all of transformers.
    """
    press = getattr(import_module(f"kvpress.presses.{module}"), name)(**settings)
    model = load_backbone(family, dtype="float32").model
    with torch.no_grad():
        found = model(torch.tensor([ids]), output_hidden_states=True, use_cache=True)
        rotary = model.model.rotary_emb(found.hidden_states[0], torch.arange(len(ids))[None])
        layers = zip(model.model.layers, found.past_key_values.layers, found.hidden_states, strict=False)
        return [
            press.score(
                layer.self_attn, layer.input_layernorm(hidden), cached.keys, cached.values, None,
                {"position_embeddings": rotary},
            ).numpy()
            for layer, cached, hidden in layers
        ]  # fmt: skip


@torch.no_grad()
@pytest.mark.skipif(not find_spec("kvpress"), reason="needs kvpress (pip install --no-deps kvpress, and what it needs)")
@pytest.mark.parametrize("name", ["KnormPress", "KeyDiffPress", "SnapKVPress"])
def test_scores_are_those_of_kvpress(tiny_family, texts, name):
    ids, mask = texts[0][:1], texts[1][:1]
    decoder, prefix, found = passed(tiny_family, ids, mask)
    module = f"{name.removesuffix('Press').lower()}_press"
    settings = {"window_size": GUIDE, "kernel_size": 5} if name == "SnapKVPress" else {}
    theirs = in_processes(1, scores_of_kvpress, tiny_family.name, ids[0].tolist(), module, name, settings)[0]
    if name == "SnapKVPress":
        asks = torch.arange(ids.shape[1])[None] >= ids.shape[1] - GUIDE
        ours = [smoothed(each[..., :-GUIDE], 5) for each in guided(decoder, prefix, found, asks, CompressionSettings())]
        theirs = [each[..., :-GUIDE] for each in theirs]  # its window is always kept
    else:
        keys = found.rotated(decoder, found.keys)
        ours = [key_norms(key) if name == "KnormPress" else key_differences(key, mask) for key in keys]
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, torch.from_numpy(other), atol=1e-5, rtol=1e-4)
