"""A decoder with a latent memory: writing a text into slots, reading slots through a key/value prefix.

- A write is one pass of the decoder over the text; what a tap takes of it become the slots (`taps.py`): the input of
  every layer at every token, or MemoryLLM's outputs at the last `tokens` places. Untrained, a memory of inputs is the
  same function as the text in the context (if the write reads everything).
- A read projects slots to keys and values once per state and hands them to the decoder as a prefix.
- Keys are kept unrotated beside the state (`Memory.keys`), because eviction moves positions; a write projects only
  its own slots.
- With write gates only what the instruction makes worth storing becomes slots (`gates.py`); with keep gates stored
  segments go that a new document states anew (`keep.py`) or its instruction takes back (`revoke.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from gnm.config import StrictModel
from gnm.memory.pool import PoolSettings, append, check_fits, random_order, repeated
from gnm.memory.state import HEAD, MIXED, MemoryState, pack
from gnm.models.attention import Prefix
from gnm.models.decoder import Decoder
from gnm.models.gates import OPEN, SHUT, Decisions, GateSettings, LinearGate, decide, gate_layer, segment_ends
from gnm.models.keep import KeepGate, Kept, keep
from gnm.models.lora import use_adapter
from gnm.models.revoke import about, instructed
from gnm.models.taps import InputTap, OutputTap

MARKS = ("bos_embedding", "new_memory_positional_emb")


class WriteSettings(StrictModel):
    """What a write reads of the pool: "nothing", "all", or the number of its last slots; and what it leaves there.

    gates: which segments of a document it stores, None: all.
    """

    reads: Literal["nothing", "all"] | int = "nothing"
    tap: Literal["inputs", "outputs"] = "inputs"
    tokens: int | None = Field(None, gt=0, description="slots of a document, with tap: outputs")
    gates: GateSettings | None = None

    @field_validator("reads")
    @classmethod
    def _positive(cls, reads):
        if isinstance(reads, int) and reads < 1:
            raise ValueError("a number of slots to read must be positive; use 'nothing' to read none")
        return reads

    @model_validator(mode="after")
    def _slots_of_a_document(self) -> "WriteSettings":
        if (self.tap == "outputs") != (self.tokens is not None):
            raise ValueError("write.tokens, the slots of a document, goes with write.tap: outputs, and only with it")
        if self.gates and self.tap == "outputs":
            raise ValueError("write.gates goes with write.tap: inputs; the other tap always writes write.tokens slots")
        return self


@dataclass(frozen=True)
class Memory:
    """A memory state with its slots' projections: keys (not rotated) and values, [B, K, S, D] per layer.

    decisions, kept: what gates decided on the document that was written last, and on the slots before it, if any do.
    """

    state: MemoryState
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    decisions: Decisions | None = None
    kept: Kept | None = None


class MemoryLM(nn.Module):
    """Any decoder of the Llama shape with a latent memory.

    head: token ids that every conversation starts with; they are written into each new memory (tap: inputs).
    writer: name of the LoRA adapter that writes, None: the one that reads. start: slots [L, S, E] of a new memory.
    With tap: outputs it has the parameters of MemoryLLM: `bos_embedding` [L, 1, E], the slot in front of any pool
    that is not empty, and `new_memory_positional_emb` [1, 1, E], which marks the places that become slots.
    """

    def __init__(
        self,
        decoder: Decoder,
        head: list[int],
        pool: PoolSettings,
        write: WriteSettings,
        gradient_through_writing: bool = True,
        writer: str | None = None,
        start: Tensor | None = None,
    ):
        super().__init__()
        self.decoder, self.head, self.pool, self.write_settings = decoder, head, pool, write
        self.gradient_through_writing, self.writer, self.start = gradient_through_writing, writer, start
        if write.tap == "outputs":
            layers, size = len(decoder.layers), decoder.config.hidden_size
            self.bos_embedding = nn.Parameter(torch.zeros(layers, 1, size, device=decoder.device))
            self.new_memory_positional_emb = nn.Parameter(torch.zeros(1, 1, size, device=decoder.device))
        learned = write.gates and write.gates.by == "gate"
        self.gate = LinearGate(decoder.config.hidden_size, decoder.device, OPEN) if learned else None
        self.gate_layer = gate_layer(write.gates, len(decoder.layers)) if learned else None
        revises = learned and write.gates.revise
        self.keep_gate = KeepGate(decoder.config.hidden_size, decoder.device) if revises else None
        self.revoke_gate = LinearGate(decoder.config.hidden_size, decoder.device, SHUT) if revises else None

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """What it has beside the decoder and its adapters: MemoryLLM's marks with tap: outputs, gates if it has any."""
        own = {name: getattr(self, name) for name in MARKS if self.write_settings.tap == "outputs"}
        for part in ("gate", "keep_gate", "revoke_gate"):
            gate = getattr(self, part)
            own |= {f"{part}.{name}": value for name, value in gate.named_parameters()} if gate else {}
        return own

    def initial(self, seeds: Tensor) -> Memory:
        """New memories, one for each of `seeds` [B] long: they hold the conversation's head, or the starting pool."""
        decoder, batch = self.decoder, seeds.shape[0]
        ids = torch.tensor([[self.head]], dtype=torch.long, device=decoder.device)
        source = HEAD
        if self.start is not None:
            slots, source = self.start[None].to(decoder.device, decoder.dtype), MIXED
        elif ids.numel():
            tap = InputTap()
            with self._writing():
                reading, positions = decoder.start(decoder.empty_prefix(1), torch.ones_like(ids, dtype=torch.bool))
                decoder.run(ids, positions, reading, tap)
            slots = tap.slots
        else:
            size = (1, len(decoder.layers), 0, decoder.config.hidden_size)
            slots = torch.empty(size, dtype=decoder.dtype, device=decoder.device)
        keys, values = (
            tuple(tensor.expand(batch, -1, -1, -1) for tensor in side) for side in decoder.project(slots)
        )
        valid = torch.ones(batch, slots.shape[2], dtype=torch.bool, device=decoder.device)
        source = torch.full_like(valid, source, dtype=torch.long)
        state = MemoryState(slots.expand(batch, -1, -1, -1), valid, source, seeds.to(decoder.device))
        if self.write_settings.gates:
            ones = torch.ones(valid.shape, device=decoder.device)
            state = replace(state, strength=ones, segment=torch.full_like(source, -1))
        return Memory(state, keys, values)

    def attach(self, state: MemoryState) -> Memory:
        """`state` with the keys and values of all its slots."""
        return Memory(state, *self.decoder.project(state.slots))

    def write(
        self,
        memory: Memory,
        ids: Tensor,
        mask: Tensor,
        segment: Tensor | None = None,
        told: tuple[Tensor, Tensor] | None = None,
    ) -> Memory:
        """Write one text per row: ids [B, T] long, mask [B, T] bool (false: padding on the right).

        segment: with gates, the number of each token's segment, [B, T] long, -1 for padding.
        told: with keep gates, ids and mask [B, T'] of the instructions alone.
        Raises MemoryFileError if a text is longer than the pool.
        """
        check_fits(self.slots_of(int(mask.sum(-1).max())), self.pool)
        gated, decisions, kept = {}, None, None
        with self._writing():
            if self.write_settings.gates:
                slots, decisions = self._gated(memory, ids, mask, segment)
                memory, kept = self._revised(memory, slots, decisions, told)
                index, valid = pack(decisions.stored)
                gated = {"strength": self._read_strength(decisions), "segment": segment}
                gated = {name: tensor.gather(1, index) for name, tensor in gated.items()}
                slots = _slots_at(slots, index)
            elif self.write_settings.tap == "inputs":
                slots, valid = self._inputs(memory, ids, mask), mask
            else:
                slots, valid = self._outputs(memory, ids, mask)
        if self.pool.fill:
            index, valid = repeated(memory.state, valid, self.pool)
            slots = _slots_at(slots, index)
        state, left = append(memory.state, slots, valid, self.pool, **gated)
        keys, values = memory.keys, memory.values
        if left is not None:
            keys, values = _of_slots(memory, left)
        new_keys, new_values = self.decoder.project(slots)
        return Memory(
            state,
            tuple(torch.cat(pair, dim=2) for pair in zip(keys, new_keys, strict=True)),
            tuple(torch.cat(pair, dim=2) for pair in zip(values, new_values, strict=True)),
            decisions,
            kept,
        )

    def revoke(self, memory: Memory, told: tuple[Tensor, Tensor]) -> Memory:
        """Drop what instructions take back, nothing is written; told: their ids and mask [B, T].

        Raises TypeError without keep gates.
        """
        if self.keep_gate is None:
            raise TypeError("a memory without keep gates (write.gates.revise) takes nothing back")
        state = memory.state
        with self._writing():
            holds = torch.full(state.valid.shape, torch.inf, device=state.valid.device)
            return self._kept(memory, Kept(holds, self._revoked(memory, told), state.source, state.segment))

    def revoking(self, told: tuple[Tensor, Tensor]) -> Tensor:
        """Whether instructions take anything back: logits [B]; told: their ids and mask [B, T]."""
        with self._writing():
            return self._told(self.initial(torch.zeros(len(told[0]), dtype=torch.long)), told)[1]

    def slots_of(self, tokens: int) -> int:
        """Slots that a text of `tokens` tokens must find in the pool; gates store what there is room for."""
        if self.write_settings.gates:
            return 0
        return tokens if self.write_settings.tokens is None else self.write_settings.tokens

    def prefix(self, memory: Memory) -> Prefix:
        """What queries of `memory` read: its slots' keys, rotated to their present positions, and values."""
        return self._prefix(memory.keys, memory.values, memory.state)

    def _inputs(self, memory: Memory, ids: Tensor, mask: Tensor) -> Tensor:
        """Layer inputs of ids [B, T]: [B, L, T, E]."""
        tap = InputTap()
        reading, positions = self.decoder.start(self._read_by_write(memory), mask[:, None])
        self.decoder.run(ids[:, None], positions, reading, tap)
        return tap.slots

    def _gated(self, memory: Memory, ids: Tensor, mask: Tensor, segment: Tensor) -> tuple[Tensor, Decisions]:
        """Layer inputs of ids [B, T], and what of them is stored."""
        slots = self._inputs(memory, ids, mask)
        count = int(segment.max()) + 1
        if self.gate is None:
            logits = _random_logits(memory.state, segment, count)
        else:
            logits = self.gate(_slots_at(slots[:, self.gate_layer, None], segment_ends(segment, count))[:, 0])
        return slots, decide(logits, segment, self.write_settings.gates, self.pool.capacity)

    def _revised(
        self, memory: Memory, slots: Tensor, decisions: Decisions, told: tuple[Tensor, Tensor] | None
    ) -> tuple[Memory, Kept | None]:
        """The memory after its slots met a new text, whose layer inputs [B, L, T, E] are `slots`, and its instruction;
        and what was decided on them."""
        if self.keep_gate is None:
            return memory, None
        holds = keep(self.keep_gate, self.gate_layer, memory.state, slots, decisions)
        revoked = torch.zeros_like(holds) if told is None else self._revoked(memory, told)
        memory = self._kept(memory, Kept(holds, revoked, memory.state.source, memory.state.segment))
        return memory, memory.kept

    def _kept(self, memory: Memory, kept: Kept) -> Memory:
        """The memory without the slots that are not kept, the others as strong as they still are."""
        state, gates = memory.state, kept.gates
        memory = replace(memory, state=replace(state, strength=state.strength * gates), decisions=None, kept=kept)
        if bool((gates >= 0.5).all()):
            return memory
        state, left = memory.state.select(gates >= 0.5)
        return Memory(state, *_of_slots(memory, left), kept=kept)

    def _revoked(self, memory: Memory, told: tuple[Tensor, Tensor]) -> Tensor:
        """How far the instructions take each slot back, [B, S] float32 in [0, 1]."""
        prefix, logits = self._told(memory, told)
        takes = logits >= 0
        if not bool(takes.any()):
            return torch.zeros_like(memory.state.strength)
        found = about(self.decoder, self.gate, self.gate_layer, prefix, memory.state)
        return (logits.sigmoid() * takes)[:, None] * found.sigmoid()

    def _told(self, memory: Memory, told: tuple[Tensor, Tensor]) -> tuple[Prefix, Tensor]:
        """A prefix of nothing but the instructions, and whether each takes anything back: logits [B]."""
        head = self._prefix_of(memory, memory.state.source == HEAD)
        prefix, ends = instructed(self.decoder, head, *told, self.gate_layer)
        return prefix, self.revoke_gate(ends)

    def _read_strength(self, decisions: Decisions) -> Tensor:
        """The strength [B, T] with which a document's tokens are read; random gates only choose."""
        return torch.ones_like(decisions.strength) if self.gate is None else decisions.strength

    def _outputs(self, memory: Memory, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """MemoryLLM's slots of ids [B, T]: [B, L, tokens, E], and which count [B, tokens] bool.

        A text shorter than `tokens` takes the pool's last slots along, so that it gives `tokens` slots all the same.
        """
        tokens, state = self.write_settings.tokens, memory.state
        length = mask.sum(-1)
        reused = torch.minimum((tokens - length).clamp(min=0), state.used())
        old, old_valid = pack(state.valid & (_from_end(state) <= reused[:, None]))
        place = torch.arange(int((reused + length).max()), device=mask.device) - reused[:, None]
        ids = ids.gather(1, place.clamp(0, ids.shape[1] - 1))
        mask = place < length[:, None]
        mark = self.new_memory_positional_emb[0, 0].to(self.decoder.dtype)
        tap = OutputTap(mask, tokens, mark, _slots_at(state.slots, old), old_valid, state.used() == 0)
        reading, positions = self.decoder.start(self._read_by_write(memory, reused), mask[:, None])
        self.decoder.run(ids[:, None], positions, reading, tap)
        return tap.slots, tap.valid

    def _read_by_write(self, memory: Memory, reused: Tensor | None = None) -> Prefix:
        """What a write reads, without the last `reused` [B] slots, which it takes along instead."""
        reads, state = self.write_settings.reads, memory.state
        if reads == "all" and reused is None and self.writer is None:
            return self.prefix(memory)
        visible = state.source == HEAD
        if reads != "nothing":
            from_end = _from_end(state)
            last = state.valid if reads == "all" else from_end <= reads
            visible = visible | (last if reused is None else last & (from_end > reused[:, None]))
        return self._prefix_of(memory, visible)

    def _prefix_of(self, memory: Memory, visible: Tensor) -> Prefix:
        """What the writer reads of the slots where `visible` [B, S]."""
        seen, index = memory.state.select(visible)
        if self.writer is None:
            keys, values = (tuple(_gather(t, index[:, 0]) for t in side) for side in (memory.keys, memory.values))
        else:  # the kept keys are the reader's
            keys, values = self.decoder.project(seen.slots)
        return self._prefix(keys, values, seen)

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
    def _writing(self) -> Iterator[None]:
        """The writer's adapter, with gradient if it is asked for."""
        through = torch.is_grad_enabled() and self.gradient_through_writing
        with torch.set_grad_enabled(through), use_adapter(self.decoder.model, self.writer):
            yield


def _random_logits(state: MemoryState, segment: Tensor, count: int) -> Tensor:
    """Random gates [B, count] for the segments [B, T] of the next document; each memory's own, whatever its batch."""
    logits = torch.zeros(segment.shape[0], count)
    for row, (seed, last) in enumerate(zip(state.seeds.tolist(), segment.amax(-1).tolist(), strict=True)):
        logits[row, : last + 1] = random_order(seed, state.written, last + 1).logit(eps=1e-6).float()
    return logits.to(segment.device)


def _from_end(state: MemoryState) -> Tensor:
    """The place of each valid slot counted from the last one, which is 1: [B, S] long."""
    return state.valid.flip(-1).long().cumsum(-1).flip(-1)


def _slots_at(slots: Tensor, index: Tensor) -> Tensor:
    """Slots `index` [B, S'] of [B, L, S, E], in every layer."""
    return slots.gather(2, index[:, None, :, None].expand(-1, slots.shape[1], -1, slots.shape[3]))


def _of_slots(memory: Memory, index: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Keys and values of the slots `index` [B, L, S']."""
    keys, values = (
        tuple(_gather(tensor, index[:, layer]) for layer, tensor in enumerate(side))
        for side in (memory.keys, memory.values)
    )
    return keys, values


def _gather(tensor: Tensor, index: Tensor) -> Tensor:
    """Entries `index` [B, S'] of [B, K, S, D] along S."""
    return tensor.gather(2, index[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3]))
