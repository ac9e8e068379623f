"""Queries, keys and values that a decoder layer makes of hidden states at its input, and their rotation.

The families of `families.py` differ here: OLMo 2 has no norm before attention and norms all heads of a token together,
Qwen3 and Gemma 3 norm each head, Phi-3 has one matrix for all three, SmolLM3 rotates nothing in some layers.
Shape letters: B states, S slots or tokens, E hidden size, H query heads, K key/value heads, D head size.
"""

from importlib import import_module

from torch import Tensor, nn


def project_slots(layer: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Keys (not rotated) and values [B, K, S, D] of a decoder layer for slots [B, S, E] at its input."""
    attention = layer.self_attn
    normed = _normed(layer, inputs)
    if hasattr(attention, "qkv_proj"):
        _, key, value = _split(attention, normed)
    else:
        key, value = attention.k_proj(normed), attention.v_proj(normed)
    return _heads(attention, key, "k_norm"), _heads(attention, value)


def project_queries(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Queries (not rotated) [B, H, S, D] of a decoder layer for hidden states [B, S, E] at its input."""
    attention = layer.self_attn
    normed = _normed(layer, inputs)
    query = _split(attention, normed)[0] if hasattr(attention, "qkv_proj") else attention.q_proj(normed)
    return _heads(attention, query, "q_norm")


def rotate(layer: nn.Module, tensor: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Queries or keys [B, K, P, D] of a decoder layer at the positions of cos and sin [B, P, D].

    Rotary position embedding (RoFormer, Su et al. 2021, sec. 3.4) by the family's own function: families differ in how
    many numbers of a head are turned, and which of them together.
    """
    if not getattr(layer.self_attn, "use_rope", True):
        return tensor
    apply = import_module(type(layer.self_attn).__module__).apply_rotary_pos_emb
    rotated, _ = apply(tensor, tensor[:, :0], *rotary)  # it takes queries and keys; no keys are given
    return rotated.to(tensor.dtype)  # OLMo 2 has float32 cosines whatever its dtype


def _normed(layer: nn.Module, inputs: Tensor) -> Tensor:
    return layer.input_layernorm(inputs) if hasattr(layer, "input_layernorm") else inputs


def _split(attention: nn.Module, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of Phi-3's one matrix."""
    config = attention.config
    sizes = [count * attention.head_dim for count in (config.num_attention_heads, *2 * [config.num_key_value_heads])]
    return attention.qkv_proj(normed).split(sizes, -1)


def _heads(attention: nn.Module, projected: Tensor, norm: str = "") -> Tensor:
    """[B, S, K * D] as [B, K, S, D], after the attention's own norm of that name, if it has one."""
    normalise = getattr(attention, norm, None) if norm else None
    if normalise is not None and normalise.weight.numel() == projected.shape[-1]:  # all heads together
        projected, normalise = normalise(projected), None
    heads = projected.unflatten(-1, (-1, attention.head_dim))
    if normalise is not None:
        heads = normalise(heads)
    return heads.transpose(1, 2)
