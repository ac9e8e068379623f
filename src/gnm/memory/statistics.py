"""What a memory holds in numbers, document by document: for `gnm inspect --stats` and figures of a stream."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gnm.memory.state import MemoryState


@dataclass(frozen=True)
class DocumentStatistics:
    """Numbers of one document.

    age: documents written since. pool, stored: its slots in the pool and in the long-term store. strength: the mean of
    its slots' gates, None without gates. evicted: its segments that left the pool and are stored. retrieved: how often
    questions of a conversation read one of these. merged: how often other documents stated the same.
    """

    number: int
    age: int
    pool: int
    stored: int
    strength: float | None
    evicted: int
    retrieved: int
    merged: int


def statistics(state: MemoryState, row: int = 0) -> list[DocumentStatistics]:
    """The numbers of every document that the memory of row `row` has a slot of, oldest first."""
    source, valid = state.source[row].cpu(), state.valid[row].cpu()
    store = state.store[row] if state.store else None
    found = []
    for number in state.documents(row):
        own = valid & (source == number)
        strengths = [] if state.strength is None else [state.strength[row].cpu()[own].float()]
        stored, evicted, retrieved, merged = 0, 0, 0, 0
        if store:
            away = store.source == number
            sizes = store.lengths[away]
            strengths.append(store.strength[away].repeat_interleave(sizes))
            stored, evicted, retrieved = int(sizes.sum()), int(away.sum()), int(store.retrieved[away].sum())
            merged = int(store.duplicates.times(len(store))[away].sum()) - evicted
        strength = float(torch.cat(strengths).mean()) if strengths else None
        age = state.written - 1 - number
        found.append(DocumentStatistics(number, age, int(own.sum()), stored, strength, evicted, retrieved, merged))
    return found


def as_text(rows: Sequence[DocumentStatistics], state: MemoryState) -> str:
    """A table for people: a line a document, and what all of them come to."""
    heading = f"{'document':>8s}{'age':>6s}{'pool':>8s}{'stored':>8s}{'strength':>10s}{'evicted':>9s}{'retrieved':>11s}"
    heading += f"{'merged':>8s}"
    lines = [heading]
    for each in rows:
        strength = "-" if each.strength is None else f"{each.strength:.2f}"
        lines.append(
            f"{each.number:8d}{each.age:6d}{each.pool:8d}{each.stored:8d}{strength:>10s}{each.evicted:9d}"
            f"{each.retrieved:11d}{each.merged:8d}"
        )
    pool, stored, evicted, retrieved, merged = (
        sum(getattr(each, name) for each in rows) for name in ("pool", "stored", "evicted", "retrieved", "merged")
    )
    lines.append(f"{'all':>8s}{'':6s}{pool:8d}{stored:8d}{'':10s}{evicted:9d}{retrieved:11d}{merged:8d}")
    if state.store:
        lines.append(f"long-term store: {sum(own.bytes for own in state.store) / 1e6:.1f} MB")
    return "\n".join(lines)
