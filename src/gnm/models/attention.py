"""Attention of many short queries to one shared key/value prefix.

- A prefix (a memory, or a context) is projected once per state; every query of that state reads the same keys.
- Queries of one state lie side by side in one row of the batch, so each linear layer sees one large product, and
  the prefix is never copied per query. A query attends to the prefix and to itself, never to its neighbours.
- The function is registered as an attention implementation of transformers; without a `reading` it is plain SDPA.

Shape letters: B states, n queries per state, T tokens per query, S own keys per query (past + T), P prefix length,
H heads, K key/value heads, G = H / K, D head size.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

IMPLEMENTATION = "shared_prefix"


@dataclass(frozen=True)
class Prefix:
    """Keys and values that queries read, layer by layer; a value, never changed in place.

    keys, values: one [B, K, P, D] tensor per layer, keys rotated to positions 0, 1, ... of the valid entries.
    valid: [B, P] bool; what is not valid is never attended to.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    valid: Tensor

    @property
    def lengths(self) -> Tensor:
        """Valid entries of each row, [B] long: the position at which reading goes on."""
        return self.valid.sum(-1)

    def extend(self, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], valid: Tensor) -> "Prefix":
        """This prefix followed by `keys`, `values` ([B, K, T, D] per layer) and `valid` [B, T]."""
        return Prefix(
            tuple(torch.cat(pair, dim=2) for pair in zip(self.keys, keys, strict=True)),
            tuple(torch.cat(pair, dim=2) for pair in zip(self.values, values, strict=True)),
            torch.cat((self.valid, valid), dim=1),
        )

    def rows(self, index: Tensor) -> "Prefix":
        """The prefixes of the rows in `index` [B'] long."""
        return Prefix(
            tuple(key[index] for key in self.keys), tuple(value[index] for value in self.values), self.valid[index]
        )

    def detach(self) -> "Prefix":
        """The same prefix, cut from the graph of gradients."""
        return replace(self, keys=tuple(k.detach() for k in self.keys), values=tuple(v.detach() for v in self.values))


@dataclass
class Reading:
    """What one forward pass attends to; `own` collects the pass's own keys and values if `keep` is set.

    prefix_bias: [B, 1, 1, 1, P] additive, own_bias: [B, 1, n, T, S] additive (0 or the dtype's minimum).
    own: for each layer past keys and values, [B, K, n, S, D] each.
    """

    prefix: Prefix
    width: int
    prefix_bias: Tensor
    own_bias: Tensor
    keep: bool = False
    own: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `mask` is true, the most negative number of `dtype` elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of x [B, K, P, D] with cos, sin [B, P, D] (RoFormer, Su et al. 2021, sec. 3.4)."""
    left, right = x.chunk(2, dim=-1)
    return x * cos.unsqueeze(1) + torch.cat((-right, left), dim=-1) * sin.unsqueeze(1)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    reading: Reading | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Attention of query [B, H, n*T, D] to the prefix and to its own key, value [B, K, n*T, D].

    Returns [B, n*T, H, D]. Without a `reading` this is transformers' SDPA with the mask it was given.
    """
    if reading is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    layer = module.layer_idx
    batch, heads, packed, size = query.shape
    groups, n = key.shape[1], reading.width
    own_key, own_value = key.unflatten(2, (n, -1)), value.unflatten(2, (n, -1))
    if layer < len(reading.own):
        past_key, past_value = reading.own[layer]
        own_key, own_value = torch.cat((past_key, own_key), 3), torch.cat((past_value, own_value), 3)
        if reading.keep:
            reading.own[layer] = (own_key, own_value)
    elif reading.keep:
        reading.own.append((own_key, own_value))
    prefix_key, prefix_value = reading.prefix.keys[layer], reading.prefix.values[layer]
    prefix_length = prefix_key.shape[2]

    # [B, H, n*T, D] -> [B, K, n, G*T, D]: heads that share keys stand side by side, so keys are never repeated
    q = query.unflatten(1, (groups, -1)).unflatten(3, (n, -1)).transpose(2, 3)
    per_group, tokens = q.shape[3], q.shape[4]
    q = (q * scaling).reshape(batch, groups, n, per_group * tokens, size)
    to_prefix = torch.matmul(q.flatten(2, 3), prefix_key.transpose(2, 3)).unflatten(2, (n, per_group, tokens))
    to_own = torch.matmul(q, own_key.transpose(3, 4)).unflatten(3, (per_group, tokens))
    to_prefix = to_prefix + reading.prefix_bias.unsqueeze(2)
    to_own = to_own + reading.own_bias.unsqueeze(3)
    weights = torch.cat((to_prefix, to_own), dim=-1).softmax(-1)
    from_prefix = torch.matmul(weights[..., :prefix_length].flatten(2, 4), prefix_value)
    from_own = torch.matmul(weights[..., prefix_length:].flatten(3, 4), own_value)
    mixed = from_prefix.view(batch, groups, n, per_group, tokens, size) + from_own.unflatten(3, (per_group, tokens))
    # [B, K, n, G, T, D] -> [B, n*T, H, D]
    return mixed.permute(0, 2, 4, 1, 3, 5).reshape(batch, packed, heads, size), None


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
