"""All gates of a memory together.

- Write gates (`write.py`) decide which segments of a new text are stored.
- Refuse gates (`refuse.py`) mark stored segments whose facts are to be refused.
- Keep gates (`keep.py`) drop stored segments that a new text states anew.
- The about gate (`revoke.py`) tells which stored segments an instruction is about that takes something back, such as
  "Forget the companies"; they are dropped.

Shape letters: B states, L layers, S slots of the pool, T tokens of a text, G segments of a text, E hidden size.
"""

import torch
from torch import Tensor, nn

from gnm.memory.pool import random_order
from gnm.memory.state import MemoryState
from gnm.models.decoder import Decoder
from gnm.models.gates.keep import KeepGate, Kept, keep
from gnm.models.gates.refuse import RefuseGate, with_refusal
from gnm.models.gates.revoke import about
from gnm.models.gates.write import Decisions, GateSettings, LinearGate, decide, gate_layer, segment_ends
from gnm.models.prefix import Prefix
from gnm.models.tokens import TokenBatch

_OPEN = 1.0  # untrained gates store everything, and take everything back


class Gating(nn.Module):
    """The gates of a memory. All of them read the hidden states that enter one layer of its decoder.

    gate: the write gate; None if segments are drawn at random. keep_gate, about_gate: None without `revise`. The about
    gate is not the write gate: with a document "Forget about sports" leaves the sports out, without one it means them.
    refuse_gate: None without `refuse`.

        decisions = gating.decide(memory.state, hidden, text, capacity=None)
        decisions.stored  # which tokens become slots, [B, T] bool
    """

    def __init__(self, decoder: Decoder, settings: GateSettings):
        super().__init__()
        self.settings, self.layer = settings, gate_layer(settings, len(decoder.layers))
        size, device, learned = decoder.config.hidden_size, decoder.device, settings.by == "gate"
        self.gate = LinearGate(size, device, _OPEN) if learned else None
        self.keep_gate = KeepGate(size, device) if settings.revise else None
        self.about_gate = LinearGate(size, device, _OPEN) if settings.revise else None
        layers = len(decoder.layers)
        self.refuse_gate = RefuseGate(layers, size, self.layer, device) if settings.refuse else None

    def understanding(self) -> set[str]:
        """The names of the parameters that understand instructions: of the write, about and refuse gates, but not the
        mark of what is refused, which is for those who read it."""
        others = ("keep_gate.", "refuse_gate.mark")
        return {name for name, _ in self.named_parameters() if not name.startswith(others)}

    def decide(self, state: MemoryState, seen: Tensor, text: TokenBatch, capacity: int | None) -> Decisions:
        """Which tokens of a new text are stored, at most `capacity` of them (None: no such limit).

        seen: [B, T, E], the hidden states that enter the gates' layer.
        """
        segment, count = text.segment, int(text.segment.max()) + 1
        if self.gate is None:
            return decide(_random_logits(state, segment, count), segment, self.settings, capacity)
        ends = seen.gather(1, segment_ends(segment, count)[..., None].expand(-1, -1, seen.shape[2]))
        decisions = decide(self.gate(ends), segment, self.settings, capacity)
        if self.refuse_gate is None:
            return decisions
        return with_refusal(decisions, self.refuse_gate.gate(ends), text.is_document)

    def read_strength(self, decisions: Decisions) -> Tensor:
        """The strength with which stored tokens are read, [B, T] float32: their gate, or 1 with random gates."""
        return torch.ones_like(decisions.strength) if self.gate is None else decisions.strength

    def restated(self, state: MemoryState, slots: Tensor, decisions: Decisions) -> Kept:
        """Which slots of `state` are kept when a new text is written.

        slots: [B, L, T, E], the text's layer inputs. decisions: those on the text.
        """
        return Kept(keep(self.keep_gate, self.layer, state, slots, decisions), state.source, state.segment)

    def about(self, decoder: Decoder, preamble: Prefix, state: MemoryState, instructions: TokenBatch) -> Tensor:
        """The about gate of each slot's segment when it is read after `preamble` and the instruction of its row.

        Logits [B, S] float32, -inf for slots without a segment.
        """
        prefix = decoder.extend(preamble, instructions.ids, instructions.mask)
        return about(decoder, self.about_gate, self.layer, prefix, state)


def _random_logits(state: MemoryState, segment: Tensor, count: int) -> Tensor:
    """Random gates [B, count] for the segments [B, T] of the next document; each memory's own, whatever its batch."""
    logits = torch.zeros(segment.shape[0], count)
    for row, (seed, last) in enumerate(zip(state.seeds.tolist(), segment.amax(-1).tolist(), strict=True)):
        logits[row, : last + 1] = random_order(seed, state.written, last + 1).logit(eps=1e-6).float()
    return logits.to(segment.device)
