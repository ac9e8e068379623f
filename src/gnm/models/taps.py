"""Taps take hidden states out of a pass through the decoder: those that become slots, or those that gates read.

- `InputTap`: the input of every layer, at every token. Untrained backbones read such slots as their own context.
- `OutputTap`: the output of every layer, at the last `num_tokens` places, as MemoryLLM has it (Wang et al. 2024,
  sec. 3.1). An embedding marks these places at the input of every layer; a document shorter than `num_tokens`
  takes the pool's last slots along, as if they were its first tokens.
- `LayerTap`: the input of one layer. Given the slots of the first layer, the pass reads these instead of tokens.

Shape letters: B states, L layers, n texts of a state, T tokens of a text, N real tokens of all texts, E hidden size.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from gnm.memory.state import pack
from gnm.models.attention import Reading


class Tap(Protocol):
    """Sees the hidden states [1, N, E] of a pass before and after each layer; `before` may replace them.

    ends_before: the layer before which the pass ends, -1 for the last one; None: it runs all layers.
    """

    ends_before: int | None

    def before(self, layer: int, hidden: Tensor, reading: Reading) -> Tensor: ...

    def after(self, layer: int, hidden: Tensor, reading: Reading) -> None: ...


@dataclass
class InputTap:
    """Collects the input of every layer, for one text of each state (n = 1); `slots` are [B, L, T, E]."""

    ends_before = -1
    collected: list[Tensor] = field(default_factory=list)

    def before(self, layer: int, hidden: Tensor, reading: Reading) -> Tensor:
        self.collected.append(reading.spread(hidden[0])[:, 0])
        return hidden

    def after(self, layer: int, hidden: Tensor, reading: Reading) -> None:
        pass

    @property
    def slots(self) -> Tensor:
        return torch.stack(self.collected, dim=1)


class OutputTap:
    """Marks the last `num_tokens` places of a pass and collects the layers' outputs there.

    mask: [B, T] bool, the places of the pass, old slots first. reused: old slots [B, L, R, E] that stand on each
    row's first places instead of tokens, `reused_valid` [B, R] says on how many. mark: [E], added at every layer.
    first: [B] bool, rows that were empty before this write; the published model stores their outputs with the mark
    that the next layer adds, and its checkpoints are made for that.
    """

    ends_before = None

    def __init__(
        self, mask: Tensor, num_tokens: int, mark: Tensor, reused: Tensor, reused_valid: Tensor, first: Tensor
    ):
        from_end = mask.flip(-1).long().cumsum(-1).flip(-1)
        self.marked = mask & (from_end <= num_tokens)
        self.index, self.valid = pack(self.marked)
        self.mark, self.reused, self.first = mark, reused, first
        self.old = torch.zeros_like(mask)
        self.old[:, : reused_valid.shape[1]] = reused_valid
        self.collected: list[Tensor] = []

    def before(self, layer: int, hidden: Tensor, reading: Reading) -> Tensor:
        if self.reused.shape[2]:
            later = self.old.shape[1] - self.reused.shape[2]
            places = nn.functional.pad(self.reused[:, layer], (0, 0, 0, later))
            old = reading.pack(self.old[:, None, :, None])
            hidden = torch.where(old, reading.pack(places[:, None]), hidden[0])[None]
        return hidden + self.mark * reading.pack(self.marked[:, None, :, None])

    def after(self, layer: int, hidden: Tensor, reading: Reading) -> None:
        outputs = reading.spread(hidden[0])[:, 0]
        kept = outputs.gather(1, self.index[..., None].expand(-1, -1, outputs.shape[-1]))
        if layer < self.reused.shape[1] - 1:
            kept = kept + self.mark * self.first[:, None, None]
        self.collected.append(kept)

    @property
    def slots(self) -> Tensor:
        return torch.stack(self.collected, dim=1)


@dataclass
class LayerTap:
    """Takes the input of one layer.

    layer: which. inputs: [B, n, T, E], what the first layer reads instead of tokens; None: tokens. seen: [B, n, T, E],
    the input of `layer`, there after the pass. ends_before: `layer` if the pass is run for it alone, else None.
    """

    layer: int
    inputs: Tensor | None = None
    seen: Tensor | None = None
    ends_before: int | None = None

    def before(self, layer: int, hidden: Tensor, reading: Reading) -> Tensor:
        if layer == 0 and self.inputs is not None:
            hidden = reading.pack(self.inputs)[None]
        if layer == self.layer:
            self.seen = reading.spread(hidden[0])
        return hidden

    def after(self, layer: int, hidden: Tensor, reading: Reading) -> None:
        pass
