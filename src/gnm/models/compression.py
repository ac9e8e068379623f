"""Compression of a text's keys and values by a score of each token: the best share is kept, the rest dropped.

- `knorm`: keys of small norm (Devoto et al. 2024, "A simple and effective L2 norm-based strategy"). `keydiff`: keys
  unlike the text's mean key (Park et al. 2025, KeyDiff). Neither has a guide.
- `snapkv` and `finch` keep what a guide's tokens attend to: the mean of their attention, in SnapKV smoothed over
  neighbours (Li et al. 2024, sec. 4), in Finch weighted with the number of entries that a token sees (Corallo &
  Papotti 2024, sec. 3.2). The guide stands behind the text.
- Each key/value head of each layer keeps its own tokens, all equally many.

Shape letters: B states, H heads, K key/value heads, R = H / K, T tokens of a text, G of them a guide's, S entries,
D head size.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gnm.config import StrictModel
from gnm.models.attention import additive, capped, in_window
from gnm.models.decoder import Decoder
from gnm.models.key_values import Layers, Passed, best
from gnm.models.prefix import Prefix

GUIDED = ("snapkv", "finch")


class CompressionSettings(StrictModel):
    """What is kept of a document: the tokens with the best scores, up to a share of document and instruction.

    guide: the instruction, once more behind its document, decides while writing; or each question decides what it
    reads of everything, which only a memory that foresees its questions could do: an upper bound, no method.
    """

    by: Literal["knorm", "keydiff", "snapkv", "finch"] = "snapkv"
    guide: Literal["instruction", "question"] = "instruction"
    share: float = Field(0.25, gt=0, le=1)
    kernel: int = Field(5, gt=0, description="tokens over which snapkv smooths attention, an odd number")

    @model_validator(mode="after")
    def _fits_together(self) -> "CompressionSettings":
        if self.kernel % 2 == 0:
            raise ValueError(f"compression.kernel: {self.kernel} tokens have none in their middle; use an odd number")
        if self.guide == "question" and not self.guided:
            raise ValueError(f"compression.guide: question goes with compression.by: snapkv or finch, not {self.by}")
        return self

    @property
    def guided(self) -> bool:
        """Whether scores come from a guide's attention."""
        return self.by in GUIDED

    def count(self, tokens: Tensor) -> Tensor:
        """How many of `tokens` [B] long are kept, [B] long."""
        return (tokens * self.share).ceil().long()


@torch.no_grad()
def chosen(
    decoder: Decoder, prefix: Prefix, passed: Passed, text: Tensor, settings: CompressionSettings
) -> tuple[Layers, Tensor]:
    """The tokens that are kept of texts, where `text` [B, T] bool; all other tokens of the pass are their guides'.

    prefix: what the pass read. Returns indices per layer [B, K, n] long, in the tokens' order, and a mask
    [B, n] bool, false where a text has fewer than n.
    """
    if settings.guided:
        scores = [
            each[..., prefix.valid.shape[1] :].masked_fill(~text[:, None], 0)
            for each in guided(decoder, prefix, passed, passed.mask & ~text, settings)
        ]
    else:
        keys = passed.rotated(decoder, passed.keys)
        scores = [key_norms(key) if settings.by == "knorm" else key_differences(key, text) for key in keys]
    return _best(scores, text, settings.count(text.sum(-1)), settings)


@torch.no_grad()
def chosen_for(
    decoder: Decoder, prefix: Prefix, passed: Passed, documents: Tensor, settings: CompressionSettings
) -> tuple[Layers, Tensor]:
    """The entries of `prefix` that questions attend to most, and with them all that are of no document.

    passed: the questions' own words, which read `prefix`. documents: [Q, S] bool, which of its first S entries are of
    documents; the rest of these S are always read. Returns indices per layer [Q, K, n] long, and a mask [Q, n] bool,
    false where a row has fewer than n.
    """
    width = documents.shape[1]
    always = prefix.valid[:, :width] & ~documents
    found = guided(decoder, prefix, passed, passed.mask, settings)
    scores = [each[..., :width].masked_fill(~documents[:, None], 0) for each in found]
    count = settings.count(documents.sum(-1)) + always.sum(-1)
    return _best(scores, documents, count, settings, always)


def _best(
    scores: list[Tensor], may_stay: Tensor, count: Tensor, settings: CompressionSettings, always: Tensor | None = None
) -> tuple[Layers, Tensor]:
    """The best `count` [B] entries by their scores [B, K, S] per layer, where `may_stay` [B, S], and what stays
    `always` [B, S]; SnapKV's scores are smoothed first."""
    indices, valid = [], may_stay
    for each in scores:
        each = smoothed(each, settings.kernel) if settings.by == "snapkv" else each
        each = each.masked_fill(~may_stay[:, None], -torch.inf)
        each = each if always is None else each.masked_fill(always[:, None], torch.inf)
        index, valid = best(each, count)
        indices.append(index)
    return tuple(indices), valid


def guided(
    decoder: Decoder, prefix: Prefix, passed: Passed, asks: Tensor, settings: CompressionSettings
) -> list[Tensor]:
    """How much the tokens `asks` [B, T] bool of a pass attend to each entry of the prefix that it read, and of its own:
    [B, K, P + T] float32 per layer."""
    visible = torch.cat((prefix.valid[:, None].expand(-1, asks.shape[1], -1), causal(passed.mask)), dim=2)
    positions = torch.cat((prefix.positions, passed.positions), dim=1)
    queries, keys = (passed.rotated(decoder, side) for side in (passed.queries, passed.keys))
    found = []
    for layer, window, query, key, before in zip(
        decoder.layers, decoder.windows, queries, keys, prefix.keys, strict=True
    ):
        seen = visible if window is None else visible & in_window(passed.positions, positions, window)
        softcap = getattr(layer.self_attn, "attn_logit_softcapping", None)
        weights = attention(query, torch.cat((before, key), dim=2), seen, layer.self_attn.scaling, softcap)
        found.append(attended(weights, asks, seen, settings))
    return found


def key_norms(keys: Tensor) -> Tensor:
    """The score of each of keys [B, K, T, D]: the smaller its Euclidean norm, the higher; [B, K, T] float32."""
    return -keys.float().norm(dim=-1)


def key_differences(keys: Tensor, text: Tensor) -> Tensor:
    """The score of each of keys [B, K, T, D]: the less it is like the mean direction of those of `text` [B, T] bool,
    by their cosine, the higher; [B, K, T] float32."""
    directions = nn.functional.normalize(keys.float(), dim=-1)
    of_text = text[:, None, :, None]
    anchor = (directions * of_text).sum(2, keepdim=True) / of_text.sum(2, keepdim=True).clamp(min=1)
    return -nn.functional.cosine_similarity(keys.float(), anchor, dim=-1)


def attention(queries: Tensor, keys: Tensor, visible: Tensor, scaling: float, softcap: float | None = None) -> Tensor:
    """Attention weights [B, K, R, T, S] float32 of rotated queries [B, H, T, D] to keys [B, K, S, D] where `visible`
    [B, T, S] bool; heads that share keys stand beside each other. softcap: as in `capped`."""
    grouped = queries.unflatten(1, (keys.shape[1], -1))
    scores = capped(torch.einsum("bkrtd,bksd->bkrts", grouped, keys).float() * scaling, softcap)
    return (scores + additive(visible, torch.float32)[:, None, None]).softmax(-1)


def attended(weights: Tensor, asks: Tensor, visible: Tensor, settings: CompressionSettings) -> Tensor:
    """The mean attention [B, K, S] that entries get of the tokens `asks` [B, T] bool; weights [B, K, R, T, S]."""
    if settings.by == "finch":
        weights = weights * visible.sum(-1)[:, None, None, :, None]
    shares = asks / asks.sum(-1, keepdim=True).clamp(min=1)
    return torch.einsum("bkrts,bt->bks", weights, shares) / weights.shape[2]


def smoothed(scores: Tensor, kernel: int) -> Tensor:
    """Means of scores [B, K, S] over `kernel` neighbours; beyond the ends there are zeros."""
    return nn.functional.avg_pool1d(scores, kernel, stride=1, padding=kernel // 2)


def causal(mask: Tensor) -> Tensor:
    """Which tokens each of those of mask [B, T] bool sees of its own text, [B, T, T] bool."""
    tokens = mask.shape[1]
    return torch.ones(tokens, tokens, dtype=torch.bool, device=mask.device).tril() & mask[:, None]
