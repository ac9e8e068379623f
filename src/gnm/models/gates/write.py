"""Write gates: how much of a document its instruction makes worth storing, segment by segment.

- A segment is a line or a sentence. Its gate, a number in (0, 1), is one linear function of what enters a layer at its
  end, where instruction and segment have been read, and holds for all its tokens. Two thirds of the way up it is told
  best what an instruction is about; the last layer is about the next word already.
- What is weak is not stored. The strength of what is stored is a bias of its logarithm on the attention that reads it,
  so that the answers' loss reaches the gates.
- Training adds a term that says of each segment whether the instruction is about it, and, as G-MemLLM's composite
  objective does (Xu 2026, arXiv:2602.00015), one that keeps little and one of entropy; here that makes gates decide.

Shape letters: B states, T tokens of a text, G segments of a text, E hidden size.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gnm.config import StrictModel
from gnm.errors import ConfigError

_LEAST = 1e-9  # a strength has a logarithm

Weight = Annotated[float, Field(ge=0)]


class GateSettings(StrictModel):
    """What is stored of a document: tokens that pass every limit that is set, the strongest first.

    Of segments that are equally strong, or stored in part, the last tokens come first: these have read the others.
    by: "random" gives segments random strengths, to compare with; what it stores counts fully when it is read.
    reread: stored tokens are read once more, with the instruction but without the rest of the document, and their slots
    are those of this reading: what is left out leaves no trace in them.
    revise: a document lowers the strength of stored segments that it states anew (keep gates, `keep.py`) or that its
    instruction takes back (`revoke.py`); to forget the document later does not bring them back.
    """

    by: Literal["gate", "random"] = "gate"
    threshold: float = Field(0.5, ge=0, lt=1, description="strength that a segment must reach")
    share: float | None = Field(None, gt=0, le=1, description="of the tokens of document and instruction, at most")
    slots: int | None = Field(None, gt=0, description="of a document, at most")
    layer: int | None = Field(None, ge=0, description="whose input decides, None: two thirds of the way up")
    reread: bool = False
    revise: bool = False

    @model_validator(mode="after")
    def _random_by_share(self) -> "GateSettings":
        if self.by == "random" and self.threshold:
            raise ValueError("gates.by: random goes by share or slots; set threshold: 0")
        if self.by == "random" and self.revise:
            raise ValueError("gates.revise goes with gates.by: gate; random gates know nothing of what is stored")
        return self


class GateTraining(StrictModel):
    """Weights of the terms that train gates, beside the answers' loss.

    segments: cross-entropy of each segment's gate with whether it is to be stored; those of a document that are and
    those that are not count the same in all. budget: the square of what the mean gate of a document's tokens is
    above `share`. entropy: of the gates, so that they decide. With gates.revise, keep: cross-entropy of the keep gates
    with which stored segments still hold; revoke: of the revoke gate with which instructions take something back.
    """

    segments: Weight = 1.0
    budget: Weight = 0.0
    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    entropy: Weight = 0.0
    keep: Weight = 1.0
    revoke: Weight = 1.0


@dataclass(frozen=True)
class Decisions:
    """What a write decided. logits: [B, G] float32, before the sigmoid. segment: [B, T] long, of each token, -1 for
    padding. stored: [B, T] bool."""

    logits: Tensor
    segment: Tensor
    stored: Tensor

    @property
    def tokens(self) -> Tensor:
        """Tokens of each segment, [B, G] long; 0 for padding."""
        numbers = torch.arange(self.logits.shape[1], device=self.segment.device)
        return (self.segment[:, None] == numbers[:, None]).sum(-1)

    @property
    def strength(self) -> Tensor:
        """The gate of each token, [B, T] float32; 0 for padding."""
        gates = self.logits.sigmoid().clamp(min=_LEAST).gather(1, self.segment.clamp(min=0))
        return gates.masked_fill(self.segment < 0, 0.0)


class LinearGate(nn.Module):
    """One linear function of normalised hidden states [..., E]: the gate's logit [...], float32.

    start: the logit of a new one, whatever it sees. scale: of its slope; the larger, the faster it learns.
    """

    def __init__(self, size: int, device: torch.device, start: float, scale: float = 1.0):
        super().__init__()
        self.scale = scale / size**0.5
        self.weight = nn.Parameter(torch.zeros(size, device=device))
        self.bias = nn.Parameter(torch.full((1,), start, device=device))

    def forward(self, hidden: Tensor) -> Tensor:
        size = self.weight.shape
        return nn.functional.layer_norm(hidden.float(), size) @ self.weight * self.scale + self.bias


def gate_layer(settings: GateSettings, layers: int) -> int:
    """The layer whose input decides. Raises ConfigError if the decoder has no such layer."""
    layer = layers * 2 // 3 if settings.layer is None else settings.layer
    if layer >= layers:
        raise ConfigError(f"write.gates.layer: {layer} is none of the decoder's layers 0 to {layers - 1}")
    return layer


def decide(logits: Tensor, segment: Tensor, settings: GateSettings, capacity: int | None = None) -> Decisions:
    """Which tokens are stored: logits [B, G] of segments, segment [B, T] of tokens (-1: padding).

    capacity: slots of the whole pool; a document never stores more.
    """
    decided = Decisions(logits, segment, segment >= 0)
    strength = decided.strength.detach()
    limit = decided.stored.sum(-1)
    if settings.share is not None:
        limit = (limit * settings.share).ceil().long()
    for slots in (settings.slots, capacity):
        limit = limit if slots is None else limit.clamp(max=slots)
    order = strength.masked_fill(segment < 0, -1.0).flip(-1).argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1).flip(-1)
    stored = decided.stored & (strength >= settings.threshold) & (rank < limit[:, None])
    return Decisions(logits, segment, stored)


def segment_ends(segment: Tensor, count: int) -> Tensor:
    """The place of the last token of each of `count` segments, [B, G] long; segment [B, T] as in Decisions."""
    places = torch.arange(segment.shape[1], device=segment.device).expand_as(segment)
    ends = torch.zeros(segment.shape[0], count, dtype=torch.long, device=segment.device)
    return ends.scatter_reduce(1, segment.clamp(min=0), places.where(segment >= 0, 0), "amax")


def gate_loss(decisions: Decisions, wanted: Tensor, told: Tensor, settings: GateTraining) -> Tensor:
    """Sum over the batch of each document's loss; wanted: [B, G] bool, the segments to be stored; told: [B, G] bool,
    those that are no document's, which count half as much as the document's."""
    tokens = decisions.tokens
    real, gates = tokens > 0, decisions.logits.sigmoid()
    halves = balanced_loss(decisions.logits, wanted, real & ~told)
    halves = halves + 0.5 * balanced_loss(decisions.logits, wanted, real & told)
    undecided = nn.functional.binary_cross_entropy_with_logits(decisions.logits, gates, reduction="none")
    entropy, _ = mean_where(undecided, real)
    stored = (gates * tokens).sum(-1) / tokens.sum(-1)
    above = (stored - settings.share).clamp(min=0).square()
    return (settings.segments * halves + settings.entropy * entropy + settings.budget * above).sum()


def balanced_loss(logits: Tensor, wanted: Tensor, real: Tensor) -> Tensor:
    """Cross-entropy of gates [B, G] with what is `wanted` [B, G] bool, where `real` [B, G] bool: a row's mean, [B].

    Those that are to be open and those that are to be shut count the same in all; a row without any gate gives 0.
    """
    errors = nn.functional.binary_cross_entropy_with_logits(logits, wanted.float(), reduction="none")
    kinds = [mean_where(errors, real & kind) for kind in (wanted, ~wanted)]
    return sum(mean for mean, _ in kinds) / sum(there for _, there in kinds).clamp(min=1)


def mean_where(values: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of `values` [B, G] where `keep`, [B], 0 where there are none; and whether there are any, [B] long."""
    count = keep.sum(-1)
    return (values * keep).sum(-1) / count.clamp(min=1), (count > 0).long()
