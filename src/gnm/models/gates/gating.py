"""All gates of a memory together.

- Write gates (`write.py`) decide which segments of a new text are stored.
- Keep gates (`keep.py`) drop stored segments that a new text states anew.
- The revoke gate (`revoke.py`) tells whether an instruction takes something back, such as "Forget the companies". The
  about gate then tells which stored segments that is about; they are dropped.

Shape letters: B states, L layers, S slots of the pool, T tokens of a text, G segments of a text, E hidden size.
"""

import torch
from torch import Tensor, nn

from gnm.memory.pool import random_order
from gnm.memory.state import MemoryState
from gnm.models.decoder import Decoder
from gnm.models.gates.keep import KeepGate, Kept, keep
from gnm.models.gates.revoke import about, instructed
from gnm.models.gates.write import Decisions, GateSettings, LinearGate, decide, gate_layer, segment_ends
from gnm.models.prefix import Prefix
from gnm.models.tokens import TokenBatch

_OPEN, _SHUT = 1.0, -2.0  # untrained gates store everything and take nothing back
_REVOKE_SCALE = 30.0  # it has fewer and simpler things to see than the write gate, and learns beside the keep gate


class Gating(nn.Module):
    """The gates of a memory. All of them read the hidden states that enter one layer of its decoder.

    gate: the write gate; None if segments are drawn at random. keep_gate, revoke_gate, about_gate: None without
    `revise`. The about gate is not the write gate: with a document "Forget about sports" leaves the sports out, without
    one it means them.

        decisions = gating.decide(memory.state, hidden, text.segment, capacity=None)
        decisions.stored  # which tokens become slots, [B, T] bool
    """

    def __init__(self, decoder: Decoder, settings: GateSettings):
        super().__init__()
        self.settings, self.layer = settings, gate_layer(settings, len(decoder.layers))
        size, device, learned = decoder.config.hidden_size, decoder.device, settings.by == "gate"
        self.gate = LinearGate(size, device, _OPEN) if learned else None
        self.keep_gate = KeepGate(size, device) if settings.revise else None
        self.revoke_gate = LinearGate(size, device, _SHUT, _REVOKE_SCALE) if settings.revise else None
        self.about_gate = LinearGate(size, device, _OPEN) if settings.revise else None

    def decide(self, state: MemoryState, seen: Tensor, segment: Tensor, capacity: int | None) -> Decisions:
        """Which tokens of a new text are stored, at most `capacity` of them (None: no such limit).

        seen: [B, T, E], the hidden states that enter the gates' layer. segment: [B, T] long, the segment of each token,
        -1 for padding.
        """
        count = int(segment.max()) + 1
        if self.gate is None:
            logits = _random_logits(state, segment, count)
        else:
            ends = segment_ends(segment, count)[..., None].expand(-1, -1, seen.shape[2])
            logits = self.gate(seen.gather(1, ends))
        return decide(logits, segment, self.settings, capacity)

    def read_strength(self, decisions: Decisions) -> Tensor:
        """The strength with which stored tokens are read, [B, T] float32: their gate, or 1 with random gates."""
        return torch.ones_like(decisions.strength) if self.gate is None else decisions.strength

    def restated(self, state: MemoryState, slots: Tensor, decisions: Decisions, revoked: Tensor) -> Kept:
        """Which slots of `state` are kept when a new text is written.

        slots: [B, L, T, E], the text's layer inputs. decisions: those on the text. revoked: [B, S] in [0, 1], how far
        the text's instruction takes each slot back.
        """
        return Kept(keep(self.keep_gate, self.layer, state, slots, decisions), revoked, state.source, state.segment)

    def taken_back(
        self, decoder: Decoder, preamble: Prefix, state: MemoryState, instructions: TokenBatch, certain: bool = False
    ) -> Tensor:
        """How far instructions take each slot back, [B, S] float32 in [0, 1].

        0 where the revoke gate says that an instruction takes nothing back; else the about gate of the slot's segment,
        when the segment is read after the instruction. preamble: what instructions are read after. certain: it is known
        that the instructions take something back, so the revoke gate is not asked.
        """
        prefix, logits = self.revoking(decoder, preamble, instructions)
        takes = torch.ones_like(logits, dtype=torch.bool) if certain else logits >= 0
        if not bool(takes.any()):
            return torch.zeros_like(state.strength)
        return takes[:, None] * self.about(decoder, prefix, state).sigmoid()

    def about(self, decoder: Decoder, prefix: Prefix, state: MemoryState) -> Tensor:
        """The about gate of each slot's segment when it is read after `prefix`: logits [B, S], -inf without segment."""
        return about(decoder, self.about_gate, self.layer, prefix, state)

    def revoking(self, decoder: Decoder, preamble: Prefix, instructions: TokenBatch) -> tuple[Prefix, Tensor]:
        """Read instructions after `preamble`: the prefix of both, and whether each takes anything back, logits [B]."""
        prefix, ends = instructed(decoder, preamble, instructions, self.layer)
        return prefix, self.revoke_gate(ends)


def _random_logits(state: MemoryState, segment: Tensor, count: int) -> Tensor:
    """Random gates [B, count] for the segments [B, T] of the next document; each memory's own, whatever its batch."""
    logits = torch.zeros(segment.shape[0], count)
    for row, (seed, last) in enumerate(zip(state.seeds.tolist(), segment.amax(-1).tolist(), strict=True)):
        logits[row, : last + 1] = random_order(seed, state.written, last + 1).logit(eps=1e-6).float()
    return logits.to(segment.device)
