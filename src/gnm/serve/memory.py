"""A Conversation as the service holds it: one of many of the same model, which are answered side by side."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gnm.conversation import Conversation
from gnm.inference.generation import decode_steps, generate_tokens, generation_config
from gnm.inference.turns import turns_prompt
from gnm.memory.files import save_memory
from gnm.memory.state import MemoryState
from gnm.models.prefix import stacked


class Stream:
    """An answer that is generated while one iterates over it: each step generates a token and gives a piece of text.

    A piece may be empty. The answer ends before the first of the words `stop`, with an end of turn, or after `most`
    tokens.
    prompt_tokens: how many tokens the model reads before the answer. answer_tokens: how many it has generated so far.
    reason: why the answer ended, "stop" or "length"; good only when the iteration has ended.
    """

    def __init__(self, prompt_tokens: int, tokens: Iterator[int], tokenizer, most: int, stop: Sequence[str] = ()):
        self.prompt_tokens, self.answer_tokens, self.reason = prompt_tokens, 0, "stop"
        self._most, self._stop = most, stop
        self._pieces = self._until_stop(decode_steps(tokenizer, self._counted(tokens)))

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def _counted(self, tokens: Iterator[int]) -> Iterator[int]:
        for token in tokens:
            self.answer_tokens += 1
            if self.answer_tokens == self._most:
                self.reason = "length"
            yield token

    def _until_stop(self, pieces: Iterator[str]) -> Iterator[str]:
        """The text before any of the stop words; what may be the beginning of one is held back."""
        held, back = "", max((len(word) for word in self._stop), default=1) - 1
        for piece in pieces:
            held += piece
            found = [place for word in self._stop if (place := held.find(word)) >= 0]
            if found:
                self.reason = "stop"
                yield held[: min(found)]
                return
            ready = max(len(held) - back, 0)
            yield held[:ready]
            held = held[ready:]
        if held:
            yield held


class ServedMemory(Conversation):
    """A Conversation that leaves no text of what is not stored behind, streams chats, and can be copied."""

    @classmethod
    def of(cls, conversation: Conversation, undo_steps: int) -> "ServedMemory":
        """An empty memory of the model of `conversation`."""
        return cls(
            conversation._learner,
            conversation._backbone,
            conversation._about,
            conversation._digest,
            keep_notes=conversation._keep_notes,
            undo_steps=undo_steps,
        )

    def another(self) -> "ServedMemory":
        """An empty memory of the same model."""
        return self.of(self, self._before.most)

    def copy(self) -> "ServedMemory":
        """The same memory, to be changed on its own; without its history."""
        other = self.another()
        other._memory, other._notes = self._memory, self._notes
        return other

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """If an error ends what is done meanwhile, the memory and its history are those from before."""
        memory, notes, before = self._memory, self._notes, self._before.copy()
        try:
            yield
        except BaseException:
            self._memory, self._notes, self._before = memory, notes, before
            raise

    def settle(self) -> None:
        """Drop the text of what was not stored, which the document written last still has."""
        self._notes = self._saved_notes()

    def save_whole(self, path: Path) -> None:
        """Write the memory to a file that needs no parts beside it. Raises MemoryFileError if it cannot be written."""
        settings = self.pool.model_dump(mode="json")
        save_memory(path, self.state, self._digest, self._saved_notes(), settings)

    def check_readable(self) -> None:
        """Raise MemoryFileError if a question would not fit behind this memory."""
        self._learner.lm.check_state(self.state)

    @property
    def slots(self) -> int:
        """Slots of the pool that are in use."""
        return int(self.state.used())

    @property
    def stored(self) -> int | None:
        """Slots in the long-term store beside the pool; None without such a store."""
        return None if self.state.store is None else sum(int(store.lengths.sum()) for store in self.state.store)

    @property
    def size(self) -> int:
        """Slots that the memory takes: those of the pool and of the store, and those that its history alone holds."""
        return self.slots + (self.stored or 0) + _beside(self.state, list(self._before))

    @property
    def capacity(self) -> int | None:
        """Slots that the pool has room for; None: as many as the model can read."""
        return self._learner.lm.pool.capacity

    @property
    def can_undo(self) -> bool:
        return len(self._before) > 0

    def stream(self, turns: Sequence[str], seed: int = 0, stop: Sequence[str] = (), **settings: Any) -> Stream:
        """The answer to the last of `turns`, of user and assistant in turn; it finds what is read of a long-term store.

        settings: of `gnm.inference.generation.SETTINGS`. Raises ConfigError for one that makes no sense.
        """
        return self._stream(turns[-1], turns_prompt(self._learner.reader.chat, turns), seed, stop, settings)

    def stream_answer(self, phrase: str, max_new_tokens: int) -> Stream:
        """What `ask` answers to a question or phrase, piece by piece."""
        chat = self._learner.reader.chat
        prompt = chat.encode_lead() + chat.encode_question(phrase)
        return self._stream(phrase, prompt, 0, (), {"max_new_tokens": max_new_tokens})

    def _stream(
        self, request: str, prompt: list[int], seed: int, stop: Sequence[str], settings: dict[str, Any]
    ) -> Stream:
        config, reader = generation_config(**settings), self._learner.reader
        prefix = self._learner.prefix(self._memory, [request])
        tokens = generate_tokens(reader.decoder, prefix, prompt, reader.chat.end_of_turn, config, seed)
        return Stream(len(prompt), tokens, reader.tokenizer, config.max_new_tokens, stop)


def _beside(now: MemoryState, before: Sequence[MemoryState]) -> int:
    """How many slots the states `before` hold beside those of `now`; what several of them share counts once."""
    pools = {state.slots.data_ptr(): state.slots.shape[2] for state in sorted(before, key=lambda s: s.slots.shape[2])}
    pools.pop(now.slots.data_ptr(), None)
    held = {id(entry): len(entry) for state in before for entry in _entries(state)}
    return sum(pools.values()) + sum(held[entry] for entry in held.keys() - {id(entry) for entry in _entries(now)})


def _entries(state: MemoryState) -> list[Any]:
    return [entry for store in state.store or () for entry in store.entries]


@torch.no_grad()
def ask_each(asked: Sequence[tuple[ServedMemory, Sequence[str]]], max_new_tokens: int) -> list[list[str]]:
    """The answers to each memory's phrases, all in one batch; the memories are of one model."""
    learner = asked[0][0]._learner
    contexts = [
        (prefix, [(number, place) for place in places])
        for number, (memory, phrases) in enumerate(asked)
        for prefix, places in learner.contexts(memory._memory, phrases)
    ]
    texts = [[asked[number][1][place] for number, place in places] for _, places in contexts]
    said = learner.reader.say(stacked([prefix for prefix, _ in contexts]), texts, max_new_tokens)
    answers = [[""] * len(phrases) for _, phrases in asked]
    for (_, places), own in zip(contexts, said, strict=True):
        for (number, place), answer in zip(places, own, strict=True):
            answers[number][place] = answer
    return answers
