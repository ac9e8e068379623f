"""Memory files: what is read is what was written; what is no memory of this model is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from gnm.errors import MemoryFileError
from gnm.memory import MemoryState, PoolSettings, load_memory, save_memory
from gnm.models.memory_lm import MemoryLM, WriteSettings
from stock import QUESTIONS, blocks, first_scores, reader_of

NOTES = {"instructions": ["Learn all.", "Nür Sprachen\n"], "count": 2}


def some_state(dtype=torch.float32):
    valid = torch.tensor([[True, True, False], [True, False, True]])
    source = torch.tensor([[-1, 0, -1], [-1, -1, 4]])
    return MemoryState(torch.randn(2, 3, 3, 5).to(dtype), valid, source, torch.tensor([7, 2**40]), written=5)


def same(ours, theirs):
    return ours.written == theirs.written and all(
        torch.equal(getattr(ours, name), getattr(theirs, name))
        and getattr(ours, name).dtype == getattr(theirs, name).dtype
        for name in ("slots", "valid", "source", "seeds")
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_read_is_what_was_saved(tmp_path, dtype):
    state = some_state(dtype)
    save_memory(tmp_path / "new folder" / "m.safetensors", state, "model-a", NOTES)
    loaded, notes = load_memory(tmp_path / "new folder" / "m.safetensors", "model-a")
    assert same(loaded, state) and notes == NOTES
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["m.safetensors"]


def test_notes_may_be_left_out(tmp_path):
    save_memory(tmp_path / "m", some_state(), "a")
    assert load_memory(tmp_path / "m", "a")[1] == {}


@torch.no_grad()
def test_a_loaded_memory_answers_to_the_bit_as_the_saved_one(tiny_family, tmp_path):
    """Also after an eviction, and it goes on being written alike."""
    reader = reader_of(tiny_family)
    lm = MemoryLM(reader.decoder, reader.chat.head, PoolSettings(capacity=120), WriteSettings(reads="all"))
    memory = lm.initial(torch.tensor([3]))
    for text in blocks(3):
        memory = lm.write(memory, *reader.encode([text]))
    save_memory(tmp_path / "m", memory.state, "tiny")
    loaded, _ = load_memory(tmp_path / "m", "tiny")
    assert same(loaded, memory.state)
    memories = [lm.attach(memory.state), lm.attach(loaded)]
    old, new = (first_scores(reader, lm.prefix(m), [list(QUESTIONS)])[0] for m in memories)
    assert torch.equal(old, new)
    old, new = (lm.write(m, *reader.encode(["one more"])).state for m in memories)
    assert torch.equal(old.slots, new.slots) and torch.equal(old.source, new.source)


def test_rows_and_shared_batches_are_saved_on_their_own(tmp_path):
    """Slots that share memory (an expanded batch, a row of a batch) make ordinary files."""
    state = some_state()
    expanded = MemoryState(state.slots[:1].expand(2, -1, -1, -1), state.valid, state.source, state.seeds, 5)
    for name, value in (("expanded", expanded), ("row", state.rows([1]))):
        save_memory(tmp_path / name, value, "a")
        assert same(load_memory(tmp_path / name, "a")[0], value)


def test_a_memory_of_another_model_is_refused(tmp_path):
    save_memory(tmp_path / "m", some_state(), "model-a")
    with pytest.raises(MemoryFileError, match="written by the model model-a, this one is model-b"):
        load_memory(tmp_path / "m", "model-b")


def truncated(path, share):
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])


def foreign_tensors(path):
    save_file({"x": torch.zeros(2)}, path)


def other_version(path):
    save_file(load_file(path), path, metadata={"format": "gnm-memory-0", "model": "a", "written": "1", "notes": "{}"})


def changed_header(**changes):
    def spoil(path):
        header = {"format": "gnm-memory-1", "model": "a", "written": "5", "notes": "{}"} | changes
        save_file(load_file(path), path, metadata={k: v for k, v in header.items() if v is not None})

    return spoil


def changed_tensors(**changes):
    def spoil(path):
        tensors = load_file(path) | changes
        header = {"format": "gnm-memory-1", "model": "a", "written": "5", "notes": "{}"}
        save_file({k: v for k, v in tensors.items() if v is not None}, path, metadata=header)

    return spoil


SPOILT = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: truncated(path, 0.5),
    "in the header": lambda path: truncated(path, 0.05),
    "last byte": lambda path: truncated(path, 0.999),
    "text": lambda path: path.write_text("once upon a time there was a memory"),
    "json": lambda path: path.write_text(json.dumps([1, 2, 3])),
    "safetensors of something else": foreign_tensors,
    "another version": other_version,
    "no model": changed_header(model=None),
    "no count": changed_header(written=None),
    "count in words": changed_header(written="five"),
    "notes cut off": changed_header(notes='{"a": '),
    "no slots": changed_tensors(slots=None),
    "slots of one axis": changed_tensors(slots=torch.zeros(3)),
    "slots of another length": changed_tensors(slots=torch.zeros(2, 3, 4, 5)),
    "sources of another batch": changed_tensors(source=torch.zeros(1, 3, dtype=torch.long)),
    "validity in numbers": changed_tensors(valid=torch.ones(2, 3)),
    "too few seeds": changed_tensors(seeds=torch.tensor([7])),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_damaged_or_foreign_file_is_refused_by_its_name(tmp_path, how):
    path = tmp_path / "mine.safetensors"
    save_memory(path, some_state(), "a")
    SPOILT[how](path)
    with pytest.raises(MemoryFileError, match="mine.safetensors"):
        load_memory(path, "a")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(MemoryFileError, match="no memory file .*absent"):
        load_memory(tmp_path / "absent", "a")
    with pytest.raises(MemoryFileError, match="no memory file"):
        load_memory(tmp_path, "a")


@pytest.mark.parametrize("where", ["notes", "saving"])
def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, where):
    path, old = tmp_path / "m", some_state()
    save_memory(path, old, "a", NOTES)
    if where == "saving":

        def half(tensors, target, metadata):
            target.write_bytes(b"half a file")
            raise OSError("no space left on device")

        monkeypatch.setattr("gnm.memory.files.save_file", half)
    with pytest.raises((TypeError, OSError)):
        save_memory(path, some_state(), "a", {"notes": {1, 2}} if where == "notes" else None)
    loaded, notes = load_memory(path, "a")
    assert same(loaded, old) and notes == NOTES
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
