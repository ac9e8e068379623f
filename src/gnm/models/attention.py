"""Attention of many short queries to one shared key/value prefix.

- A prefix (a memory, or a context) is projected once per state; every query of that state reads the same keys.
- All tokens of all queries of all states lie in one row without padding, so each linear layer is one product of real
  tokens; only inside attention they stand in a rectangle [B, n, T]. A query attends to its state's prefix and to
  itself, never to its neighbours.
- The function is registered as an attention implementation of transformers; without a `reading` it is plain SDPA.

Shape letters: B states, n queries per state, T tokens per query, N real tokens of all queries, S own keys per query
(past + T), P prefix length, H heads, K key/value heads, G = H / K, D head size.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

IMPLEMENTATION = "shared_prefix"
# attention scores of one pass; on a CPU more gain nothing, a quarter of them is a tenth slower
SCORES = 2**28
_SCORES_ON_CPU = 2**25


@dataclass(frozen=True)
class Prefix:
    """Keys and values that queries read, layer by layer; a value, never changed in place.

    keys, values: one [B, K, P, D] tensor per layer, keys rotated to their positions.
    valid: [B, P] bool; what is not valid is never attended to.
    next_position: [B] long, at which reading goes on.
    bias: [B, P] float32, added to the scores of attention to each entry; None: 0.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    valid: Tensor
    next_position: Tensor
    bias: Tensor | None = None

    @property
    def lengths(self) -> Tensor:
        """Valid entries of each row, [B] long."""
        return self.valid.sum(-1)

    def extend(self, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], valid: Tensor) -> "Prefix":
        """This prefix followed by `keys`, `values` ([B, K, T, D] per layer) and `valid` [B, T]."""
        return Prefix(
            tuple(torch.cat(pair, dim=2) for pair in zip(self.keys, keys, strict=True)),
            tuple(torch.cat(pair, dim=2) for pair in zip(self.values, values, strict=True)),
            torch.cat((self.valid, valid), dim=1),
            self.next_position + valid.sum(-1),
            None if self.bias is None else nn.functional.pad(self.bias, (0, valid.shape[1])),
        )

    def rows(self, index: Tensor) -> "Prefix":
        """The prefixes of the rows in `index` [B'] long."""
        return Prefix(
            tuple(key[index] for key in self.keys),
            tuple(value[index] for value in self.values),
            self.valid[index],
            self.next_position[index],
            None if self.bias is None else self.bias[index],
        )

    def detach(self) -> "Prefix":
        """The same prefix, cut from the graph of gradients."""
        return replace(self, keys=tuple(k.detach() for k in self.keys), values=tuple(v.detach() for v in self.values))


@dataclass
class Reading:
    """What one forward pass attends to; `own` collects the pass's own keys and values if `keep` is set.

    shape: (B, n, T). cells: [N] long, the place of each real token in the rectangle [B * n * T].
    prefix_bias: [B, 1, 1, 1, P] additive, own_bias: [B, 1, n, T, S] additive (0 or the dtype's minimum).
    own: past keys and values of each layer that has any, [B, K, n, S, D] each.
    """

    prefix: Prefix
    shape: tuple[int, int, int]
    cells: Tensor
    prefix_bias: Tensor
    own_bias: Tensor
    keep: bool = False
    own: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def spread(self, packed: Tensor) -> Tensor:
        """Packed tokens [N, ...] in the rectangle [B, n, T, ...], zeros where there is padding."""
        cells = self.shape[0] * self.shape[1] * self.shape[2]
        return _Move.apply(packed, self.cells, cells).unflatten(0, self.shape)

    def pack(self, rectangle: Tensor) -> Tensor:
        """The real tokens [N, ...] of a rectangle [B, n, T, ...]."""
        return _Pick.apply(rectangle.flatten(0, 2), self.cells)


def at_once(scores: int, device: torch.device) -> int:
    """How many queries, of `scores` attention scores each, one pass takes; at least one."""
    return max(1, (_SCORES_ON_CPU if device.type == "cpu" else SCORES) // max(1, scores))


def at_ends(hidden: Tensor, mask: Tensor) -> Tensor:
    """Entries of hidden [B, n, T, E] at the last token of each query of mask [B, n, T]: [B, n, E]."""
    last = (mask.sum(-1) - 1).clamp(min=0)
    return hidden.gather(2, last[..., None, None].expand(-1, -1, 1, hidden.shape[3]))[:, :, 0]


class _Move(torch.autograd.Function):
    """Rows to other places of a larger tensor; the gradient picks them up again (each place is used once)."""

    @staticmethod
    def forward(ctx, packed: Tensor, cells: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(cells)
        return packed.new_zeros(size, *packed.shape[1:]).index_copy_(0, cells, packed)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Pick(torch.autograd.Function):
    """The opposite of `_Move`."""

    @staticmethod
    def forward(ctx, rectangle: Tensor, cells: Tensor) -> Tensor:
        ctx.save_for_backward(cells)
        ctx.size = rectangle.shape[0]
        return rectangle.index_select(0, cells)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad.new_zeros(ctx.size, *grad.shape[1:]).index_copy_(0, ctx.saved_tensors[0], grad), None


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
    """Attention of packed tokens, query [1, H, N, D], key and value [1, K, N, D], to their prefix and to themselves.

    Returns [1, N, H, D]. Without a `reading` this is transformers' SDPA with the mask it was given.
    """
    if reading is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    layer = module.layer_idx
    batch, n, tokens = reading.shape
    groups, per_group, size = key.shape[1], query.shape[1] // key.shape[1], query.shape[3]
    own_key, own_value = (reading.spread(x[0].transpose(0, 1)).permute(0, 3, 1, 2, 4) for x in (key, value))
    if layer in reading.own:
        past_key, past_value = reading.own[layer]
        own_key, own_value = torch.cat((past_key, own_key), 3), torch.cat((past_value, own_value), 3)
    if reading.keep:
        reading.own[layer] = (own_key, own_value)
    prefix_key, prefix_value = reading.prefix.keys[layer], reading.prefix.values[layer]

    # [B, K, n, G*T, D]: heads that share keys stand side by side, so keys are never repeated
    q = reading.spread(query[0].transpose(0, 1) * scaling).unflatten(3, (groups, per_group))
    q = q.permute(0, 3, 1, 4, 2, 5).reshape(batch, groups, n, per_group * tokens, size)
    to_prefix = torch.matmul(q.flatten(2, 3), prefix_key.transpose(2, 3)).unflatten(2, (n, per_group, tokens))
    to_own = torch.matmul(q, own_key.transpose(3, 4)).unflatten(3, (per_group, tokens))
    scores = torch.cat((to_prefix + reading.prefix_bias.unsqueeze(2), to_own + reading.own_bias.unsqueeze(3)), dim=-1)
    to_prefix, to_own = scores.softmax(-1).split((prefix_key.shape[2], own_key.shape[3]), dim=-1)
    from_prefix = torch.matmul(to_prefix.flatten(2, 4), prefix_value)
    from_own = torch.matmul(to_own.flatten(3, 4), own_value)
    mixed = from_prefix.view_as(from_own) + from_own
    mixed = mixed.unflatten(3, (per_group, tokens)).permute(0, 2, 4, 1, 3, 5)  # [B, n, T, K, G, D]
    return reading.pack(mixed.flatten(3, 4))[None], None


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
