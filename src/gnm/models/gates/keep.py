"""Keep gates: which stored segments a new document replaces.

- A stored segment meets every segment that the new document stores. Both are means over the segment's tokens of what
  enters the gates' layer; one projection of them, and the cosine between the two, tell whether both state the same.
- The keep gate of a stored segment goes by the new one that is nearest. Its slots' strength is multiplied by it, as a
  GRU does with its state (Cho et al. 2014, arXiv:1406.1078, sec. 2.3); below one half they are dropped.
- Trained on documents that turn facts of earlier ones round: the cross-entropy of each stored segment's gate with
  whether it still holds.

Shape letters: B states, S slots of the pool, T tokens of a text, G segments of a text, O of all documents, E hidden.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnm.memory.state import MemoryState
from gnm.models.gates.write import Decisions, balanced_loss

_SIZE = 64
_SHARPNESS, _BIAS = 60.0, 55.0  # hidden states have much in common: untrained, the border is a cosine of 0.92


@dataclass(frozen=True)
class Kept:
    """What becomes of the slots that were there before. logits: [B, S] float32, that each is kept, before the sigmoid;
    infinite for slots that no document wrote. source, segment: [B, S] long, as in MemoryState."""

    logits: Tensor
    source: Tensor
    segment: Tensor

    @property
    def gates(self) -> Tensor:
        """What the strength of each slot is multiplied by, [B, S] float32; below one half it is dropped."""
        return self.logits.sigmoid()


class KeepGate(nn.Module):
    """The logit with which each of old [B, O, E] is kept beside new [B, G, E], where `there` [B, G]: [B, O] float32."""

    def __init__(self, size: int, device: torch.device):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(_SIZE, size, device=device))
        self.sharpness = nn.Parameter(torch.full((1,), _SHARPNESS, device=device))
        self.bias = nn.Parameter(torch.full((1,), _BIAS, device=device))

    def forward(self, old: Tensor, new: Tensor, there: Tensor) -> Tensor:
        cosine = self._direction(old) @ self._direction(new).transpose(1, 2)
        nearest = cosine.masked_fill(~there[:, None], -1.0).amax(-1)
        return self.bias - self.sharpness * nearest

    def _direction(self, hidden: Tensor) -> Tensor:
        normed = nn.functional.layer_norm(hidden, hidden.shape[-1:])
        return nn.functional.normalize(normed @ self.weight.T, dim=-1)


def keep(gate: KeepGate, layer: int, state: MemoryState, slots: Tensor, decisions: Decisions) -> Tensor:
    """Whether slots of `state` hold beside a new text, whose layer inputs [B, L, T, E] are `slots`: logits [B, S]."""
    number = state.segment_numbers()
    own = number >= 0
    logits = torch.full(own.shape, torch.inf, device=own.device)
    if bool(own.any()):
        old, _ = segment_means(state.slots[:, layer], number, int(number.max()) + 1)
        stored = decisions.segment.masked_fill(~decisions.stored, -1)
        new, there = segment_means(slots[:, layer], stored, decisions.logits.shape[1])
        logits = torch.where(own, gate(old, new, there).gather(1, number.clamp(min=0)), logits)
    return logits


def segment_means(hidden: Tensor, segment: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Means of hidden [B, T, E] over the tokens of each of `count` segments, [B, count, E] float32, 0 where there are
    none; and where there are any, [B, count] bool. segment: [B, T] long, negative for tokens of none."""
    counted, index = (segment >= 0).float(), segment.clamp(min=0)
    size = (hidden.shape[0], count, hidden.shape[2])
    sums = torch.zeros(size, device=hidden.device).scatter_add(
        1, index[..., None].expand_as(hidden), hidden.float() * counted[..., None]
    )
    tokens = torch.zeros(size[:2], device=hidden.device).scatter_add(1, index, counted)
    return sums / tokens.clamp(min=1)[..., None], tokens > 0


def keep_loss(kept: Kept, revoked: Tensor) -> Tensor:
    """Sum over the batch of the cross-entropy of keep gates with what is revoked, [B, S] bool.

    Slots that are revoked and slots that still hold count the same in all; without any slots it is 0.
    """
    real = kept.logits.isfinite()
    return balanced_loss(kept.logits.where(real, 0.0), ~revoked, real).sum()
