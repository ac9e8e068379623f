"""Controllable memory for a program: `load` gives a Conversation; write, ask, forget, undo, save_memory.

- Documents are numbered 0, 1, ... in the order in which they were written; `forget` takes that number.
- A memory file belongs to the model that wrote it: backbone and adapter, by checksum.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from gnm.backbones import load_backbone
from gnm.checkpoints import WEIGHTS, load_adapter, read_about
from gnm.devices import pick_device
from gnm.errors import CheckpointError, DataError, MemoryFileError
from gnm.learners import LearnerSettings, Question, build_learner
from gnm.learners.memory import MemoryLearner
from gnm.memory import MemoryState, PoolSettings, load_memory, save_memory
from gnm.models.memory_lm import Memory

DEFAULT_ADAPTER = Path("models/smollm2-135m/gnm")


@dataclass(frozen=True)
class Written:
    """What a memory knows of one document: its number, instruction, first words, and the slots it still has."""

    number: int
    instruction: str
    beginning: str
    slots: int


class Conversation:
    """One memory and the model that writes and reads it."""

    def __init__(self, learner: MemoryLearner, digest: str, seed: int = 0):
        self._learner, self._digest = learner, digest
        self._memory: Memory = learner.reset([seed])
        self._notes: dict[str, dict[str, str]] = {}
        self._before: list[tuple[Memory, dict]] = []

    @torch.no_grad()
    def write(self, document: str, instruction: str) -> int:
        """Write `document` as `instruction` says; returns its number.

        Raises DataError for an empty text, MemoryFileError for a document larger than the pool.
        """
        for name, text in (("document", document), ("instruction", instruction)):
            if not text.strip():
                raise DataError(f"the {name} is empty; there is nothing to write")
        number = self.state.written
        memory = self._learner.write(self._memory, [document], [instruction])
        beginning = " ".join(document.split())[:80]
        notes = {**self._notes, str(number): {"instruction": instruction, "beginning": beginning}}
        self._change(memory, notes)
        return number

    @torch.no_grad()
    def ask(self, phrase: str, max_new_tokens: int = 8) -> str:
        """Continue `phrase` ("The capital of France is") from memory and the model's own knowledge."""
        if not phrase.strip():
            raise DataError("the phrase is empty; ask for the continuation of some words")
        question = Question(phrase, target=".", other=".")
        return self._learner.answer(self._memory, [[question]], max_new_tokens)[0][0].text

    def forget(self, document: int) -> None:
        """Drop every slot that `document` wrote. Raises MemoryFileError if it has none."""
        try:
            state = self.state.forget(document)
        except KeyError as error:
            raise MemoryFileError(str(error.args[0])) from error
        notes = {number: note for number, note in self._notes.items() if number != str(document)}
        self._change(self._attach(state), notes)

    def undo(self) -> None:
        """Go back to the memory before the last write or forget. Raises MemoryFileError if there was none."""
        if not self._before:
            raise MemoryFileError("there is nothing to undo in this session")
        self._memory, self._notes = self._before.pop()

    def save_memory(self, path: str | Path) -> None:
        """Write the memory to one safetensors file, whole or not at all."""
        save_memory(path, self.state, self._digest, self._notes)

    def load_memory(self, path: str | Path) -> None:
        """Go on from a saved memory. Raises MemoryFileError if it is damaged or another model's."""
        state, notes = load_memory(path, self._digest, self._learner.lm.decoder.device)
        self._change(self._attach(state), notes)

    @property
    def state(self) -> MemoryState:
        """The memory as a value, a batch of one."""
        return self._memory.state

    @property
    def documents(self) -> list[Written]:
        """What is in memory, oldest first."""
        return [
            Written(number, **self._notes[str(number)], slots=slots)
            for number, slots in self.state.documents().items()
        ]

    @torch.no_grad()
    def _attach(self, state: MemoryState) -> Memory:
        return self._learner.lm.attach(state)

    def _change(self, memory: Memory, notes: dict) -> None:
        self._before.append((self._memory, self._notes))
        self._memory, self._notes = memory, notes


def load(
    adapter: str | Path | None = DEFAULT_ADAPTER,
    *,
    backbone: str | None = None,
    dtype: str = "bfloat16",
    device: str = "auto",
    capacity: int | None = None,
    eviction: str = "random",
) -> Conversation:
    """A Conversation with an empty memory.

    adapter: folder of a trained memory adapter; None: the untrained memory of `backbone`.
    backbone: a name of gnm.backbones; None: the one that the adapter was trained on.
    capacity, eviction: size of the pool in slots (None: no limit) and what goes when it is full.
    Raises BackboneError or CheckpointError if model or adapter cannot be loaded.
    """
    settings = LearnerSettings(method="memoryllm")
    if adapter is not None:
        about = read_about(Path(adapter))
        settings = LearnerSettings(**about["learner"])
        backbone = backbone or about["backbone"]["name"]
    if backbone is None:
        raise CheckpointError("neither an adapter nor a backbone is named; give one of them")
    settings = settings.model_copy(update={"memory": PoolSettings(capacity=capacity, eviction=eviction)})
    loaded = load_backbone(backbone, dtype=dtype, device=pick_device(device))
    digest = loaded.config_digest
    if adapter is not None:
        load_adapter(adapter, loaded)
        digest += "-" + hashlib.sha256((Path(adapter) / WEIGHTS).read_bytes()).hexdigest()[:16]
    learner = build_learner(settings, loaded)
    if not isinstance(learner, MemoryLearner):
        raise CheckpointError(
            f"{adapter} was trained as {settings.method}, which has no latent memory; give a gnm adapter"
        )
    return Conversation(learner.eval(), digest)
