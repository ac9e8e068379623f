"""A latent memory whose pool moves whole segments into a long-term store instead of dropping them.

- Each question reads the pool, and the few segments of the store that are nearest to it.
- A segment and a question are compared by their search keys (`search_keys.py`).
- The segments that a question finds are read in their old order among the pool's slots. A question that finds all
  segments reads what it would read of a pool without a limit, bit for bit.
- A segment's entry holds, for each slot, its keys (not rotated) and values in every layer, and its input of the first
  layer: an instruction that takes something back needs it to read the segment once more (`gates/revoke.py`).

Shape letters: B states, L layers, K key/value heads, S slots of the pool, D head size, E hidden size, N stored
segments, n questions, T tokens, R slots from the store, P numbers in the entry of a slot.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from zlib import crc32

import torch
from torch import Tensor

from gnm.memory.consolidation import words_of
from gnm.memory.pool import evicted_segments, random_order
from gnm.memory.search import nearest, uses_index
from gnm.memory.state import MemoryState
from gnm.memory.store import LongTermStore
from gnm.memory.store_settings import StoreSettings
from gnm.models.gates.keep import segment_means
from gnm.models.gates.write import Decisions
from gnm.models.memory_lm import MemoryLM
from gnm.models.prefix import Prefix
from gnm.models.projected import Memory
from gnm.models.retriever import Retriever
from gnm.models.search_keys import SearchKeys
from gnm.models.stored_slots import StoredSlots, in_order, order_by_age
from gnm.models.tokens import TokenBatch


class LongTermLM(MemoryLM):
    """A MemoryLM with gates and `pool.store`.

    retriever: the one that `pool.store.retriever` names, if any.
    keys: what segments and questions are compared by. Set their sample of texts before the first write.
    Raises ConfigError for settings of search keys that this decoder cannot have.

        memory = lm.write(lm.initial(torch.tensor([0])), text)
        prefix = lm.recalled(memory, [(0, lm.find(memory, 0, questions)[0])])  # for the first question
    """

    def __init__(self, *arguments, retriever: Retriever | None = None, **named):
        super().__init__(*arguments, **named)
        self.keys = SearchKeys(self.decoder, self.preamble, self._settings, retriever)

    @property
    def _settings(self) -> StoreSettings:
        return self.pool.store

    def attach(self, state: MemoryState) -> Memory:
        """As MemoryLM; segments that exceed the pool's capacity go into the store."""
        memory = super().attach(self._with_store(state))
        return self._with_room(memory, torch.zeros_like(memory.state.used()))

    def write(self, memory: Memory, text: TokenBatch) -> Memory:
        """As MemoryLM; what the pool evicts goes into the store."""
        memory = super().write(memory, text)
        return self._with_room(memory, torch.zeros_like(memory.state.used()))

    def find(self, memory: Memory, row: int, questions: TokenBatch) -> list[tuple[int, ...]]:
        """The segments that each of n questions reads of the store of row `row`: their places in it, oldest first.

        They are the best `k`. Fewer, if these together with the pool and a question exceed the decoder's window.
        """
        state, settings = memory.state, self._settings
        store = state.store[row]
        k = min(settings.k, len(store))
        if not k:
            return [()] * len(questions)
        if settings.by == "random":
            asked = (tuple(own[real].tolist()) for own, real in zip(questions.ids, questions.mask, strict=True))
            seeds = [int(state.seeds[row]) + crc32(repr(each).encode()) for each in asked]
            scores = torch.stack([random_order(seed, state.written, len(store)) for seed in seeds])
            best = scores.topk(k).indices
        else:
            keys = self.keys.of_questions(questions).to(store.keys.device)
            weight = settings.strength_weight
            best = nearest(keys, store.keys, k, weight * store.strength.log() if weight else None, store.index)
        room = self.decoder.window - self._room - self._reach(state.rows([row]))
        return [store.by_age(store.fitting(own[own >= 0].tolist(), room)) for own in best]

    def find_flops(self, store: LongTermStore, tokens: int) -> float:
        """FLOPs of finding the segments that a question of `tokens` tokens reads: its search key, and the products."""
        count, k = len(store), min(self._settings.k, len(store))
        compared = store.index.compared(count, k) if store.index and uses_index(count, k) else count
        return self.keys.flops(tokens) + 2 * compared * store.keys.shape[1]

    def recalled(self, memory: Memory, contexts: Sequence[tuple[int, tuple[int, ...]]]) -> Prefix:
        """The prefixes of B' contexts, each of them the pool of a row together with segments of its store.

        contexts: the row and the places of the segments in its store, as from `find`.
        """
        rows = [row for row, _ in contexts]
        state = memory.state.rows(rows)
        found = StoredSlots.of([memory.state.store[row].slots(which) for row, which in contexts], state.slots.device)
        joined = found.behind(state)
        order = order_by_age(joined["source"], joined["segment"], joined["valid"])
        joined = {name: tensor.gather(1, order) for name, tensor in joined.items()}
        # a prefix is made of keys and values alone, so the slots have no layers here
        slots = state.slots.new_empty(len(rows), 0, order.shape[1], state.slots.shape[3])
        sides = [
            tuple(in_order(torch.cat((pool[rows], own), dim=2), order) for pool, own in zip(*both, strict=True))
            for both in zip((memory.keys, memory.values), self._sides(found.entries), strict=True)
        ]
        return self._prefix(*sides, replace(state, slots=slots, store=None, **joined))

    def _new_state(self, slots: Tensor, seeds: Tensor) -> MemoryState:
        return self._with_store(super()._new_state(slots, seeds))

    def _with_store(self, state: MemoryState) -> MemoryState:
        """`state` with an empty store for each row, if it has no stores."""
        if state.store is not None:
            return replace(state, store=self._kept_up(state.store))
        size, dtype = state.slots.shape[3], state.slots.dtype
        width = 2 * prod(self._side) + size
        empty = LongTermStore.empty(self.keys.name, self.keys.size, size, width, dtype)
        return replace(state, store=(empty,) * state.batch)

    def _kept_up(self, stores: Sequence[LongTermStore]) -> tuple[LongTermStore, ...]:
        """The stores, consolidated if they are to be, with an index each where they are large and searched by keys."""
        start = None if self._settings.by == "random" else self._settings.index_from
        if self._settings.consolidate:
            stores = [store.consolidated() for store in stores]
        return tuple(store.indexed(start) for store in stores)

    def _with_room(self, memory: Memory, new: Tensor) -> Memory:
        """The memory with room for `new` [B] slots: segments that exceed the capacity are moved to the store.

        With `store.takes: written`, all segments are.
        """
        state = memory.state
        if self._settings.takes == "written":
            surplus = state.used()
        else:
            surplus = (state.used() + new - self.pool.capacity).clamp(min=0)
        if not bool(surplus.any()):
            return memory
        goes = evicted_segments(state, surplus, self.pool)
        taken = [self._taken(memory, row, goes[row]) for row in range(state.batch)]
        store = self._kept_up([own.add(more) for own, more in zip(state.store, taken, strict=True)])
        left = memory.select(~goes)
        return replace(left, state=replace(left.state, store=store))

    def _taken(self, memory: Memory, row: int, goes: Tensor) -> LongTermStore:
        """A store of the segments whose slots `goes` [S] bool marks in row `row`; on the CPU, without gradient."""
        state, settings = memory.state, self._settings
        place = goes.nonzero()[:, 0]
        number = state.segment_numbers()[row, place]
        _, segment, sizes = number.unique_consecutive(return_inverse=True, return_counts=True)
        last = sizes.cumsum(0) - 1  # of each segment, its last slot
        slots = state.slots[row].detach()[:, place]
        means = {
            layer: segment_means(slots[None, layer], segment[None], len(sizes))[0][0]
            for layer in {self.gating.layer, settings.layer}
        }
        keys = slots[settings.layer, last] if settings.by == "last" else means[settings.layer]
        sides = (torch.stack([side[row].detach()[:, place] for side in both]) for both in (memory.keys, memory.values))
        entries = torch.cat([*(side.permute(2, 0, 1, 3).flatten(1) for side in sides), slots[0]], dim=1)
        columns = {
            **{name: getattr(state, name)[row, place[last]].detach() for name in ("source", "segment", "strength")},
            "stored_at": torch.full_like(last, state.written),
            "retrieved": torch.zeros_like(last),
            "keys": self.keys.of_segments(keys, slots[0], segment),
            "meanings": means[self.gating.layer],
        }
        kept = {name: column.to("cpu") for name, column in columns.items()}
        return LongTermStore.cut(self.keys.name, kept, entries.to("cpu"), sizes.tolist())

    @property
    def _side(self) -> tuple[int, int, int]:
        """Shape of the keys, or of the values, of one slot in all layers: L, K, D."""
        return len(self.decoder.layers), self.decoder.config.num_key_value_heads, self.decoder.head_size

    def _sides(self, entries: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Keys (not rotated) and values of the slots with entries [B, R, P]: per layer [B, K, R, D] each."""
        sides = entries[..., : 2 * prod(self._side)].unflatten(2, (2, *self._side)).permute(2, 3, 0, 4, 1, 5)
        return sides[0].unbind(0), sides[1].unbind(0)

    def _stored(self, memory: Memory) -> MemoryState:
        """The slots of the pool, and behind those the slots of the store."""
        state = memory.state
        size = state.slots.shape[3]
        stored = StoredSlots.of([store.slots(range(len(store)), size) for store in state.store], state.slots.device)
        inputs = torch.cat((state.slots[:, :1], stored.entries[:, None]), dim=2)
        return replace(state, slots=inputs, store=None, **stored.behind(state))

    def _without(self, memory: Memory, taken: Tensor) -> Memory:
        """As MemoryLM, for pool and store. taken: [B, S + R], of the slots of both."""
        pool = memory.state.slots.shape[2]
        ends = [pool + store.lengths.to(taken.device).cumsum(0) - 1 for store in memory.state.store]
        kept = [-own[end] for own, end in zip(taken, ends, strict=True)]
        return _scaled(super()._without(memory, taken[:, :pool]), kept)

    def _replaced(self, memory: Memory, slots: Tensor, decisions: Decisions) -> Memory:
        """As MemoryLM, for pool and store. With `consolidate`, the store keeps what is said again in the same words."""
        kept, stores = self._restated(memory.state, slots, decisions), memory.state.store
        if self._settings.consolidate:
            said = _words(slots, decisions)
            kept = [
                own.masked_fill(torch.isin(store.words, words).to(own.device), torch.inf)
                for own, store, words in zip(kept, stores, said, strict=True)
            ]
        return _scaled(super()._replaced(memory, slots, decisions), kept)

    def _restated(self, state: MemoryState, slots: Tensor, decisions: Decisions) -> list[Tensor]:
        """The keep gates of the segments in each row's store beside a new text: logits [N] float32 for each row.

        slots: [B, L, T, E], layer inputs of the text. decisions: those on the text.
        """
        stored = decisions.segment.masked_fill(~decisions.stored, -1)
        new, there = segment_means(slots[:, self.gating.layer], stored, decisions.logits.shape[1])
        return [
            self.gating.keep_gate(own.meanings.to(slots.device)[None], new[row, None], there[row, None])[0]
            for row, own in enumerate(state.store)
        ]


def _scaled(memory: Memory, kept: Sequence[Tensor]) -> Memory:
    """The memory whose stored segments are kept with these logits, [N] for each row; below 0 they are dropped."""
    store = tuple(own.scaled(each.sigmoid().detach().cpu()) for own, each in zip(memory.state.store, kept, strict=True))
    return replace(memory, state=replace(memory.state, store=store))


def _words(slots: Tensor, decisions: Decisions) -> list[Tensor]:
    """The words of the segments that are stored of each new text with layer inputs `slots`: numbers, [G] long each."""
    rows = []
    for row, stored in enumerate(decisions.stored):
        segment, inputs = decisions.segment[row][stored], slots[row, 0, stored]
        rows.append(torch.tensor([words_of(inputs[segment == each]) for each in segment.unique()], dtype=torch.long))
    return rows
