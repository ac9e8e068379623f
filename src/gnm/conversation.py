"""A memory for a program: write, ask, forget, revoke, undo, save. `gnm.api.load` makes one.

- Documents are numbered 0, 1, ... in the order in which they were written. `forget` takes that number.
- A memory file can be read only with the model that wrote it, the same backbone and adapter. A checksum tells.
- Text that is not stored, or was taken back, is in no notes and in no memory file. The history for `undo` still holds
  it, in this process alone, until `clear_history`.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch

from gnm.asking import Asking
from gnm.errors import ConfigError, MemoryFileError
from gnm.learners.long_documents import Long, parts_for, write_parts
from gnm.learners.memory import MemoryLearner
from gnm.memory import MemoryState, PoolSettings, load_memory, merge, save_memory
from gnm.memory.files import SavedMemory, locked, read_memory, version_of
from gnm.memory.history import History
from gnm.memory.notes import Notes, check_notes, note_of, only_stored, without_document, without_text
from gnm.memory.parts import filing
from gnm.memory.state import MIXED
from gnm.memory.versions import FileVersions
from gnm.memory.written import Written, written_documents
from gnm.models.projected import Memory
from gnm.texts import check_subject, check_text
from gnm.weights.backbones import Backbone
from gnm.weights.pretrained import STATE, check_folder, push_to_hub, save_pretrained


class Conversation(Asking):
    """One memory, and the model that writes and reads it.

    number = memory.write("Oslo lies on a fjord.", "Learn all facts.")
    memory.forget(number)
    """

    def __init__(
        self,
        learner: MemoryLearner,
        backbone: Backbone,
        about: Mapping[str, Any],
        digest: str,
        seed: int = 0,
        keep_notes: bool = True,
        undo_steps: int = 20,
        saved: SavedMemory | None = None,
    ):
        """about: the model's gnm.json. digest: the model's checksum, which its memory files carry. saved: the memory to
        begin with; None: a new one. Others: `load`.

        Raises MemoryFileError if `saved` is damaged or another model's.
        """
        self._backbone, self._about, self._digest = backbone, about, digest
        self._keep_notes = keep_notes
        self._undo_steps, self._before = undo_steps, History(undo_steps)
        self._versions = FileVersions()
        self._learner = learner  # the last that `_loaded` reads
        memory, self._notes = (learner.reset([seed]), {}) if saved is None else self._loaded(saved)
        super().__init__(learner, memory)

    @torch.no_grad()
    def write(self, document: str, instruction: str, keep_notes: bool = True, long: Long = "refuse") -> int:
        """Write `document` as `instruction` says. Returns the document's number.

        keep_notes: whether the memory keeps words of the document for people to read (`documents`). The model does not
        need them.
        long: what happens with a document that is longer than the model reads at once. "refuse" raises an error;
        "split" writes it in parts, each with the instruction, as one document of the memory.
        Raises DataError if a text is blank or no text, MemoryFileError if the document is too long or larger than the
        pool, ConfigError for an unknown `long`.
        """
        if long not in get_args(Long):
            raise ConfigError(f"long: {long!r} is none of {', '.join(get_args(Long))}")
        for name, text in (("document", document), ("instruction", instruction)):
            check_text(text, name, "there is nothing to write")
        number = self.state.written
        parts = parts_for(self._learner, document, instruction) if long == "split" else [document]
        memory, segments, slots = write_parts(self._learner, self._memory, parts, instruction)
        note = note_of(document, instruction, segments, slots)
        new = {str(number): note}
        if not (keep_notes and self._keep_notes):
            new = without_text(new)
        self._change(memory, {**only_stored(self._notes, memory.state), **new})
        return number

    def forget(self, document: int) -> None:
        """Drop every slot that `document` wrote, and its notes. `undo` brings them back until `clear_history`.

        Raises MemoryFileError if there is no such document.
        """
        if isinstance(document, bool) or not isinstance(document, int):
            raise MemoryFileError(f"{document!r} is no document's number; give an int, such as `write` returns")
        state, notes = without_document(self.state, self._notes, document)
        self._change(self._attach(state), only_stored(notes, state))

    @torch.no_grad()
    def revoke(self, instruction: str) -> int:
        """Drop what `instruction` takes back ("Forget what you learned about companies"). Returns how many slots went.

        `undo` brings them back until `clear_history`. If none goes, the memory stays as it was and there is nothing to
        undo.
        Whoever calls this means to take something back; nothing asks whether the words do.
        Raises DataError for an instruction that is empty, or does not say what it is about ("Forget document 1": that
        is `forget`). Raises MemoryFileError if the memory has no keep gates (`write.gates.revise`), or if its eviction
        mixed the slots of documents.
        """
        check_subject(instruction)
        if not self._learner.lm.revises:
            raise MemoryFileError(
                "this memory has no keep gates, so it cannot tell what an instruction takes back; forget a document by "
                "its number, or use an adapter that was trained with write.gates.revise, such as the shipped one"
            )
        if bool((self.state.valid & (self.state.source == MIXED)).any()):
            raise MemoryFileError(
                "what is left of earlier documents can't be told apart: this pool drops other slots in each layer; "
                "undo the writes instead, or start anew"
            )
        held = sum(self.state.documents().values())
        memory = self._learner.revoke(self._memory, [instruction])
        dropped = held - sum(memory.state.documents().values())
        if dropped:
            self._change(memory, only_stored(self._notes, memory.state))
        return dropped

    @torch.no_grad()
    def merge(self, path: str | Path | SavedMemory) -> None:
        """Take in all documents of another saved memory of this model; they are numbered on from this one's.

        path: its file, or what `read_memory` gave of it.
        Raises MemoryFileError if it is damaged, another model's or the same memory as this one, or if both together
        could never be read.
        """
        saved, other, notes = self._read(path)
        if other.equals(self.state):
            raise MemoryFileError(f"{saved.path} holds this memory itself, which would know all twice; merge another")
        first = self.state.written
        renumbered = {str(int(number) + first): note for number, note in notes.items()}
        memory = self._attach(merge(self.state, other, self.pool))
        self._learner.lm.check_state(memory.state)
        self._change(memory, only_stored({**self._notes, **renumbered}, memory.state))

    def undo(self) -> None:
        """Go back to the memory before the last change. Raises MemoryFileError if there was none."""
        last = self._before.pop()
        if last is None:
            raise MemoryFileError("there is nothing to undo in this session")
        state, self._notes = last
        self._memory = self._attach(state.to(self._learner.lm.decoder.device))

    def fork(self) -> "Conversation":
        """A second conversation that starts from this memory. Later changes of one do not touch the other."""
        other = copy(self)
        other._before, other._versions = History(self._undo_steps), self._versions.copy()
        return other

    def clear_history(self) -> None:
        """Drop the history for `undo`. After that this process holds nothing of what was forgotten."""
        self._before.clear()

    def save_memory(self, path: str | Path, timeout: float = 60.0) -> None:
        """Write the memory to one safetensors file, whole or not at all. A new file can be read by its owner alone.

        With a long-term store on disk (`store={"on_disk": True}`), its entries go to the folder `PATH.parts` beside it.
        Raises MemoryFileError if the file cannot be written, if another process holds it for more than `timeout`
        seconds, or if it was changed since this conversation loaded or saved it.
        """
        settings = self.pool.model_dump(mode="json")
        on_disk = bool(self.pool.store and self.pool.store.on_disk)
        with locked(path, timeout):
            self._versions.check(path)
            with filing(path, self.state, self._digest, on_disk) as state:
                self._versions.note(path, save_memory(path, state, self._digest, self._saved_notes(), settings))
            self._memory = replace(self._memory, state=state)

    def load_memory(self, path: str | Path | SavedMemory) -> None:
        """Go on from a saved memory; path: its file, or what `read_memory` gave of it.

        Raises MemoryFileError if it is damaged or another model's.
        """
        self._change(*self._loaded(path))

    def _loaded(self, path: str | Path | SavedMemory) -> tuple[Memory, Notes]:
        """A saved memory and its notes, to go on from."""
        saved, state, notes = self._read(path)
        self._versions.note(saved.path, saved.checksum)
        memory = self._attach(state)
        return memory, only_stored(notes, memory.state)

    def _read(self, path: str | Path | SavedMemory) -> tuple[SavedMemory, MemoryState, Notes]:
        saved = path if isinstance(path, SavedMemory) else read_memory(path)
        lm = self._learner.lm
        state, notes = load_memory(saved, self._digest, lm.decoder.device, like=lm.blank())
        check_notes(saved.path, notes, state)
        return saved, state, notes if self._keep_notes else without_text(notes)

    def _saved_notes(self) -> Notes:
        return only_stored(self._notes, self.state)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model and memory to `folder`, whole or not at all. `load(folder)` reads both.

        Raises CheckpointError if `folder` holds something else than such a model, or cannot be written; MemoryFileError
        if its memory was changed since this conversation loaded or saved it.
        """
        given = self._backbone, self._learner.lm, self._about, self.state, self._digest, self._saved_notes()
        check_folder(folder)
        self._versions.check(Path(folder) / STATE)
        save_pretrained(folder, *given)
        self._versions.note(Path(folder) / STATE, version_of(Path(folder) / STATE))

    def push_to_hub(self, repo: str, private: bool = True) -> str:
        """Upload model and memory to the hub as "owner/name". `load(repo)` reads both. Returns the commit's address.

        private: make a new repository private, and refuse one that everybody can read: the notes are people's text.
        Raises BackboneError if the repository is public, or if the hub refuses or cannot be reached.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "model")
            return push_to_hub(Path(folder) / "model", repo, private)

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> "Conversation":
        """The same as `load(name, **options)`."""
        from gnm.api import load  # which makes conversations

        return load(name, **options)

    @property
    def state(self) -> MemoryState:
        """The memory as a value, a batch of one."""
        return self._memory.state

    @property
    def pool(self) -> PoolSettings:
        """Settings of the memory's pool: its size, what it evicts, its long-term store."""
        return self._learner.lm.pool

    @property
    def documents(self) -> list[Written]:
        """The documents that were written and not forgotten, oldest first. Some may have no slots, or none left."""
        return written_documents(self._notes, self.state)

    @torch.no_grad()
    def _attach(self, state: MemoryState) -> Memory:
        return self._learner.lm.attach(state)

    def _change(self, memory: Memory, notes: Notes) -> None:
        self._before.push(self.state, self._notes)
        self._memory, self._notes = memory, notes
