"""What queries read: a memory or a context, as keys and values.

Shape letters: B states, P prefix length, T tokens that are added, K key/value heads, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Prefix:
    """Keys and values that queries read, layer by layer; a value, never changed in place.

    keys, values: one [B, K, P, D] tensor per layer, keys rotated to their positions.
    valid: [B, P] bool; what is not valid is never attended to.
    positions: [B, P] long; layers with a window attend only to entries that are near enough.
    next_position: [B] long, at which reading goes on.
    bias: [B, P] float32, added to the scores of attention to each entry; None: 0.
    remembered: whether entries are a memory's, which must not fall out of the window of every layer.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    valid: Tensor
    positions: Tensor
    next_position: Tensor
    bias: Tensor | None = None
    remembered: bool = False

    @property
    def lengths(self) -> Tensor:
        """Valid entries of each row, [B] long."""
        return self.valid.sum(-1)

    def extend(self, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], valid: Tensor) -> "Prefix":
        """This prefix followed by `keys`, `values` ([B, K, T, D] per layer) and `valid` [B, T]."""
        positions = self.next_position[:, None] + (valid.long().cumsum(-1) - 1).clamp(min=0)
        return Prefix(
            tuple(torch.cat(pair, dim=2) for pair in zip(self.keys, keys, strict=True)),
            tuple(torch.cat(pair, dim=2) for pair in zip(self.values, values, strict=True)),
            torch.cat((self.valid, valid), dim=1),
            torch.cat((self.positions, positions), dim=1),
            self.next_position + valid.sum(-1),
            None if self.bias is None else nn.functional.pad(self.bias, (0, valid.shape[1])),
            self.remembered,
        )

    def rows(self, index: Tensor) -> "Prefix":
        """The prefixes of the rows in `index` [B'] long."""
        return Prefix(
            tuple(key[index] for key in self.keys),
            tuple(value[index] for value in self.values),
            self.valid[index],
            self.positions[index],
            self.next_position[index],
            None if self.bias is None else self.bias[index],
            self.remembered,
        )

    def detach(self) -> "Prefix":
        """The same prefix, cut from the graph of gradients."""
        return replace(self, keys=tuple(k.detach() for k in self.keys), values=tuple(v.detach() for v in self.values))


def stacked(prefixes: Sequence[Prefix]) -> Prefix:
    """Prefixes of one model as one batch, row after row; shorter ones are padded on the right, which is never read."""
    longest = max(prefix.valid.shape[1] for prefix in prefixes)
    missing = [longest - prefix.valid.shape[1] for prefix in prefixes]

    def joined(layers: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        rows = zip(*layers, strict=True)
        return tuple(
            torch.cat([nn.functional.pad(t, (0, 0, 0, free)) for t, free in zip(layer, missing, strict=True)])
            for layer in rows
        )

    def padded(rows: Sequence[Tensor]) -> Tensor:
        return torch.cat([nn.functional.pad(row, (0, free)) for row, free in zip(rows, missing, strict=True)])

    biases = [torch.zeros(p.valid.shape, device=p.valid.device) if p.bias is None else p.bias for p in prefixes]
    return Prefix(
        joined([prefix.keys for prefix in prefixes]),
        joined([prefix.values for prefix in prefixes]),
        padded([prefix.valid for prefix in prefixes]),
        padded([prefix.positions for prefix in prefixes]),
        torch.cat([prefix.next_position for prefix in prefixes]),
        None if all(prefix.bias is None for prefix in prefixes) else padded(biases),
        any(prefix.remembered for prefix in prefixes),
    )
