"""The packed decoder against the stock model's forward pass, one text at a time."""

from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, GPT2Config, GPT2LMHeadModel

from gnm.errors import BackboneError
from gnm.models.decoder import Decoder
from gnm.models.families import FAMILIES, check_family
from gnm.models.prefix import Prefix
from gnm.models.taps import InputTap
from gnm.weights.backbones import load_backbone
from gnm.weights.stock import compare_with_stock
from gnm.weights.tiny import random_decoder
from stock import another, stock_logits


def rectangle(lengths, width):
    mask = torch.arange(width) < torch.tensor(lengths)[..., None]
    return torch.randint(5, 261, mask.shape) * mask, mask


@torch.no_grad()
def test_queries_are_read_as_if_each_stood_alone(tiny_family):
    lengths = [[6, 0, 2], [1, 5, 3]]
    ids, mask = rectangle(lengths, 8)
    decoder, stock = Decoder(tiny_family.model), another(tiny_family)
    hidden = decoder.read(decoder.empty_prefix(2), ids, mask)
    for b, row in enumerate(lengths):
        for n, length in enumerate(row):
            if length:
                expected = stock_logits(stock, ids[b, n, :length].tolist())
                torch.testing.assert_close(decoder.logits(hidden[b, n, :length]), expected, atol=1e-4, rtol=0)
    assert not hidden[~mask].any()


@torch.no_grad()
def test_the_tap_gives_the_inputs_of_all_layers(tiny_family):
    ids, mask = rectangle([[7], [4]], 7)
    decoder, stock = Decoder(tiny_family.model), another(tiny_family)
    tap = InputTap()
    assert decoder.read(decoder.empty_prefix(2), ids, mask, tap) is None and tap.slots.shape == (2, 3, 7, 48)
    for b, length in enumerate((7, 4)):
        states = stock(ids[b, :, :length], output_hidden_states=True).hidden_states
        expected = torch.stack(states[:-1], 1)[0]
        torch.testing.assert_close(tap.slots[b, :, :length], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_slots_projected_and_rotated_are_the_models_own_cache(tiny_family):
    ids, mask = rectangle([[7]], 7)
    decoder, stock = Decoder(tiny_family.model), another(tiny_family)
    tap = InputTap()
    decoder.read(decoder.empty_prefix(1), ids, mask, tap)
    prefix = decoder.rotated(*decoder.project(tap.slots), mask[:, 0], (mask[:, 0].long().cumsum(-1) - 1).clamp(min=0))
    cache = stock(ids[0], use_cache=True).past_key_values
    for layer, key, value in zip(cache.layers, prefix.keys, prefix.values, strict=True):
        torch.testing.assert_close((key, value), (layer.keys, layer.values), atol=1e-5, rtol=0)


@given(st.integers(0, 5), st.integers(0, 2), st.integers(0, 10**6))
@settings(max_examples=10)
def test_padding_of_any_amount_changes_nothing(columns, queries, seed):
    torch.manual_seed(seed)
    backbone = load_backbone("tiny", dtype="float32")
    decoder = Decoder(backbone.model)
    ids, mask = rectangle([[3, 5], [4, 1]], 5)
    padding = (0, columns, 0, queries)
    wide_ids, wide_mask = (torch.nn.functional.pad(x, padding, value=v) for x, v in ((ids, 77), (mask, False)))
    with torch.no_grad():
        hidden = []
        for some_ids, some_mask in ((ids, mask), (wide_ids, wide_mask)):
            hidden.append(decoder.read(decoder.empty_prefix(2), some_ids, some_mask)[some_mask])
    torch.testing.assert_close(*hidden, atol=1e-5, rtol=0)


@torch.no_grad()
def test_scores_of_a_bfloat16_backbone_are_float32_products():
    decoder = Decoder(load_backbone("tiny", dtype="bfloat16").model)
    hidden = torch.randn(4, 48, dtype=torch.bfloat16)
    expected = hidden.float() @ decoder.model.get_output_embeddings().weight.float().T
    scores = decoder.logits(hidden)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected)


def test_a_decoder_of_another_shape_is_refused():
    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=10, n_positions=8))
    with pytest.raises(BackboneError, match="family 'gpt2'.*Llama shape.*llama, mistral"):
        Decoder(other)


# --- families


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_listed_family_is_read_as_its_own_code_reads_it(family):
    model = random_decoder(family).eval()
    expected = stock_logits(random_decoder(family).eval(), ids := list(range(7, 21)))
    decoder, ids = Decoder(model), torch.tensor([[ids]])
    first, rest = torch.ones(1, 1, 8, dtype=torch.bool), torch.ones(1, 1, 6, dtype=torch.bool)
    tap = InputTap()
    decoder.read(decoder.empty_prefix(1), ids[:, :, :8], first, tap)
    prefix = decoder.rotated(*decoder.project(tap.slots), first[:, 0], torch.arange(8)[None])
    ours = decoder.logits(decoder.read(prefix, ids[:, :, 8:], rest)[0, 0])
    torch.testing.assert_close(ours, expected[8:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_listed_family_is_read_in_bfloat16_within_its_rounding(family):
    compare_with_stock(family, random_decoder(family, dtype=torch.bfloat16).eval())


ALIKE = (
    "gemma3n_text", "cohere", "cohere2", "olmo", "hunyuan_v1_dense", "stablelm", "gpt_oss", "llama4_text", "nemotron",
    "apertus", "deepseek_v3", "olmo3",
)  # fmt: skip


@pytest.mark.parametrize("family", ALIKE)
def test_a_family_that_only_looks_alike_is_refused_by_name(family):
    with pytest.raises(BackboneError, match=f"family '{family}'.* one of these families: llama, mistral, qwen2"):
        check_family(AutoConfig.for_model(family), "mine")


@pytest.mark.parametrize(
    ("key", "value"),
    [("clip_qkv", 8.0), ("attn_logit_softcapping", 50.0), ("logits_scaling", 4), ("partial_rotary_factor", 0.5)],
)
def test_a_setting_that_changes_results_is_refused(key, value):
    config = AutoConfig.for_model("llama")
    check_family(config)
    setattr(config, key, value)
    with pytest.raises(BackboneError, match=f"backbone 'mine' sets {key}: {value}.*a llama without it"):
        check_family(config, "mine")


def test_rotary_positions_that_depend_on_the_texts_length_are_refused():
    config = AutoConfig.for_model("llama")
    config.rope_parameters = {"rope_type": "longrope"}
    with pytest.raises(BackboneError, match="'longrope', which is not supported; use one of: default"):
        check_family(config)


def test_more_positions_than_the_backbone_attends_over_are_refused(tiny):
    decoder = Decoder(tiny.model)
    decoder.config.max_position_embeddings = 6
    ids, mask = rectangle([[7]], 7)
    with pytest.raises(BackboneError, match="a text of 7 tokens exceeds the 6 positions .*; shorten it, or split the"):
        decoder.start(decoder.empty_prefix(1), mask)
    reading, positions = decoder.start(decoder.empty_prefix(1), mask[..., :6])
    decoder.run(ids[..., :6], positions, reading)
    with pytest.raises(BackboneError, match="7 positions exceed the 6.*memory.capacity"):
        decoder.run(ids[..., :6], positions + 1, reading)
    prefix = decoder.extend(decoder.empty_prefix(1), ids[:, 0, :4], mask[:, 0, :4])
    with pytest.raises(BackboneError, match="7 positions exceed the 6.*memory.capacity"):
        decoder.start(prefix, mask[..., :3])


def test_the_length_of_a_text_is_checked_before_anything_of_its_square_is_made(monkeypatch):
    decoder = Decoder(load_backbone("tiny", dtype="float32").model)
    monkeypatch.setattr(torch, "ones", no_square := Mock(side_effect=AssertionError("the mask came first")))
    monkeypatch.setattr(torch, "eye", no_square)
    mask = torch.full((1, 1, 300_000), True)
    with pytest.raises(BackboneError, match="a text of 300000 tokens exceeds the 8192 positions"):
        decoder.start(Prefix((), (), mask[0, :, :0], mask[0, :, :0].long(), torch.tensor([0])), mask)


def test_a_window_that_is_not_used_limits_nothing():
    decoder = Decoder(load_backbone("tiny-qwen2", dtype="float32").model)
    decoder.config.sliding_window, decoder.config.use_sliding_window = 3, False
    ids, mask = rectangle([[7]], 7)
    decoder.read(decoder.empty_prefix(1), ids, mask)
