"""Which blocks of a kept context a question reads (InfLLM, Xiao et al. 2024, sec. 3; EM-LLM, Fountas et al. 2024).

- A block is a segment of a document (a line, in prose a clause), as events are in EM-LLM, or so many tokens of the
  stream, as in InfLLM. A few of its tokens represent it: those that the tokens behind them attend to most.
- A block is as relevant to a question as its representative keys are like the question's mean query, without positions
  (`keys`, as in InfLLM); or as its mean input of an early layer is like the question's, by their cosine (`inputs`).
- Whole blocks are read, the most relevant first, until `tokens` are reached; the last one in part, so that every layer
  reads as many. With `neighbours` a share of the tokens goes to the blocks before and after those that were found.
- Unlike there, blocks are found once for a question, which is first read alone, not in every layer of one pass, nor
  anew for every token of the answer.

Shape letters: B states, Q questions, H heads, K key/value heads, R = H / K, T tokens of a text, S entries, D head size,
N blocks, E hidden size.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gnm.config import StrictModel
from gnm.models.attention import additive

NO_BLOCK = -1
"""The block of entries that are always read (the start of a conversation), and of padding."""

SEARCHED = 2
"""The layer whose inputs are compared if no other is set: words are read in context there, and are still themselves."""


class BlockSettings(StrictModel):
    """What a block is, and how much of all blocks a question reads.

    compare: what tells how like a block is to a question. layer: whose keys or inputs decide for all layers; None, with
    keys: each layer finds its own blocks; None, with inputs: layer 2.
    """

    block: Literal["segment"] | int = Field("segment", description="a segment of a document, or so many tokens")
    tokens: int = Field(128, gt=0, description="that a question reads, beside the start of the conversation")
    representatives: int = Field(4, gt=0, description="tokens of a block that are compared with a question")
    neighbours: float = Field(0.0, ge=0, lt=1, description="share of the tokens for blocks beside those found")
    compare: Literal["keys", "inputs"] = "keys"
    layer: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _positive(self) -> "BlockSettings":
        if self.block != "segment" and self.block < 1:
            raise ValueError(f"blocks.block: a block of {self.block} tokens holds nothing; use segment, or 1 and more")
        return self

    @property
    def searched(self) -> int | None:
        """The layer that decides for all layers, None: each for itself."""
        return SEARCHED if self.layer is None and self.compare == "inputs" else self.layer


def representatives(queries: Tensor, keys: Tensor, block: Tensor, count: int, window: int | None = None) -> Tensor:
    """The `count` tokens of each block to which the tokens behind them in their text attend most: [B, K, T] bool.

    queries [B, H, T, D] and keys [B, K, T, D] are rotated; block: [B, T] long, NO_BLOCK for padding. No token
    follows a text's last one, so it has no score: it is chosen only where its block has too few other tokens. window:
    how many positions a token attends over; None: all.
    """
    tokens, real = block.shape[1], block != NO_BLOCK
    grouped = queries.unflatten(1, (keys.shape[1], -1)).float().mean(2)
    behind = torch.ones(tokens, tokens, dtype=torch.bool, device=block.device).tril(-1)
    behind = (behind if window is None else behind.triu(1 - window)) & real[:, :, None]
    scores = torch.einsum("bktd,bksd->bkts", grouped, keys.float())
    received = (scores * behind[:, None]).sum(2) / behind.sum(1).clamp(min=1)[:, None]
    received = received + additive(behind.any(1), received.dtype)[:, None]
    order = received.argsort(dim=-1, descending=True, stable=True)
    blocks = block[:, None].expand_as(order)
    by_block = blocks.gather(2, order).argsort(dim=-1, stable=True)
    order = order.gather(2, by_block)
    ordered = blocks.gather(2, order).contiguous()
    place = torch.arange(tokens, device=block.device) - torch.searchsorted(ordered, ordered)
    return torch.zeros_like(real)[:, None].expand_as(order).scatter(2, order, place < count) & real[:, None]


def relevance(question: Tensor, keys: Tensor, represents: Tensor, block: Tensor) -> Tensor:
    """How relevant each block is to each question, [Q, N] float32: the mean product of mean query and key over its
    representatives of all heads.

    question: mean queries [Q, H, D] and keys [Q, K, S, D], not rotated; represents [Q, K, S] bool; block [Q, S] long.
    """
    blocks = int(block.max()) + 1
    grouped = question.unflatten(1, (keys.shape[1], -1)).float().mean(2)
    products = torch.einsum("qkd,qksd->qks", grouped, keys.float()) * represents
    sums = products.new_zeros(len(block), blocks)
    place = block.clamp(min=0)
    counts = torch.zeros_like(sums).scatter_add(1, place, represents.sum(1).float())
    return sums.scatter_add(1, place, products.sum(1)) / counts.clamp(min=1)


def likeness(question: Tensor, inputs: Tensor, block: Tensor) -> Tensor:
    """How relevant each block is to each question, [Q, N] float32: the cosine of their mean inputs of a layer, less the
    mean of all blocks.

    question: mean inputs [Q, E]; inputs [Q, S, E]; block [Q, S] long, NO_BLOCK where an input does not count.
    """
    blocks, real = int(block.max()) + 1, (block != NO_BLOCK)[..., None]
    place = block.clamp(min=0)[..., None]
    counts = inputs.new_zeros(len(block), blocks, 1, dtype=torch.float32).scatter_add(1, place, real.float())
    sums = inputs.new_zeros(len(block), blocks, inputs.shape[2], dtype=torch.float32)
    sums = sums.scatter_add(1, place.expand_as(inputs), inputs.float() * real)
    means, there = sums / counts.clamp(min=1), counts > 0
    centre = (means * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
    return nn.functional.cosine_similarity(means - centre, question.float()[:, None] - centre, dim=-1)


def scores_of_entries(relevance: Tensor, block: Tensor, count: Tensor, neighbours: float) -> Tensor:
    """The score of each entry, so that the best `count` [Q] long are those to read: [Q, S] float32, -inf for NO_BLOCK.

    relevance: [Q, N]; block: [Q, S] long, in the order of time. `neighbours` of `count` go to blocks beside those that
    the rest of it finds, as relevant as these.
    """
    own = relevance.gather(1, block.clamp(min=0)).masked_fill(block == NO_BLOCK, -torch.inf)
    if not neighbours:
        return own
    first = (count * (1 - neighbours)).ceil().long()
    rank = own.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    found = torch.zeros_like(relevance, dtype=torch.long)
    found.scatter_reduce_(1, block.clamp(min=0), ((rank < first[:, None]) & (block != NO_BLOCK)).long(), "amax")
    sought = relevance.masked_fill(found == 0, -torch.inf)
    beside = sought.new_full(sought.shape, -torch.inf)
    beside[:, 1:] = sought[:, :-1]
    beside[:, :-1] = torch.maximum(beside[:, :-1], sought[:, 1:])
    there = block.clamp(min=0)
    near, is_found = beside.gather(1, there), found.gather(1, there) > 0
    # found blocks first, then those beside them, then all others: each kind above the next, by its own order
    kind = torch.where(is_found, 2, torch.where(near > -torch.inf, 1, 0))
    value = torch.where(kind == 1, near, own)
    order = value.argsort(dim=-1, stable=True, descending=True)
    order = order.gather(1, kind.gather(1, order).argsort(dim=-1, stable=True, descending=True))
    places = torch.arange(block.shape[1], device=block.device, dtype=own.dtype).expand_as(own)
    ranked = torch.zeros_like(own).scatter(1, order, -places)
    return ranked.masked_fill(block == NO_BLOCK, -torch.inf)
