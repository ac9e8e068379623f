"""The memories before the last changes, to go back to."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import torch

from gnm.memory.state import MemoryState


class History:
    """States and their notes, the newest last, at most `most` of them.

    States are kept on the CPU: a GPU holds one memory. A state that a later one goes on from shares its slots, so
    that writing N documents keeps their slots once, not N times.
    """

    def __init__(self, most: int):
        self.most = most
        self._kept: deque[tuple[MemoryState, dict]] = deque(maxlen=most)

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[MemoryState]:
        """The states, oldest first."""
        return (state for state, _ in self._kept)

    def copy(self) -> "History":
        """The same history, to be changed on its own."""
        other = History(self.most)
        other._kept.extend(self._kept)
        return other

    def push(self, state: MemoryState, notes: dict) -> None:
        """Add a state; the oldest goes if there are too many."""
        state = state.to("cpu")
        if self._kept:
            self._share(self._kept[-1][0].slots, state.slots)
        self._kept.append((state, notes))

    def _share(self, old: torch.Tensor, new: torch.Tensor) -> None:
        """If the slots `old` are the first of `new`, let every state that holds (part of) `old` hold part of `new`."""
        if not torch.equal(new[:, :, : old.shape[2]], old):
            return
        for place, (state, notes) in enumerate(self._kept):
            if state.slots.data_ptr() == old.data_ptr():
                self._kept[place] = (replace(state, slots=new[:, :, : state.slots.shape[2]]), notes)

    def pop(self) -> tuple[MemoryState, dict] | None:
        """Take the newest state and its notes; None if there is none."""
        if not self._kept:
            return None
        state, notes = self._kept.pop()
        return replace(state, slots=state.slots.contiguous()), notes  # a copy, if it was part of a later one

    def clear(self) -> None:
        """Drop all of them."""
        self._kept.clear()
