"""A decoder with a latent memory: it writes a text into slots, and reads slots as a prefix of keys and values.

- A write is one pass of the decoder over the text, from which a tap (`taps.py`) takes the slots. With `tap: inputs`
  they are the input of every layer at every token. With `tap: outputs` they are the output of every layer at the last
  `write.tokens` places, as in MemoryLLM.
- A memory of inputs whose writes read all earlier slots needs no training to answer as with the texts in the context.
- A question attends to keys and values of the slots. Each slot is projected once, at the end of its write (or by
  `attach`). Keys are kept without rotation: after an eviction a slot is read at another position.
- With gates (`gates/gating.py`) only some segments of a text become slots, and stored segments may be dropped. The
  write gates read the hidden states of the write's pass; with a selector, an adapter of their own, those of an extra
  pass. So training the selector does not change what the slots hold.

Shape letters: B states, L layers, S slots of the pool, T tokens of a text, E hidden size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from gnm.memory.pool import PoolSettings, append, repeated
from gnm.memory.state import MIXED, PREAMBLE, MemoryState, pack
from gnm.models.decoder import Decoder
from gnm.models.gates.gating import Gating
from gnm.models.gates.keep import Kept
from gnm.models.gates.write import Decisions, segment_ends
from gnm.models.limits import Limited
from gnm.models.lora import use_adapter
from gnm.models.prefix import Prefix
from gnm.models.projected import Memory, at_layers, slots_at
from gnm.models.taps import InputTap, LayerTap, OutputTap
from gnm.models.tokens import TokenBatch
from gnm.models.write_settings import WriteSettings

MARKS = ("bos_embedding", "new_memory_positional_emb")  # MemoryLLM's own parameters, as its checkpoints name them


class MemoryLM(Limited):
    """A decoder with a latent memory; any of the families in `families.py`.

    preamble: token ids that every conversation starts with; they are written into each new memory (tap: inputs).
    gradient_through_writing: whether the loss of answers reaches the pass that wrote the slots.
    writer: name of the LoRA adapter that writes; None: the active one, which also reads.
    selector: name of the LoRA adapter in the extra passes of write and about gates; None: they use the writer's.
    start: trained slots [L, S, E] that a new memory begins with; None: it begins with the preamble's.
    With tap: outputs it has MemoryLLM's two parameters. `bos_embedding` [L, 1, E] is read as a slot in front of the
    pool, unless the pool is empty. `new_memory_positional_emb` [1, 1, E] is added at the places that become slots.

        memory = lm.write(lm.initial(torch.tensor([0])), text)
        prefix = lm.prefix(memory)  # what questions attend to
    """

    def __init__(
        self,
        decoder: Decoder,
        preamble: list[int],
        pool: PoolSettings,
        write: WriteSettings,
        gradient_through_writing: bool = True,
        writer: str | None = None,
        start: Tensor | None = None,
        selector: str | None = None,
    ):
        super().__init__()
        self.decoder, self.preamble, self.pool, self.write_settings = decoder, preamble, pool, write
        self.gradient_through_writing, self.writer, self.start = gradient_through_writing, writer, start
        self.selector = selector
        if write.tap == "outputs":
            layers, size = len(decoder.layers), decoder.config.hidden_size
            self.bos_embedding = nn.Parameter(torch.zeros(layers, 1, size, device=decoder.device))
            self.new_memory_positional_emb = nn.Parameter(torch.zeros(1, 1, size, device=decoder.device))
        self.gating = Gating(decoder, write.gates) if write.gates else None

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Its parameters without the decoder's and the adapters': MemoryLLM's two with tap: outputs, and the gates'."""
        own = {name: getattr(self, name) for name in MARKS if self.write_settings.tap == "outputs"}
        return own | (dict(self.gating.named_parameters()) if self.gating else {})

    @property
    def revises(self) -> bool:
        """Whether it has keep gates, which drop stored segments (`write.gates.revise`)."""
        return self.gating is not None and self.gating.keep_gate is not None

    def initial(self, seeds: Tensor) -> Memory:
        """New memories, one for each of `seeds` [B] long. They hold the preamble's slots, or those of `start`."""
        decoder, batch, slots = self.decoder, seeds.shape[0], self._blank_slots()
        if self.start is not None:
            slots = self.start[None].to(slots)
        elif self.preamble:
            ids, tap = torch.tensor([[self.preamble]], device=decoder.device), InputTap()
            with self._writing():
                decoder.read(decoder.empty_prefix(1), ids, torch.ones_like(ids, dtype=torch.bool), tap)
            slots = tap.slots
        keys, values = (tuple(tensor.expand(batch, -1, -1, -1) for tensor in side) for side in decoder.project(slots))
        return Memory(self._new_state(slots, seeds), keys, values)

    def blank(self) -> MemoryState:
        """A new memory, a batch of one, with zeros for its slots: it takes no pass of the decoder."""
        return self._new_state(self._blank_slots(), torch.zeros(1, dtype=torch.long))

    def _blank_slots(self) -> Tensor:
        """Zeros of the shape and dtype of a new memory's slots, [1, L, S, E]."""
        decoder, count = self.decoder, len(self.preamble) if self.start is None else self.start.shape[1]
        size = (1, len(decoder.layers), count, decoder.config.hidden_size)
        return torch.zeros(size, dtype=decoder.dtype, device=decoder.device)

    def _new_state(self, slots: Tensor, seeds: Tensor) -> MemoryState:
        """The state of new memories, one for each of `seeds` [B] long, which all hold `slots` [1, L, S, E]."""
        batch, device = seeds.shape[0], self.decoder.device
        valid = torch.ones(batch, slots.shape[2], dtype=torch.bool, device=device)
        source = torch.full_like(valid, PREAMBLE if self.start is None else MIXED, dtype=torch.long)
        state = MemoryState(slots.expand(batch, -1, -1, -1), valid, source, seeds.to(device))
        if not self.write_settings.gates:
            return state
        return replace(state, strength=valid.float(), segment=torch.full_like(source, -1))

    def attach(self, state: MemoryState) -> Memory:
        """The memory of a `state`, such as one from a file: all its slots are projected to keys and values."""
        return Memory(state, *self.decoder.project(state.slots))

    def write(self, memory: Memory, text: TokenBatch) -> Memory:
        """The memories after one more text each, a document with its instruction; `memory` itself stays as it was.

        Raises MemoryFileError if a text is longer than the pool, or if memory and question together would take more
        positions than the decoder attends over.
        """
        ids, mask = text.ids, text.mask
        self.check_text(int(mask.sum(-1).max()))
        if self._keeps_all:
            self._check_readable(self._reach_with(memory.state, mask.sum(-1)))  # all tokens become slots
        gated, decisions, memory = {}, None, replace(memory, kept=None)
        with self._writing():
            if self.write_settings.tap == "outputs":
                slots, valid = self._outputs(memory, ids, mask)
            else:
                slots, valid = self._inputs(memory, ids, mask), mask
            if self.gating:
                if self.selector:
                    decisions = self.decisions(text)
                else:
                    decisions = self.gating.decide(memory.state, slots[:, self.gating.layer], text, self._most)
                if self.revises:
                    memory = self._replaced(memory, slots, decisions)
                index, valid = pack(decisions.stored)
                gated = {"strength": self.gating.read_strength(decisions), "segment": text.segment}
                gated = {name: tensor.gather(1, index) for name, tensor in gated.items()}
                if self.write_settings.gates.reread:
                    slots = self._reread(memory, text, decisions.stored)
                else:
                    slots = slots_at(slots, index)
                if self.gating.refuse_gate:
                    refused = decisions.refused.where(text.is_document, 0.0).gather(1, index)
                    slots = self.gating.refuse_gate(slots, refused)
        if self.pool.fill:
            index, valid = repeated(memory.state, valid, self.pool)
            slots = slots_at(slots, index)
        memory = self._with_room(memory, valid.sum(-1))
        state, left = append(memory.state, slots, valid, self.pool, **gated)
        self.check_state(state)
        sides = []
        for old, new in zip((memory.keys, memory.values), self.decoder.project(slots), strict=True):
            old = old if left is None else at_layers(old, left)
            sides.append(tuple(torch.cat(pair, dim=2) for pair in zip(old, new, strict=True)))
        return Memory(state, *sides, decisions, memory.kept)

    def decisions(self, text: TokenBatch) -> Decisions:
        """What the write gates decide on one text per row, without a write: the pass ends at the gates' layer, and does
        not read the pool (as with `write.reads: nothing`)."""
        tap = LayerTap(self.gating.layer, ends_before=self.gating.layer)
        with self._selecting(len(text)) as (state, preamble):
            self.decoder.read(preamble, text.ids[:, None], text.mask[:, None], tap)
            return self.gating.decide(state, tap.seen[:, 0], text, self._most)

    def about(self, text: TokenBatch, instructions: TokenBatch) -> Tensor:
        """What one instruction per row would take back of a text, if all of it were stored: logits [B, G] float32.
        Those of segments that a row lacks mean nothing."""
        tap = LayerTap(0, ends_before=0)  # takes the slots that a write would store in the first layer
        with self._selecting(len(text)) as (state, preamble):
            self.decoder.read(preamble, text.ids[:, None], text.mask[:, None], tap)
            source = torch.zeros_like(text.ids)  # of a document, not of the preamble
            state = replace(state, slots=tap.seen, valid=text.mask, source=source, segment=text.segment)
            logits = self.gating.about(self.decoder, preamble, state, instructions)
        return logits.gather(1, segment_ends(text.segment, int(text.segment.max()) + 1))

    def revoke(self, memory: Memory, instructions: TokenBatch) -> Memory:
        """The memories without the segments that one instruction per row takes back. Nothing is written.

        Raises TypeError without keep gates.
        """
        if not self.revises:
            raise TypeError("a memory without keep gates (write.gates.revise) takes nothing back")
        with self._writing(), self._selecting(memory.state.batch) as (_, preamble):
            return self._without(memory, self.gating.about(self.decoder, preamble, self._stored(memory), instructions))

    def prefix(self, memory: Memory) -> Prefix:
        """What questions attend to: the slots' values, and their keys, rotated to the slots' present positions."""
        return self._prefix(memory.keys, memory.values, memory.state)

    def _inputs(self, memory: Memory, ids: Tensor, mask: Tensor) -> Tensor:
        """The input of every layer at the tokens ids [B, T], in a pass of the writer: [B, L, T, E]."""
        tap = InputTap()
        self.decoder.read(self._read_by_write(memory), ids[:, None], mask[:, None], tap)
        return tap.slots

    def _reread(self, memory: Memory, text: TokenBatch, stored: Tensor) -> Tensor:
        """Layer inputs of the `stored` [B, T] tokens, packed to the left: [B, L, S', E]. They are from a second pass,
        over instruction and stored tokens alone."""
        index, mask = pack(stored | (text.mask & ~text.is_document))
        slots = self._inputs(memory, text.ids.gather(1, index), mask)
        return slots_at(slots, pack(stored.gather(1, index) & mask)[0])

    def _with_room(self, memory: Memory, new: Tensor) -> Memory:
        """The memory before `new` [B] slots join it: unchanged here, as `append` evicts. LongTermLM overrides this."""
        return memory

    def _replaced(self, memory: Memory, slots: Tensor, decisions: Decisions) -> Memory:
        """The memory without the slots that a new text states anew; `slots` [B, L, T, E] are its layer inputs."""
        return memory.revised(self.gating.restated(memory.state, slots, decisions))

    def _stored(self, memory: Memory) -> MemoryState:
        """All that an instruction can take back. LongTermLM overrides this."""
        return memory.state

    def _without(self, memory: Memory, taken: Tensor) -> Memory:
        """The memory without the slots that are taken back. taken: the about gates' logits [B, S]."""
        return memory.revised(Kept(-taken, memory.state.source, memory.state.segment))

    def _outputs(self, memory: Memory, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """MemoryLLM's slots of ids [B, T]: [B, L, N, E], and which of them are no padding, [B, N] bool.

        N is `write.tokens`. In front of a shorter text the pass reads the pool's last slots as if they were tokens, so
        that the text gives N slots all the same.
        """
        tokens, state = self.write_settings.tokens, memory.state
        length = mask.sum(-1)
        reused = torch.minimum((tokens - length).clamp(min=0), state.used())
        old, old_valid = pack(state.valid & (state.from_end() <= reused[:, None]))
        place = torch.arange(int((reused + length).max()), device=mask.device) - reused[:, None]
        ids = ids.gather(1, place.clamp(0, ids.shape[1] - 1))
        mask = place < length[:, None]
        mark = self.new_memory_positional_emb[0, 0].to(self.decoder.dtype)
        tap = OutputTap(mask, tokens, mark, slots_at(state.slots, old), old_valid, state.used() == 0)
        self.decoder.read(self._read_by_write(memory, reused), ids[:, None], mask[:, None], tap)
        return tap.slots, tap.valid

    def _read_by_write(self, memory: Memory, reused: Tensor | None = None) -> Prefix:
        """What a write attends to (`write.reads`), without the last `reused` [B] slots, which are in its own pass."""
        reads, state = self.write_settings.reads, memory.state
        if reads == "all" and reused is None and self.writer is None:
            return self.prefix(memory)
        visible = state.source == PREAMBLE
        if reads != "nothing":
            from_end = state.from_end()
            last = state.valid if reads == "all" else from_end <= reads
            visible = visible | (last if reused is None else last & (from_end > reused[:, None]))
        return self._prefix_of(memory, visible)

    def _prefix_of(self, memory: Memory, visible: Tensor) -> Prefix:
        """A prefix of the slots where `visible` [B, S] bool is true, for a pass of the writer."""
        if self.writer is None:
            seen = memory.select(visible)
        else:  # memory.keys were projected with the reader's adapter; the writer needs its own
            seen = self.attach(memory.state.select(visible)[0])
        return self._prefix(seen.keys, seen.values, seen.state)

    def _prefix(self, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], state: MemoryState) -> Prefix:
        """The prefix of the slots of `state`, behind `bos_embedding` if the tap is `outputs` and the pool not empty.

        With gates, the logarithm of a slot's strength is added to its attention scores.
        """
        valid, positions = state.valid, state.positions(self.pool.positions == "shared")
        bias = None if state.strength is None else state.strength.log()
        if self.write_settings.tap == "outputs":
            bos = self.bos_embedding.to(self.decoder.dtype).expand(state.batch, -1, -1, -1)
            front = self.decoder.project(bos)
            keys, values = (
                tuple(torch.cat(pair, dim=2) for pair in zip(*side, strict=True))
                for side in zip(front, (keys, values), strict=True)
            )
            used = state.used()[:, None] > 0
            valid = torch.cat((used, valid), dim=1)
            positions = nn.functional.pad(positions + used, (1, 0))
        return self.decoder.rotated(keys, values, valid, positions, bias)

    @contextmanager
    def _selecting(self, batch: int) -> Iterator[tuple[MemoryState, Prefix]]:
        """Run a block with the selector, for the gates' extra passes; with gradient as in `_writing`. The block gets
        new states of `batch` rows and a prefix of their preamble."""
        with self._writing(), use_adapter(self.decoder.model, self.selector):
            memory = self.initial(torch.zeros(batch, dtype=torch.long))
            yield memory.state, self._prefix_of(memory, memory.state.source == PREAMBLE)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Run a block with the writer's adapter; with gradient if it is enabled and `gradient_through_writing`."""
        through = torch.is_grad_enabled() and self.gradient_through_writing
        with torch.set_grad_enabled(through), use_adapter(self.decoder.model, self.writer):
            yield
