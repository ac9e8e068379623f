"""A decoder with a latent memory: it writes a text into slots, and reads slots as a prefix of keys and values.

- A write is one pass of the decoder over the text. A tap (`taps.py`) takes the slots from it: the input of every layer
  at every token, or MemoryLLM's outputs at the last `tokens` places. Without training, and if the write reads all
  earlier slots, reading a memory of inputs gives the same answers as the text in the context.
- A read projects the slots to keys and values, once for each state. The decoder attends to them in front of a question.
- Keys are kept before rotation (`Memory.keys`), because eviction moves positions. A write projects only its own slots.
- With gates (`gates/gating.py`) only some segments of a text become slots, and stored segments may be dropped. Write
  gates look at the write's own pass. With a selector they look at one of their own, and learning to select changes no
  slot.
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
from gnm.models.gates.write import Decisions
from gnm.models.limits import Limited
from gnm.models.lora import use_adapter
from gnm.models.prefix import Prefix
from gnm.models.projected import Memory, at_layers, slots_at
from gnm.models.taps import InputTap, LayerTap, OutputTap
from gnm.models.tokens import TokenBatch
from gnm.models.write_settings import WriteSettings

MARKS = ("bos_embedding", "new_memory_positional_emb")


class MemoryLM(Limited):
    """Any decoder of the Llama shape with a latent memory.

    preamble: token ids that every conversation starts with; they are written into each new memory (tap: inputs).
    writer: name of the LoRA adapter that writes, None: the one that reads. selector: of the one with which write gates
    look at a text in a pass of their own, None: they look at the write's. start: slots [L, S, E] of a new memory.
    With tap: outputs it has the parameters of MemoryLLM: `bos_embedding` [L, 1, E], the slot in front of any pool
    that is not empty, and `new_memory_positional_emb` [1, 1, E], which marks the places that become slots.
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
        self.gating = Gating(decoder, write.gates, selector is not None) if write.gates else None

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Its parameters beside the decoder and the adapters: MemoryLLM's two with tap: outputs, and those of gates."""
        own = {name: getattr(self, name) for name in MARKS if self.write_settings.tap == "outputs"}
        return own | (dict(self.gating.named_parameters()) if self.gating else {})

    @property
    def revises(self) -> bool:
        """Whether it has keep gates."""
        return self.gating is not None and self.gating.keep_gate is not None

    def initial(self, seeds: Tensor) -> Memory:
        """New memories, one for each of `seeds` [B] long. They hold the preamble's slots, or the starting pool."""
        decoder, batch = self.decoder, seeds.shape[0]
        ids = torch.tensor([[self.preamble]], dtype=torch.long, device=decoder.device)
        source = PREAMBLE
        if self.start is not None:
            slots, source = self.start[None].to(decoder.device, decoder.dtype), MIXED
        elif ids.numel():
            tap = InputTap()
            with self._writing():
                decoder.read(decoder.empty_prefix(1), ids, torch.ones_like(ids, dtype=torch.bool), tap)
            slots = tap.slots
        else:
            size = (1, len(decoder.layers), 0, decoder.config.hidden_size)
            slots = torch.empty(size, dtype=decoder.dtype, device=decoder.device)
        keys, values = (tuple(tensor.expand(batch, -1, -1, -1) for tensor in side) for side in decoder.project(slots))
        valid = torch.ones(batch, slots.shape[2], dtype=torch.bool, device=decoder.device)
        source = torch.full_like(valid, source, dtype=torch.long)
        state = MemoryState(slots.expand(batch, -1, -1, -1), valid, source, seeds.to(decoder.device))
        if self.write_settings.gates:
            ones = torch.ones(valid.shape, device=decoder.device)
            state = replace(state, strength=ones, segment=torch.full_like(source, -1))
        return Memory(state, keys, values)

    def attach(self, state: MemoryState) -> Memory:
        """The memory of a `state`: its slots are projected to keys and values."""
        return Memory(state, *self.decoder.project(state.slots))

    def write(self, memory: Memory, text: TokenBatch, instructions: TokenBatch | None = None) -> Memory:
        """The memories after one more text each; `memory` itself stays as it was.

        text: what is written, one text per row. instructions: needed with keep gates only, the instructions of the
        texts by themselves.
        Raises MemoryFileError if a text is longer than the pool, or if memory and question together would take more
        positions than the decoder attends over.
        """
        ids, mask = text.ids, text.mask
        self.check_text(int(mask.sum(-1).max()))
        if self._keeps_all:
            self._check_readable(self._reach_with(memory.state, mask.sum(-1)))
        gated, decisions, memory = {}, None, replace(memory, kept=None)
        with self._writing():
            if self.write_settings.tap == "outputs":
                slots, valid = self._outputs(memory, ids, mask)
            else:
                slots, valid = self._inputs(memory, ids, mask), mask
            if self.gating:
                if self.selector:
                    told = self.gating.told(slots[:, self.gating.layer], text.segment)
                    decisions = replace(self.decisions(text), told=told)
                else:
                    decisions = self.gating.decide(memory.state, slots[:, self.gating.layer], text.segment, self._most)
                if self.revises:
                    memory = self._revised(memory, self._taken_back(memory, instructions), (slots, decisions))
                index, valid = pack(decisions.stored)
                gated = {"strength": self.gating.read_strength(decisions), "segment": text.segment}
                gated = {name: tensor.gather(1, index) for name, tensor in gated.items()}
                if self.write_settings.gates.reread:
                    slots = self._reread(memory, text, decisions.stored)
                else:
                    slots = slots_at(slots, index)
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
        """What the write gates decide on one text per row, where a write reads nothing of the pool.

        Nothing is written, and the layers above the gates' are not run: this takes a fraction of a write's time.
        """
        tap = LayerTap(self.gating.layer, ends_before=self.gating.layer)
        with self._selecting():
            memory = self.initial(torch.zeros(len(text), dtype=torch.long))
            self.decoder.read(self._preamble_of(memory), text.ids[:, None], text.mask[:, None], tap)
            return self.gating.decide(memory.state, tap.seen[:, 0], text.segment, self._most)

    def revoke(self, memory: Memory, instructions: TokenBatch) -> Memory:
        """The memories without what one instruction per row takes back. Nothing is written.

        Raises TypeError without keep gates.
        """
        if not self.revises:
            raise TypeError("a memory without keep gates (write.gates.revise) takes nothing back")
        with self._writing():
            return self._revised(memory, self._taken_back(memory, instructions))

    def revoking(self, instructions: TokenBatch) -> Tensor:
        """Whether each of B instructions takes anything back: logits [B], yes from 0 on."""
        memory = self.initial(torch.zeros(len(instructions), dtype=torch.long))
        with self._writing():
            return self.gating.revoking(self.decoder, self._preamble_of(memory), instructions)[1]

    def prefix(self, memory: Memory) -> Prefix:
        """What questions attend to: the slots' values, and their keys, rotated to the slots' present positions."""
        return self._prefix(memory.keys, memory.values, memory.state)

    def _inputs(self, memory: Memory, ids: Tensor, mask: Tensor) -> Tensor:
        """Layer inputs of ids [B, T]: [B, L, T, E]."""
        tap = InputTap()
        self.decoder.read(self._read_by_write(memory), ids[:, None], mask[:, None], tap)
        return tap.slots

    def _reread(self, memory: Memory, text: TokenBatch, stored: Tensor) -> Tensor:
        """Layer inputs of the `stored` [B, T] tokens in a second reading, without the rest of the document.

        Packed to the left: [B, L, S', E].
        """
        index, mask = pack(stored | (text.mask & ~text.is_document))
        slots = self._inputs(memory, text.ids.gather(1, index), mask)
        return slots_at(slots, pack(stored.gather(1, index) & mask)[0])

    def _with_room(self, memory: Memory, new: Tensor) -> Memory:
        """The memory before `new` [B] slots join it. A long-term store makes room here; else `append` evicts."""
        return memory

    def _revised(self, memory: Memory, revoked: Tensor, new: tuple[Tensor, Decisions] | None = None) -> Memory:
        """The memory without slots that are `revoked` [B, S], and without those that a `new` text states anew.

        new: the text's layer inputs, and the decisions on it; None: there is no text.
        """
        state = memory.state
        if new is not None:
            return _kept(memory, self.gating.restated(state, *new, revoked))
        return _kept(memory, Kept(torch.full_like(state.strength, torch.inf), revoked, state.source, state.segment))

    def _taken_back(self, memory: Memory, instructions: TokenBatch) -> Tensor:
        """How far instructions take each slot back, [B, S] float32 in [0, 1]."""
        return self.gating.taken_back(self.decoder, self._preamble_of(memory), memory.state, instructions)

    def _outputs(self, memory: Memory, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """MemoryLLM's slots of ids [B, T]: [B, L, tokens, E], and which count [B, tokens] bool.

        A text shorter than `tokens` takes the pool's last slots along, so that it gives `tokens` slots all the same.
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
        """What a write reads, without the last `reused` [B] slots, which it takes along instead."""
        reads, state = self.write_settings.reads, memory.state
        if reads == "all" and reused is None and self.writer is None:
            return self.prefix(memory)
        visible = state.source == PREAMBLE
        if reads != "nothing":
            from_end = state.from_end()
            last = state.valid if reads == "all" else from_end <= reads
            visible = visible | (last if reused is None else last & (from_end > reused[:, None]))
        return self._prefix_of(memory, visible)

    def _preamble_of(self, memory: Memory) -> Prefix:
        """What the writer reads of a memory's preamble alone."""
        return self._prefix_of(memory, memory.state.source == PREAMBLE)

    def _prefix_of(self, memory: Memory, visible: Tensor) -> Prefix:
        """What the writer reads of the slots where `visible` [B, S]."""
        if self.writer is None:
            seen = memory.select(visible)
        else:  # the kept keys are the reader's
            seen = self.attach(memory.state.select(visible)[0])
        return self._prefix(seen.keys, seen.values, seen.state)

    def _prefix(self, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], state: MemoryState) -> Prefix:
        """Keys and values of the slots of `state`, and of `bos_embedding` in front where the pool is not empty."""
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
    def _selecting(self) -> Iterator[None]:
        """The adapter with which the gates look at a text, with gradient if writing has it."""
        with self._writing(), use_adapter(self.decoder.model, self.selector):
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The writer's adapter, with gradient if it is asked for."""
        through = torch.is_grad_enabled() and self.gradient_through_writing
        with torch.set_grad_enabled(through), use_adapter(self.decoder.model, self.writer):
            yield


def _kept(memory: Memory, kept: Kept) -> Memory:
    """The memory without the slots that are not kept, the others as strong as they still are."""
    gates = kept.gates
    state = replace(memory.state, strength=memory.state.strength * gates)
    memory = replace(memory, state=state, decisions=None, kept=kept)
    return memory if bool((gates >= 0.5).all()) else memory.select(gates >= 0.5)
