"""What a memory can hold and its decoder can read: told before a text is written."""

from torch import Tensor, nn

from gnm.errors import MemoryFileError
from gnm.memory.pool import PoolSettings, check_fits
from gnm.memory.state import PREAMBLE, MemoryState
from gnm.models.decoder import Decoder
from gnm.models.write_settings import WriteSettings

QUESTION_ROOM = 128
"""Positions of the decoder's window that a write leaves free, for a question and its answer."""


class Limited(nn.Module):
    """The limits of a memory model, from its decoder's window, its pool and how it writes.

    preamble: token ids that every conversation starts with.
    """

    decoder: Decoder
    preamble: list[int]
    pool: PoolSettings
    write_settings: WriteSettings

    def slots_of(self, tokens: int) -> int:
        """Slots that a text of `tokens` tokens must find in the pool; gates store what there is room for."""
        if self.write_settings.gates:
            return 0
        return tokens if self.write_settings.tokens is None else self.write_settings.tokens

    def check_text(self, tokens: int) -> None:
        """Raise MemoryFileError if a text of `tokens` tokens can never be written, or never be read."""
        check_fits(self.slots_of(tokens), self.pool)
        if tokens > self.room:
            raise MemoryFileError(
                f"a document with its instruction takes {tokens} tokens; {self.room} of the {self.decoder.window} "
                'positions that the decoder attends over are free for it: split the document (long="split", in the '
                "shell --long split), or shorten its instruction"
            )

    @property
    def room(self) -> int:
        """Tokens that one text may have."""
        free = self.decoder.window - len(self.preamble) - (self._room if self._keeps_all else 0)
        return free if self.pool.capacity is None or not self._keeps_all else min(free, self.pool.capacity)

    @property
    def _most(self) -> int | None:
        """Slots that one text may store, None: any number, as with a store for what is too much for the pool."""
        return None if self.pool.store else self.pool.capacity

    @property
    def _keeps_all(self) -> bool:
        """Whether every token of a text becomes a slot."""
        return self.write_settings.tap == "inputs" and not self.write_settings.gates

    @property
    def _room(self) -> int:
        """Positions that stay free for a question: no more than a quarter of a small window."""
        return min(QUESTION_ROOM, self.decoder.window // 4)

    def _reach_with(self, state: MemoryState, new: Tensor) -> int:
        """The positions that `state` takes at least with a document of `new` [B] slots."""
        if self.pool.positions == "in_order":
            new = state.used() + new
            new = new if self.pool.capacity is None else new.clamp(max=self.pool.capacity)
        return int(((state.valid & (state.source == PREAMBLE)).sum(-1) + new).max())

    def _reach(self, state: MemoryState) -> int:
        """The positions that the slots of `state` take."""
        after = (state.positions(self.pool.positions == "shared") + 1).masked_fill(~state.valid, 0)
        return (int(after.max()) if after.numel() else 0) + (self.write_settings.tap == "outputs")

    def check_state(self, state: MemoryState) -> None:
        """Raise MemoryFileError if `state` leaves no room for a question: it could never be read."""
        self._check_readable(self._reach(state))

    def _check_readable(self, positions: int) -> None:
        """Raise MemoryFileError if a memory that takes so many positions leaves no room for a question."""
        if positions + self._room > self.decoder.window:
            raise MemoryFileError(
                f"the memory would take {positions} positions, and a question up to {self._room}; the "
                f"decoder attends over {self.decoder.window}: forget a document first, start another memory, or use a "
                "smaller pool (memory.capacity, in the shell --capacity)"
            )
