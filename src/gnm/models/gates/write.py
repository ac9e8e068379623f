"""Write gates: a number in (0, 1) for each segment of a text, which says how strongly the segment is stored.

- A segment is a clause of the document, or the whole instruction. Its gate is read at its last token, where both the
  instruction and the segment have been read. The gate is one linear function of the hidden state that enters one layer
  of the decoder, by default two thirds of the way up (layer 20 of SmolLM2-135M's 30).
- A segment whose gate is below the threshold is not stored. The logarithm of a stored segment's gate is added to the
  attention scores of its slots. So the loss of the answers has a gradient for the gates.
- The gates are also trained on a loss of their own: cross-entropy with the labels of the segments, a term against
  storing much and one against gates near one half. The two terms follow G-MemLLM's composite objective (Xu 2026,
  arXiv:2602.00015).

Shape letters: B states, T tokens of a text, G segments of a text, E hidden size.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gnm.config import StrictModel
from gnm.errors import ConfigError

_LEAST = 1e-9  # smallest strength: its logarithm must be finite

Weight = Annotated[float, Field(ge=0)]


class GateSettings(StrictModel):
    """Which tokens of a document are stored: those whose gate reaches `threshold`; where `share` or `slots` limit how
    many, the strongest.

    Tokens of one segment are equally strong. If a limit cuts them, the later ones are stored, because they have read
    the earlier ones.
    by: "gate" uses trained gates. "random" draws the strengths, as a baseline; its slots are all read with strength 1.
    reread: the stored tokens are read a second time, with the instruction and without the rest of the document. Their
    slots come from this second reading, so they hold nothing of the rest.
    revise: writing a document also weakens stored segments whose facts it states anew (keep gates, `keep.py`), and an
    instruction that stands alone can take segments back (`revoke.py`). Forgetting the document later does not restore
    them.
    refuse: the slots of a segment whose facts are to be refused are marked (refuse gates, `refuse.py`).

        GateSettings(threshold=0.5)
        GateSettings(threshold=0.0, share=0.25)  # a quarter of the tokens, the strongest
    """

    by: Literal["gate", "random"] = "gate"
    threshold: float = Field(0.5, ge=0, lt=1, description="strength that a segment must reach")
    share: float | None = Field(None, gt=0, le=1, description="of the tokens of document and instruction, at most")
    slots: int | None = Field(None, gt=0, description="of a document, at most")
    layer: int | None = Field(None, ge=0, description="whose input decides, None: two thirds of the way up")
    reread: bool = False
    revise: bool = False
    refuse: bool = False

    @model_validator(mode="after")
    def _random_by_share(self) -> "GateSettings":
        if self.by == "random" and self.threshold:
            raise ValueError("gates.by: random goes by share or slots; set threshold: 0")
        if self.by == "random" and self.revise:
            raise ValueError("gates.revise goes with gates.by: gate; random gates know nothing of what is stored")
        if self.by == "random" and self.refuse:
            raise ValueError("gates.refuse goes with gates.by: gate; random gates know nothing of what is refused")
        return self


class GateTraining(StrictModel):
    """Weights of the losses that train gates, beside the loss of the answers.

    segments: cross-entropy of each gate with its label, whether the segment is to be stored. In each document, the
    wanted segments together weigh as much as the unwanted ones together.
    budget: the square of the mean gate of a document's tokens minus `share`, if the mean is larger.
    entropy: the entropy of each gate; this term pushes gates away from one half.
    keep: with gates.revise, cross-entropy of the keep gates with whether a stored segment still holds.
    revoke: with gates.revise, cross-entropy of the about gate with which segments an instruction takes back.
    refuse: with gates.refuse, cross-entropy of the refuse gate with which stored segments are to be refused.
    """

    segments: Weight = 1.0
    budget: Weight = 0.0
    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    entropy: Weight = 0.0
    keep: Weight = 1.0
    revoke: Weight = 1.0
    refuse: Weight = 1.0


@dataclass(frozen=True)
class Decisions:
    """What the write gates decided on one text per row.

    logits: [B, G] float32, the gate of each segment before the sigmoid.
    segment: [B, T] long, the segment of each token, -1 for padding.
    stored: [B, T] bool, the tokens that become slots.
    refusal: [B, G] float32, the refuse gate of each segment before the sigmoid; None without such gates.
    """

    logits: Tensor
    segment: Tensor
    stored: Tensor
    refusal: Tensor | None = None

    @property
    def tokens(self) -> Tensor:
        """How many tokens each segment has, [B, G] long; 0 for segments that a row lacks."""
        numbers = torch.arange(self.logits.shape[1], device=self.segment.device)
        return (self.segment[:, None] == numbers[:, None]).sum(-1)

    @property
    def strength(self) -> Tensor:
        """The gate of each token, [B, T] float32; 0 for padding."""
        gates = self.logits.sigmoid().clamp(min=_LEAST).gather(1, self.segment.clamp(min=0))
        return gates.masked_fill(self.segment < 0, 0.0)

    @property
    def refused(self) -> Tensor:
        """The refuse gate of each token, [B, T] float32; 0 for padding."""
        return self.refusal.sigmoid().gather(1, self.segment.clamp(min=0)).masked_fill(self.segment < 0, 0.0)


class LinearGate(nn.Module):
    """A linear function of layer-normalised hidden states [..., E]: logits [...], float32.

    start: the logit that an untrained gate gives to everything.
    """

    def __init__(self, size: int, device: torch.device, start: float):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, device=device))
        self.bias = nn.Parameter(torch.full((1,), start, device=device))

    def forward(self, hidden: Tensor) -> Tensor:
        size = self.weight.shape
        return nn.functional.layer_norm(hidden.float(), size) @ self.weight / size[0] ** 0.5 + self.bias


def gate_layer(settings: GateSettings, layers: int) -> int:
    """The layer whose input decides. Raises ConfigError if the decoder has no such layer."""
    layer = layers * 2 // 3 if settings.layer is None else settings.layer
    if layer >= layers:
        raise ConfigError(f"write.gates.layer: {layer} is none of the decoder's layers 0 to {layers - 1}")
    return layer


def decide(logits: Tensor, segment: Tensor, settings: GateSettings, capacity: int | None = None) -> Decisions:
    """Decide which tokens are stored.

    logits: [B, G] float32, one for each segment. segment: [B, T] long, the segment of each token, -1 for padding.
    capacity: slots of the whole pool; a document never stores more. None: no limit.
    """
    decided = Decisions(logits, segment, segment >= 0)
    strength = decided.strength.detach()
    limit = decided.stored.sum(-1)
    if settings.share is not None:
        limit = (limit * settings.share).ceil().long()
    for slots in (settings.slots, capacity):
        limit = limit if slots is None else limit.clamp(max=slots)
    # rank 0 is the strongest token; the flips make the later of equally strong tokens come first in the stable sort
    order = strength.masked_fill(segment < 0, -1.0).flip(-1).argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1).flip(-1)
    stored = decided.stored & (strength >= settings.threshold) & (rank < limit[:, None])
    return Decisions(logits, segment, stored)


def segment_ends(segment: Tensor, count: int) -> Tensor:
    """The place of the last token of each of `count` segments, [B, G] long; 0 for segments that a row lacks.

    segment: [B, T] long, as in Decisions.
    """
    places = torch.arange(segment.shape[1], device=segment.device).expand_as(segment)
    ends = torch.zeros(segment.shape[0], count, dtype=torch.long, device=segment.device)
    return ends.scatter_reduce(1, segment.clamp(min=0), places.where(segment >= 0, 0), "amax")


def gate_loss(decisions: Decisions, wanted: Tensor, of_instruction: Tensor, settings: GateTraining) -> Tensor:
    """The write gates' loss, summed over the batch.

    wanted: [B, G] bool, the segments to be stored. of_instruction: [B, G] bool, the segments of the
    instruction; together they weigh half as much as those of the document.
    """
    tokens = decisions.tokens
    real, gates = tokens > 0, decisions.logits.sigmoid()
    halves = balanced_loss(decisions.logits, wanted, real & ~of_instruction)
    halves = halves + 0.5 * balanced_loss(decisions.logits, wanted, real & of_instruction)
    # the cross-entropy of a gate with itself is its entropy
    of_gates = nn.functional.binary_cross_entropy_with_logits(decisions.logits, gates, reduction="none")
    entropy, _ = mean_where(of_gates, real)
    mean_gate = (gates * tokens).sum(-1) / tokens.sum(-1)
    above = (mean_gate - settings.share).clamp(min=0).square()
    return (settings.segments * halves + settings.entropy * entropy + settings.budget * above).sum()


def balanced_loss(logits: Tensor, wanted: Tensor, real: Tensor) -> Tensor:
    """Class-balanced cross-entropy of logits [B, G] with `wanted` [B, G] bool, over the places `real` [B, G]: [B].

    A row's loss is the average of two means, one over its wanted places and one over the others. If a row has only one
    of the two kinds, the loss is the mean of that kind; without any place it is 0.
    """
    errors = nn.functional.binary_cross_entropy_with_logits(logits, wanted.float(), reduction="none")
    means = [mean_where(errors, real & kind) for kind in (wanted, ~wanted)]
    return sum(mean for mean, _ in means) / sum(has_any for _, has_any in means).clamp(min=1)


def mean_where(values: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of `values` [B, G] where `keep` [B, G] bool, one for each row [B]; 0 for a row that keeps none.

    Also returns whether a row keeps any, [B] long (0 or 1).
    """
    count = keep.sum(-1)
    return (values * keep).sum(-1) / count.clamp(min=1), (count > 0).long()
