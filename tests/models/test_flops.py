"""Formulas against PyTorch's own counter on a tiny random Llama, and the bookkeeping of a query's cost."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from gnm.errors import BackboneError
from gnm.models import flops

CONFIG = LlamaConfig(
    vocab_size=97,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
)


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    # Eager attention is plain matrix products, so the counter sees every one of them.
    return LlamaForCausalLM._from_config(CONFIG, attn_implementation="eager").eval()


def counted(decoder, tokens, prefix=0, positions=0):
    with torch.no_grad():
        cache = decoder(torch.ones(1, prefix, dtype=torch.long), use_cache=True).past_key_values if prefix else None
        with FlopCounterMode(display=False) as counter:
            decoder(torch.ones(1, tokens, dtype=torch.long), past_key_values=cache, logits_to_keep=positions)
    return counter.get_total_flops()


def masked_half(tokens):
    """What the counter adds for scores above the diagonal, which the mask throws away."""
    return 4 * CONFIG.num_hidden_layers * CONFIG.num_attention_heads * CONFIG.head_dim * tokens * (tokens - 1) // 2


@pytest.mark.parametrize(("tokens", "prefix", "positions"), [(1, 0, 1), (7, 0, 7), (7, 0, 2), (5, 11, 1), (1, 12, 1)])
def test_forward_equals_the_counter(decoder, tokens, prefix, positions):
    ours = flops.forward_flops(CONFIG, tokens, prefix, positions)
    assert counted(decoder, tokens, prefix, positions) == ours + masked_half(tokens)


def test_head_reads_all_positions_by_default():
    assert flops.forward_flops(CONFIG, 6) == flops.forward_flops(CONFIG, 6, logit_positions=6)
    assert flops.forward_flops(CONFIG, 6) - flops.prefill_flops(CONFIG, 6) == 2 * 6 * 48 * 97


def test_projection_equals_the_counter(decoder):
    slots = torch.randn(1, 9, CONFIG.hidden_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for layer in decoder.model.layers:
            layer.self_attn.k_proj(slots)
            layer.self_attn.v_proj(slots)
    assert counter.get_total_flops() == flops.projection_flops(CONFIG, 9)


def test_query_is_a_prompt_pass_and_single_steps():
    expected = (
        flops.forward_flops(CONFIG, 8, 20, 1) + flops.forward_flops(CONFIG, 1, 28) + flops.forward_flops(CONFIG, 1, 29)
    )
    assert flops.query_flops(CONFIG, prompt_tokens=8, prefix_tokens=20, answer_tokens=3) == expected
    with_reading = flops.query_flops(CONFIG, 8, 20, 3, cached=False)
    assert with_reading == expected + flops.prefill_flops(CONFIG, 20)


def test_reading_the_prefix_and_the_prompt_apart_costs_what_one_pass_costs():
    one_pass = flops.forward_flops(CONFIG, 28, logit_positions=1)
    assert flops.query_flops(CONFIG, prompt_tokens=8, prefix_tokens=20, cached=False) == one_pass


def test_a_kept_pool_is_far_cheaper_than_one_projected_again():
    llama_8b = {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    }
    kept = flops.query_flops(llama_8b, prompt_tokens=60, prefix_tokens=12_800)
    again = flops.projection_flops(llama_8b, 12_800)
    assert again == pytest.approx(6.87e12, rel=1e-2)
    assert again > 4 * kept
    # The linear layers alone are about two operations a weight and token.
    assert flops.linear_flops(llama_8b, 1) == pytest.approx(2 * 6.98e9, rel=1e-2)


def test_config_without_a_needed_size_is_named():
    with pytest.raises(BackboneError, match="intermediate_size"):
        flops.linear_flops({"hidden_size": 8, "num_attention_heads": 2}, 1)


def test_empty_prompt_is_refused():
    assert flops.query_flops(CONFIG, prompt_tokens=1) == flops.forward_flops(CONFIG, 1)
    with pytest.raises(ValueError, match="at least one"):
        flops.query_flops(CONFIG, prompt_tokens=0)
