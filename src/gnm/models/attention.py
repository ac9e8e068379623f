"""Attention of many short queries to one shared key/value prefix.

- A prefix (a memory, or a context) is projected once per state; every query of that state reads the same keys.
- All tokens of all queries of all states lie in one row without padding, so each linear layer is one product of real
  tokens; only inside attention they stand in a rectangle [B, n, T]. A query attends to its state's prefix and to
  itself, never to its neighbours. On a CPU without gradient a state's tokens read the prefix in one row [B, W].
- The function is registered as an attention implementation of transformers; without a `reading` it is plain SDPA.

Shape letters: B states, n queries per state, T tokens per query, N real tokens of all queries, S own keys per query
(past + T), P prefix length, H heads, K key/value heads, G = H / K, D head size, W most real tokens of a state.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from gnm.models.prefix import Prefix

IMPLEMENTATION = "shared_prefix"
# attention scores of one pass, at most
SCORES = 2**28


@dataclass
class Reading:
    """What one forward pass attends to; `own` collects the pass's own keys and values if `keep` is set.

    shape: (B, n, T). cells: [N] long, the place of each real token in the rectangle [B * n * T].
    prefix_bias: [B, 1, n or 1, T or 1, P] additive, own_bias: [B, 1, n, T, S] additive (0 or the dtype's minimum).
    own: past keys and values of each layer that has any, [B, K, n, S, D] each.
    windowed: both biases of each layer whose window hides something from this pass; other layers have those above.
    """

    prefix: Prefix
    shape: tuple[int, int, int]
    cells: Tensor
    prefix_bias: Tensor
    own_bias: Tensor
    keep: bool = False
    own: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    windowed: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def of_layer(self, layer: int, past: Sequence[Tensor]) -> "Reading":
        """What one layer attends to; past: its earlier keys and values, if there are any."""
        prefix_bias, own_bias = self.windowed.get(layer, (self.prefix_bias, self.own_bias))
        own = {layer: tuple(past)} if past else {}
        return replace(self, prefix_bias=prefix_bias, own_bias=own_bias, own=own)

    @property
    def unpadded(self) -> bool:
        """Whether every place of the rectangle is a real token, so that packing and spreading move nothing."""
        return len(self.cells) == self.shape[0] * self.shape[1] * self.shape[2]

    def spread(self, packed: Tensor) -> Tensor:
        """Packed tokens [N, ...] in the rectangle [B, n, T, ...], zeros where there is padding."""
        if self.unpadded:
            return packed.unflatten(0, self.shape)
        cells = self.shape[0] * self.shape[1] * self.shape[2]
        return _Move.apply(packed, self.cells, cells).unflatten(0, self.shape)

    def pack(self, rectangle: Tensor) -> Tensor:
        """The real tokens [N, ...] of a rectangle [B, n, T, ...]."""
        packed = rectangle.flatten(0, 2)
        return packed if self.unpadded else _Pick.apply(packed, self.cells)

    def by_state(self) -> tuple[int, Tensor]:
        """W, the most real tokens of a state, and the place of each real token in [B * W], [N] long."""
        batch, n, tokens = self.shape
        state = self.cells // (n * tokens)
        counts = torch.bincount(state, minlength=batch)
        width = int(counts.max())
        first = (torch.arange(batch, device=counts.device) * width - counts.cumsum(0) + counts)[state]
        return width, first + torch.arange(len(state), device=counts.device)


def at_once(scores: int) -> int:
    """How many queries, of `scores` attention scores each, one pass takes; at least one."""
    return max(1, SCORES // max(1, scores))


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


def in_window(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """Which keys at positions [..., S] stand among the `window` positions that end with a query's [..., T].

    Returns [..., T, S] bool.
    """
    return queries[..., :, None] - keys[..., None, :] < window


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    reading: Reading | None = None,
    softcap: float | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Attention of packed tokens, query [1, H, N, D], key and value [1, K, N, D], to their prefix and to themselves.

    softcap: scores are kept between this and its negative (Gemma 2); None: they are not.
    Returns [1, N, H, D]. Without a `reading` this is what transformers has for the mask it was given.
    """
    if reading is None:
        return _plain(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, softcap=softcap, **kwargs
        )
    layer = module.layer_idx
    groups, per_group = key.shape[1], query.shape[1] // key.shape[1]
    own_key, own_value = (reading.spread(x[0].transpose(0, 1)).permute(0, 3, 1, 2, 4) for x in (key, value))
    if layer in reading.own:
        past_key, past_value = reading.own[layer]
        own_key, own_value = torch.cat((past_key, own_key), 3), torch.cat((past_value, own_value), 3)
    if reading.keep:
        reading.own[layer] = (own_key, own_value)
    prefix_key, prefix_value = reading.prefix.keys[layer], reading.prefix.values[layer]

    q = query[0].transpose(0, 1).unflatten(1, (groups, per_group)) * scaling
    if q.device.type == "cpu" and not torch.is_grad_enabled() and softcap is None:
        mixed = _mix_in_parts(reading, q, prefix_key, prefix_value, own_key, own_value)
    else:
        mixed = _mix(reading, q, prefix_key, prefix_value, own_key, own_value, softcap)
    return mixed.flatten(1, 2)[None], None


def capped(scores: Tensor, softcap: float | None) -> Tensor:
    """Scores between `softcap` and its negative, if there is one (Gemma 2, Gemma Team 2024, sec. 2)."""
    return scores if softcap is None else (scores / softcap).tanh() * softcap


def _mix(reading: Reading, q: Tensor, prefix_key, prefix_value, own_key, own_value, softcap: float | None) -> Tensor:
    """What q [N, K, G, D] reads, in one softmax over prefix [B, K, P, D] and own keys [B, K, n, S, D]; like q."""
    rows, to_own = _to_own(reading, q, own_key, softcap)
    to_prefix = torch.matmul(rows.flatten(2, 3), prefix_key.transpose(2, 3)).view(*rows.shape[:4], -1)
    to_prefix = _biased(reading, capped(to_prefix, softcap), reading.prefix_bias)
    scores = torch.cat((to_prefix, to_own), dim=-1)
    on_prefix, on_own = scores.softmax(-1).split((prefix_key.shape[2], own_key.shape[3]), dim=-1)
    from_prefix = torch.matmul(on_prefix.flatten(2, 3), prefix_value).view_as(rows)
    return _packed(reading, from_prefix + torch.matmul(on_own, own_value))


def _mix_in_parts(reading: Reading, q: Tensor, prefix_key, prefix_value, own_key, own_value) -> Tensor:
    """The same without gradient on a CPU, where a table of scores costs more than the products around it.

    torch's flash kernel reads the prefix and the own keys, and gives the log-sum-exp of the scores of each; with these
    the two are joined as one softmax over both would join them (Dao et al. 2022, FlashAttention, sec. 3.1).
    """
    from_own, of_own = _from_own(reading, q, own_key, own_value)
    if not prefix_key.shape[2]:
        return _packed(reading, from_own)
    batch, per_group = len(prefix_key), q.shape[2]
    width, places = (len(q) // batch, None) if reading.unpadded else reading.by_state()

    def by_state(x: Tensor) -> Tensor:
        """Tokens [N, ...] in the row of their state, [B, W, ...]."""
        x = x if places is None else x.new_zeros(batch * width, *x.shape[1:]).index_copy_(0, places, x)
        return x.unflatten(0, (batch, width))

    every = by_state(q).transpose(1, 2).flatten(2, 3)
    if reading.prefix_bias.shape[2:4] == (1, 1):
        bias = reading.prefix_bias[:, 0].expand(-1, -1, every.shape[2], -1)
    else:  # each token has a window of its own
        bias = by_state(reading.pack(reading.prefix_bias[:, 0])).repeat_interleave(per_group, dim=1)[:, None]
    from_prefix, of_prefix = (
        part.unflatten(2, (width, per_group)).transpose(1, 2).flatten(0, 1)
        for part in _flash(every, prefix_key, prefix_value, bias)
    )
    if places is not None:
        from_prefix, of_prefix = from_prefix[places], of_prefix[places]
    share = (_packed(reading, of_own[..., None]) - of_prefix[..., None]).sigmoid()
    return torch.lerp(from_prefix.float(), _packed(reading, from_own).float(), share).to(q.dtype)


def _from_own(reading: Reading, q: Tensor, own_key: Tensor, own_value: Tensor) -> tuple[Tensor, Tensor]:
    """What q [N, K, G, D] reads from its own keys, rows [B, K, n, G*T, D], and the log-sum-exp of its scores, float32
    [B, K, n, G*T]. Next to a single token the kernel's start costs more than a table of its scores."""
    batch, n, tokens = reading.shape
    if tokens == 1:
        _, scores = _to_own(reading, q, own_key)
        total = scores.float().logsumexp(-1)
        return torch.matmul((scores - total[..., None]).exp().to(q.dtype), own_value), total
    rows, keys, values = (x.transpose(1, 2).flatten(0, 1) for x in (_rows(reading, q), own_key, own_value))
    bias = reading.own_bias[:, 0].flatten(0, 1).repeat(1, q.shape[2], 1)[:, None]
    return tuple(part.unflatten(0, (batch, n)).transpose(1, 2) for part in _flash(rows, keys, values, bias))


def _flash(q: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of q [B, K, Q, D] to S keys with bias [B, 1, Q, S], like q, and its log-sum-exp [B, K, Q] float32."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(q, key, value, attn_mask=bias, scale=1.0)


def _rows(reading: Reading, q: Tensor) -> Tensor:
    """q as rows [B, K, n, G*T, D], side by side where heads share keys, so that these are never repeated."""
    return reading.spread(q).permute(0, 3, 1, 4, 2, 5).flatten(3, 4)


def _to_own(reading: Reading, q: Tensor, own_key: Tensor, softcap: float | None = None) -> tuple[Tensor, Tensor]:
    """q as rows [B, K, n, G*T, D] and its scores of own keys [B, K, n, G*T, S]."""
    rows = _rows(reading, q)
    scores = capped(torch.matmul(rows, own_key.transpose(3, 4)), softcap)
    return rows, _biased(reading, scores, reading.own_bias)


def _biased(reading: Reading, scores: Tensor, bias: Tensor) -> Tensor:
    """Scores [B, K, n, G*T, X] with bias [B, 1, n or 1, T or 1, X]."""
    return (scores.unflatten(3, (-1, reading.shape[2])) + bias.unsqueeze(3)).flatten(3, 4)


def _packed(reading: Reading, rows: Tensor) -> Tensor:
    """Rows [B, K, n, G*T, X] token by token, [N, K, G, X]."""
    return reading.pack(rows.unflatten(3, (-1, reading.shape[2])).permute(0, 2, 4, 1, 3, 5))


def _plain(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, softcap: float | None, **settings
) -> tuple[Tensor, Tensor | None]:
    """transformers' own attention: SDPA, or the family's eager one where scores are capped, which SDPA cannot do."""
    if softcap is None:
        return sdpa_attention_forward(module, query, key, value, mask, **settings)
    if mask is None:  # that of SDPA where all that stands before is seen
        tokens, entries = query.shape[2], key.shape[2]
        mask = torch.ones(tokens, entries, dtype=torch.bool, device=query.device).tril(entries - tokens)
    mask = additive(mask, query.dtype) if mask.dtype == torch.bool else mask
    eager = import_module(type(module).__module__).eager_attention_forward
    return eager(module, query, key, value, mask, softcap=softcap, **settings)


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
