"""Keys and values of texts, kept token by token: what compressing and retrieving methods store.

- Every layer, and every key/value head in it, may hold other tokens of a text, but each holds equally many.
- Keys are kept unrotated. Entries are read one after another, whatever stood between them in their text, as Finch has
  it (Corallo & Papotti 2024, TACL, sec. 3.2: the positions of kept keys are assigned anew).
- Not covered: backbones shared out over processes (`models/sharding.py`).

Shape letters: B states, Q questions, L layers, H heads, K key/value heads, T tokens of a text, S entries, n chosen
entries, D head size, E hidden size.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gnm.memory.state import PREAMBLE, pack
from gnm.models.decoder import Decoder
from gnm.models.prefix import Prefix
from gnm.models.projections import project_queries
from gnm.models.taps import InputTap

Layers = tuple[Tensor, ...]


@dataclass(frozen=True)
class KeyValues:
    """The entries of B memories; a value, never changed in place.

    keys, values: [B, K, S, D] per layer, keys not rotated. valid: [B, S] bool, false: padding.
    source: [B, S] long, the document that an entry is of, PREAMBLE for the start of the conversation.
    written: documents so far.
    """

    keys: Layers
    values: Layers
    valid: Tensor
    source: Tensor
    written: int = 0

    @property
    def documents(self) -> Tensor:
        """Which entries are of documents, [B, S] bool."""
        return self.valid & (self.source != PREAMBLE)

    @property
    def lengths(self) -> Tensor:
        """Valid entries of each row, [B] long."""
        return self.valid.sum(-1)

    def append(self, keys: Layers, values: Layers, valid: Tensor) -> "KeyValues":
        """These entries followed by those of one more document, [B, K, T, D] per layer; valid [B, T] bool."""
        source = torch.where(valid, self.written, PREAMBLE)
        return KeyValues(
            tuple(torch.cat(pair, dim=2) for pair in zip(self.keys, keys, strict=True)),
            tuple(torch.cat(pair, dim=2) for pair in zip(self.values, values, strict=True)),
            torch.cat((self.valid, valid), dim=1),
            torch.cat((self.source, source), dim=1),
            self.written + 1,
        )

    def select(self, keep: Tensor) -> tuple["KeyValues", Tensor]:
        """The entries where `keep` [B, S] is true, packed to the left, and their indices [B, S'] long."""
        index, valid = pack(keep & self.valid)
        rows = torch.arange(len(index), device=index.device)
        keys, values = self.at(rows, (index[:, None],) * len(self.keys))
        source = torch.where(valid, self.source.gather(1, index), PREAMBLE)
        return KeyValues(keys, values, valid, source, self.written), index

    def at(self, rows: Tensor, index: Layers) -> tuple[Layers, Layers]:
        """Keys and values of entries `index` (per layer [Q, K or 1, n] long) of the states `rows` [Q] long."""
        heads = torch.arange(self.keys[0].shape[1], device=rows.device)[None, :, None]
        chosen = [
            tuple(tensor[rows[:, None, None], heads, own] for tensor, own in zip(side, index, strict=True))
            for side in (self.keys, self.values)
        ]
        return chosen[0], chosen[1]

    def prefix(self, decoder: Decoder) -> Prefix:
        """What reads all entries."""
        return in_order(decoder, self.keys, self.values, self.valid)

    def detach(self) -> "KeyValues":
        """The same entries, cut from the graph of gradients."""
        keys, values = (tuple(tensor.detach() for tensor in side) for side in (self.keys, self.values))
        return replace(self, keys=keys, values=values)


@dataclass(frozen=True)
class Passed:
    """What a pass left of texts: the layers' inputs [B, L, T, E]; queries [B, H, T, D], keys and values [B, K, T, D]
    per layer, none of them rotated; positions and mask [B, T]."""

    inputs: Tensor
    queries: Layers
    keys: Layers
    values: Layers
    positions: Tensor
    mask: Tensor

    def rotated(self, decoder: Decoder, tensors: Layers) -> Layers:
        """Its queries or keys at the positions of their tokens."""
        return decoder.rotate(tensors, self.positions)


def read(decoder: Decoder, prefix: Prefix, ids: Tensor, mask: Tensor) -> Passed:
    """One pass over texts ids [B, T] long (mask [B, T] bool, false: padding on the right) that reads `prefix`."""
    tap = InputTap()
    reading, positions = decoder.start(prefix, mask[:, None])
    decoder.run(ids[:, None], positions, reading, tap)
    queries = tuple(
        project_queries(layer, inputs) for layer, inputs in zip(decoder.layers, tap.slots.unbind(1), strict=True)
    )
    return Passed(tap.slots, queries, *decoder.project(tap.slots), positions[:, 0], mask)


def preamble_of(decoder: Decoder, ids: list[int], batch: int) -> KeyValues:
    """New memories, which hold the start of a conversation alone; ids: its tokens, maybe none."""
    empty = decoder.empty_prefix(batch)
    valid = torch.ones(batch, len(ids), dtype=torch.bool, device=decoder.device)
    source = torch.full_like(valid, PREAMBLE, dtype=torch.long)
    if not ids:
        return KeyValues(empty.keys, empty.values, valid, source)
    passed = read(decoder, empty, torch.tensor(ids, device=decoder.device).expand(batch, -1), valid)
    return KeyValues(passed.keys, passed.values, valid, source)


def in_order(decoder: Decoder, keys: Layers, values: Layers, valid: Tensor) -> Prefix:
    """A prefix of entries [B, K, S, D] that are read one after another, where `valid` [B, S]."""
    return decoder.rotated(keys, values, valid, (valid.long().cumsum(-1) - 1).clamp(min=0))


def best(scores: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The `count` [B] long entries with the highest of `scores` [B, ..., S], the first ones among equals.

    Returns their indices [B, ..., n] long, in the entries' own order, and which of them count, [B, n] bool. Entries
    that must not be chosen have the score -inf; `count` is never more than the others.
    """
    entries, most = scores.shape[-1], int(count.max()) if count.numel() else 0
    order = scores.argsort(dim=-1, descending=True, stable=True)[..., :most]
    valid = torch.arange(most, device=scores.device) < count[:, None]
    spread = valid.view(len(valid), *(1,) * (scores.dim() - 2), most)
    index = order.masked_fill(~spread, entries).sort(dim=-1).values
    return index.clamp(max=max(entries - 1, 0)), valid
