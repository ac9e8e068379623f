"""The gates of a memory together: what a write stores (`write.py`), and what becomes of what is stored already: what a
new text states anew (`keep.py`) or its instruction takes back (`revoke.py`) is dropped.

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
    """What the gates of a memory decide; they read what enters one layer of its decoder.

    gate: None if segments are drawn at random. keep_gate, revoke_gate: None without `revise`.
    """

    def __init__(self, decoder: Decoder, settings: GateSettings):
        super().__init__()
        self.settings, self.layer = settings, gate_layer(settings, len(decoder.layers))
        size, device, learned = decoder.config.hidden_size, decoder.device, settings.by == "gate"
        self.gate = LinearGate(size, device, _OPEN) if learned else None
        self.keep_gate = KeepGate(size, device) if settings.revise else None
        self.revoke_gate = LinearGate(size, device, _SHUT, _REVOKE_SCALE) if settings.revise else None

    def decide(self, state: MemoryState, seen: Tensor, segment: Tensor, capacity: int | None) -> Decisions:
        """What is stored of a new text for the pool of `state`, which has room for `capacity` slots.

        seen: [B, T, E], what enters the gates' layer. segment: [B, T] long, of each token, -1 for padding.
        """
        count = int(segment.max()) + 1
        if self.gate is None:
            logits = _random_logits(state, segment, count)
        else:
            ends = segment_ends(segment, count)[..., None].expand(-1, -1, seen.shape[2])
            logits = self.gate(seen.gather(1, ends))
        return decide(logits, segment, self.settings, capacity)

    def read_strength(self, decisions: Decisions) -> Tensor:
        """The strength [B, T] with which a document's tokens are read; random gates only choose."""
        return torch.ones_like(decisions.strength) if self.gate is None else decisions.strength

    def restated(self, state: MemoryState, slots: Tensor, decisions: Decisions, revoked: Tensor) -> Kept:
        """What becomes of the slots of `state` beside a new text, whose instruction takes back `revoked` [B, S]."""
        return Kept(keep(self.keep_gate, self.layer, state, slots, decisions), revoked, state.source, state.segment)

    def revoking(self, decoder: Decoder, preamble: Prefix, instructions: TokenBatch) -> Tensor:
        """Whether instructions take anything back when they are read after `preamble`: logits [B]."""
        return self.revoke_gate(instructed(decoder, preamble, instructions, self.layer)[1])

    def about(self, decoder: Decoder, preamble: Prefix, state: MemoryState, instructions: TokenBatch) -> Tensor:
        """The write gate of each slot's segment when it is read after `preamble` and an instruction: logits [B, S]."""
        prefix, _ = instructed(decoder, preamble, instructions, self.layer)
        return about(decoder, self.gate, self.layer, prefix, state)


def _random_logits(state: MemoryState, segment: Tensor, count: int) -> Tensor:
    """Random gates [B, count] for the segments [B, T] of the next document; each memory's own, whatever its batch."""
    logits = torch.zeros(segment.shape[0], count)
    for row, (seed, last) in enumerate(zip(state.seeds.tolist(), segment.amax(-1).tolist(), strict=True)):
        logits[row, : last + 1] = random_order(seed, state.written, last + 1).logit(eps=1e-6).float()
    return logits.to(segment.device)
