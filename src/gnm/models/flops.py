"""Floating-point operations of a Llama-shaped decoder, counted from its config.

- A multiply-add is 2 operations. Counted: the seven linear layers, the two attention products, the LM head.
  Not counted: norms, rotary embedding, softmax, activation, the embedding look-up, sampling (well under 1 %), and
  adapters, which are taken as merged into the weights.
- Attention counts the query-key pairs that the mask allows, but for sliding windows: layers with one are counted as
  if they had none. Kernels that compute the masked half as well (and `torch.utils.flop_counter`, which assumes so)
  come to T(T-1)/2 pairs more for T tokens in one pass.
- Letters: D hidden, I intermediate, L layers, H query heads, G key/value heads, E head size, V vocabulary,
  T tokens of a pass, P positions already in the key/value cache, K positions that the LM head reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gnm.errors import BackboneError


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """The sizes that decide the cost of a decoder."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> "DecoderShape":
        """Read the sizes from a Hugging Face config or a mapping with the same keys.

        Without `num_key_value_heads` every query head has its own; without `head_dim` it is D / H.
        Raises BackboneError naming the key when a needed one is absent.
        """
        if isinstance(config, cls):
            return config

        def size(key: str, default: int | None = None) -> int:
            value = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
            if value is None and default is None:
                raise BackboneError(f"cannot count FLOPs: the decoder's config has no {key!r} (not of Llama's shape)")
            return int(default if value is None else value)

        hidden, heads = size("hidden_size"), size("num_attention_heads")
        return cls(
            hidden=hidden,
            intermediate=size("intermediate_size"),
            layers=size("num_hidden_layers"),
            heads=heads,
            kv_heads=size("num_key_value_heads", heads),
            head_dim=size("head_dim", hidden // heads),
            vocabulary=size("vocab_size"),
        )


def linear_flops(config: Any, tokens: int) -> int:
    """The layers' matrix products for T tokens: 2·T·L·(D·E·(2H + 2G) + 3·D·I).

    q and o are D x HE, k and v D x GE, gate, up and down D x I.
    """
    s = DecoderShape.of(config)
    attention = s.hidden * s.head_dim * (2 * s.heads + 2 * s.kv_heads)
    return 2 * tokens * s.layers * (attention + 3 * s.hidden * s.intermediate)


def attention_flops(config: Any, tokens: int, prefix_tokens: int = 0) -> int:
    """Scores and weighted values: 4·L·H·E·(T·P + T(T+1)/2), T causal tokens that also read P cached positions."""
    s = DecoderShape.of(config)
    pairs = tokens * prefix_tokens + tokens * (tokens + 1) // 2
    return 4 * s.layers * s.heads * s.head_dim * pairs


def lm_head_flops(config: Any, positions: int) -> int:
    """The LM head on K positions: 2·K·D·V."""
    s = DecoderShape.of(config)
    return 2 * positions * s.hidden * s.vocabulary


def forward_flops(config: Any, tokens: int, prefix_tokens: int = 0, logit_positions: int | None = None) -> int:
    """One pass over T tokens: linear layers, attention, and the LM head on all T positions or on `logit_positions`."""
    positions = tokens if logit_positions is None else logit_positions
    return (
        linear_flops(config, tokens) + attention_flops(config, tokens, prefix_tokens) + lm_head_flops(config, positions)
    )


def prefill_flops(config: Any, tokens: int, prefix_tokens: int = 0) -> int:
    """Reading T tokens into the key/value cache, no logits: what writing a document or reading a context costs."""
    return forward_flops(config, tokens, prefix_tokens, logit_positions=0)


def projection_flops(config: Any, slots: int) -> int:
    """Keys and values of S pool slots in every layer: 4·S·L·D·G·E.

    Paid once a write where projected keys are kept; the published memory model pays it for its whole pool in every
    forward.
    """
    s = DecoderShape.of(config)
    return 4 * slots * s.layers * s.hidden * s.kv_heads * s.head_dim


def query_flops(
    config: Any, prompt_tokens: int, prefix_tokens: int = 0, answer_tokens: int = 1, cached: bool = True
) -> int:
    """Answering one query greedily: prompt pass, then A - 1 steps of one token, the LM head on one position each.

    `prefix_tokens` are positions that every token reads: memory slots, or a context. With `cached` their keys and
    values are at hand; without, the prefix is read as tokens first (`prefill_flops`), which is in-context answering
    without a cache. A pool that is projected again for each query costs `query_flops(…) + projection_flops(…)`.
    Raises ValueError for an empty prompt or answer.
    """
    if prompt_tokens < 1 or answer_tokens < 1:
        raise ValueError(f"a query has at least one prompt and answer token, got {prompt_tokens} and {answer_tokens}")
    total = forward_flops(config, prompt_tokens, prefix_tokens, logit_positions=1)
    for step in range(answer_tokens - 1):
        total += forward_flops(config, 1, prefix_tokens + prompt_tokens + step)
    return total if cached else total + prefill_flops(config, prefix_tokens)
