"""Layers with a sliding window against the stock model, on texts that are longer than the window."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig

from gnm.errors import BackboneError, MemoryFileError
from gnm.inference.cache import generate_inputs
from gnm.inference.generation import generate_tokens, generation_config
from gnm.inference.packed import PackedPasses
from gnm.memory.pool import PoolSettings
from gnm.models.compression import CompressionSettings, guided
from gnm.models.decoder import Decoder
from gnm.models.families import attention_windows, check_family
from gnm.models.key_values import read
from gnm.models.memory_lm import MemoryLM
from gnm.models.tokens import TokenBatch
from gnm.models.write_settings import WriteSettings
from gnm.weights.tiny import random_decoder
from stock import stock_logits

WINDOW, LENGTHS = 5, (17, 11, 4)
MIXED = ("gemma2", "gemma3_text", "ministral", "qwen2", "qwen3", "smollm3")
ALL = ("mistral", "mixtral", "phi3", "qwen3_moe", "starcoder2")

every_family = pytest.mark.parametrize("family", MIXED + ALL)
mixed_family = pytest.mark.parametrize("family", MIXED)


def windowed(family, window=WINDOW):
    return random_decoder(family, window=window).eval()


def texts():
    """Ids of three texts, [3, 17], padded on the right, and their mask."""
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return torch.randint(5, 261, mask.shape) * mask, mask


def apart(decoder, stock, ids, mask):
    """The largest difference of logits to the stock model's on each text alone."""
    hidden = decoder.read(decoder.empty_prefix(1), ids[None], mask[None])[0]
    rows = zip(hidden, ids, mask, strict=True)
    return max(
        float((decoder.logits(h[m]) - stock_logits(stock, i[m].tolist())).detach().abs().max()) for h, i, m in rows
    )


@every_family
@torch.no_grad()
def test_texts_longer_than_the_window_are_read_as_the_stock_model_reads_them(family):
    """And a window of one position more or less is told from this one."""
    ids, mask = texts()
    decoder = Decoder(windowed(family))
    assert apart(decoder, windowed(family), ids, mask) < 1e-4
    for other in (WINDOW - 1, WINDOW + 1):
        decoder.config.sliding_window = other
        assert apart(decoder, windowed(family), ids, mask) > 1e-3


@every_family
def test_windows_hide_the_same_with_gradient(family):
    ids, mask = texts()
    assert apart(Decoder(windowed(family)), windowed(family), ids, mask) < 1e-4


@every_family
@pytest.mark.parametrize("gradient", [False, True])
def test_a_context_in_front_falls_out_of_the_window_as_in_the_stock_model(family, gradient):
    """Texts of other lengths in the context, then padded questions of each."""
    ids, mask = texts()
    questions, asked = torch.randint(5, 261, (3, 2, 7)), torch.tensor([[7, 3], [1, 6], [2, 7]])
    there = torch.arange(7) < asked[..., None]
    decoder, stock = Decoder(windowed(family)), windowed(family)
    with torch.set_grad_enabled(gradient):
        prefix = decoder.extend(decoder.extend(decoder.empty_prefix(3), ids, mask), ids[:, :3], mask[:, :3])
        hidden = decoder.read(prefix, questions, there)
    for b, n in ((b, n) for b in range(3) for n in range(2)):
        context, question = [*ids[b, mask[b]], *ids[b, :3]], questions[b, n, there[b, n]]
        with torch.no_grad():
            expected = stock_logits(stock, [*context, *question])[len(context) :]
        torch.testing.assert_close(decoder.logits(hidden[b, n, there[b, n]]), expected, atol=1e-4, rtol=1e-4)


@every_family
@torch.no_grad()
def test_generation_goes_on_past_the_window(family):
    """Token by token: one request, a batch of padded ones, and transformers' own `generate` on the prefix."""
    ids, mask = texts()
    decoder, stock = Decoder(windowed(family)), windowed(family)
    prefix = decoder.extend(decoder.empty_prefix(1), ids[:1, :6], mask[:1, :6])
    prompts = [ids[1, :4].tolist(), ids[2, :2].tolist()]
    expected = []
    for prompt in prompts:
        said = [*ids[0, :6].tolist(), *prompt]
        for _ in range(8):
            said.append(int(stock_logits(stock, said)[-1].argmax()))
        expected.append(said[-8:])
    alone = [list(generate_tokens(decoder, prefix, each, [], generation_config(max_new_tokens=8))) for each in prompts]
    passes = PackedPasses(decoder, ends=[])
    (together,), _ = passes.greedy(prefix, passes.begin(prefix, [prompts]), [2], 8)
    own = decoder.model.generate(**generate_inputs(decoder, prefix, prompts), max_new_tokens=8, eos_token_id=None)
    assert alone == expected and together == expected and own[:, -8:].tolist() == expected


@mixed_family
@torch.no_grad()
def test_a_memory_that_is_larger_than_the_window_is_read_as_its_text_in_the_context(family):
    """Layers without a window see all of it; those with one see what the stock model's see."""
    ids, mask = texts()
    decoder, stock = Decoder(windowed(family)), windowed(family)
    lm = MemoryLM(decoder, [7, 8], PoolSettings(), WriteSettings(reads="all"))
    memory = lm.initial(torch.zeros(1, dtype=torch.long))
    for row in range(2):
        memory = lm.write(memory, TokenBatch.of(ids[row : row + 1], mask[row : row + 1]))
    text, question = [7, 8, *ids[0].tolist(), *ids[1, : LENGTHS[1]].tolist()], ids[2:, None, : LENGTHS[2]]
    expected = stock_logits(stock, [*text, *question.flatten().tolist()])[len(text) :]
    found = decoder.read(lm.prefix(memory), question, torch.ones_like(question, dtype=torch.bool))[0, 0]
    torch.testing.assert_close(decoder.logits(found), expected, atol=1e-4, rtol=1e-4)
    oldest = replace(lm.prefix(memory), valid=lm.prefix(memory).valid & (lm.prefix(memory).positions >= 2 + LENGTHS[0]))
    without = decoder.read(oldest, question, torch.ones_like(question, dtype=torch.bool))[0, 0]
    assert (without - found).abs().max() > 1e-3  # the first document counts, although it is out of the window


@pytest.mark.parametrize("family", ALL)
@torch.no_grad()
def test_a_memory_that_would_fall_out_of_every_layers_window_is_refused_before_it_is_read(family):
    ids, mask = texts()
    decoder = Decoder(windowed(family, window=12))
    lm = MemoryLM(decoder, [7], PoolSettings(), WriteSettings(reads="all"))
    memory = lm.initial(torch.zeros(1, dtype=torch.long))
    with pytest.raises(MemoryFileError, match="17 tokens; 8 of the 12 positions .*split the document"):
        lm.write(memory, TokenBatch.of(ids[:1], mask[:1]))
    memory = lm.write(memory, TokenBatch.of(ids[2:, :4], mask[2:, :4]))
    with pytest.raises(MemoryFileError, match="attends over 12: forget a document first"):
        lm.write(memory, TokenBatch.of(ids[1:2, :5], mask[1:2, :5]))
    prefix = lm.prefix(memory)
    with pytest.raises(BackboneError, match="13 positions exceed the 12 .*memory.capacity"):
        decoder.read(prefix, ids[:1, None, :8], mask[:1, None, :8])
    inputs = generate_inputs(decoder, prefix, [ids[0, :8].tolist()])
    with pytest.raises(BackboneError, match="1 positions more than the model attends over"):
        decoder.model.generate(**inputs, max_new_tokens=1)


@pytest.mark.parametrize("family", ["gemma2", "qwen2"])
@torch.no_grad()
def test_attention_to_what_may_be_kept_is_the_stock_models(family):
    """What compression scores tokens by: mean attention of a text's last tokens, in layers of both kinds."""
    ids, mask = texts()
    decoder, stock = Decoder(windowed(family)), windowed(family)
    stock.set_attn_implementation("eager")
    prefix = decoder.rotated(*_projected(decoder, ids[:1, :6]), mask[:1, :6], torch.arange(6)[None])
    asks = torch.arange(11)[None] >= 8
    scores = guided(decoder, prefix, read(decoder, prefix, ids[:1, 6:], mask[:1, 6:]), asks, CompressionSettings())
    for found, weights in zip(scores, stock(ids[:1], output_attentions=True).attentions, strict=True):
        expected = weights[0, :, -3:].mean(1).unflatten(0, (2, -1)).mean(1)
        torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-4)


def _projected(decoder, ids):
    passed = read(decoder, decoder.empty_prefix(1), ids, torch.ones_like(ids, dtype=torch.bool))
    return passed.keys, passed.values


@mixed_family
@torch.no_grad()
def test_without_a_reading_the_model_is_the_stock_model(family):
    """Whoever uses the backbone by itself finds transformers' own model, windows and caps included."""
    ids, stock = texts()[0][:1], windowed(family)
    decoder = Decoder(windowed(family))
    for text in (ids, ids[:, :WINDOW]):
        torch.testing.assert_close(decoder.model(text).logits, stock(text).logits, atol=1e-4, rtol=1e-4)


def test_a_window_that_nothing_exceeds_costs_nothing():
    decoder = Decoder(windowed("gemma3_text", window=8))
    mask = torch.ones(1, 1, 8, dtype=torch.bool)
    assert not decoder.start(decoder.empty_prefix(1), mask)[0].windowed
    assert list(decoder.start(decoder.empty_prefix(1), torch.ones(1, 1, 9, dtype=torch.bool))[0].windowed) == [0, 2]


def test_kinds_of_attention_that_are_not_known_are_refused():
    config = AutoConfig.for_model("qwen2", num_hidden_layers=2, layer_types=["full_attention", "chunked_attention"])
    with pytest.raises(BackboneError, match="'mine' has layers with 'chunked_attention'.*use a qwen2 with full"):
        check_family(config, "mine")
    assert attention_windows(AutoConfig.for_model("llama", sliding_window=5)) == {None: None}
