"""Memory files: what is read is what was written; what is no memory of this model is refused."""

import errno
import json
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from gnm.errors import MemoryFileError
from gnm.memory import MemoryState, PoolSettings, load_memory, save_memory
from gnm.memory import files as memory_files
from gnm.memory.files import check_target, locked, version_of
from gnm.models.memory_lm import MemoryLM
from gnm.models.write_settings import WriteSettings
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
    lm = MemoryLM(reader.decoder, reader.chat.preamble, PoolSettings(capacity=120), WriteSettings(reads="all"))
    memory = lm.initial(torch.tensor([3]))
    for text in blocks(3):
        memory = lm.write(memory, reader.encode([text]))
    save_memory(tmp_path / "m", memory.state, "tiny")
    loaded, _ = load_memory(tmp_path / "m", "tiny")
    assert same(loaded, memory.state)
    memories = [lm.attach(memory.state), lm.attach(loaded)]
    old, new = (first_scores(reader, lm.prefix(m), [list(QUESTIONS)])[0] for m in memories)
    assert torch.equal(old, new)
    old, new = (lm.write(m, reader.encode(["one more"])).state for m in memories)
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
    with pytest.raises(MemoryFileError, match="is a folder"):
        load_memory(tmp_path, "a")


@pytest.mark.parametrize("where", ["notes", "saving"])
def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, where):
    path, old = tmp_path / "m", some_state()
    save_memory(path, old, "a", NOTES)
    if where == "saving":

        def full(target, data):
            target.write_text("half a file")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(TypeError if where == "notes" else MemoryFileError, match="set|m: No space .*make room"):
        save_memory(path, some_state(), "a", {"notes": {1, 2}} if where == "notes" else None)
    loaded, notes = load_memory(path, "a")
    assert same(loaded, old) and notes == NOTES
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_memory_is_private_and_keeps_its_link_and_its_mode(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "m")
    save_memory(tmp_path / "link", some_state(), "a")
    assert (tmp_path / "link").is_symlink() and mode(tmp_path / "real" / "m") == 0o600
    (tmp_path / "real" / "m").chmod(0o640)
    state = some_state()
    save_memory(tmp_path / "link", state, "a")
    assert (tmp_path / "link").is_symlink() and mode(tmp_path / "real" / "m") == 0o640
    assert same(load_memory(tmp_path / "real" / "m", "a")[0], state)


def test_what_cannot_be_saved_to_is_said_in_a_sentence_and_before(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    refused = {
        tmp_path: "it is a folder; name a file",
        tmp_path / "file" / "m": "file is no folder",
        tmp_path / ("n" * 250): "its name is too long; give it a shorter name",
        tmp_path / ("n" * 300) / "m": "its name is too long",
    }
    for path, message in refused.items():
        for check in (check_target, lambda path: save_memory(path, some_state(), "a")):
            with pytest.raises(MemoryFileError, match=f"cannot save the memory to .*{message}"):
                check(path)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(MemoryFileError, match="may not be written to; name a file in a folder that you may"):
        check_target(tmp_path / "new" / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_every_flipped_bit_is_refused(tmp_path):
    """In the header, the notes and the tensors; also one that makes the format another."""
    path = tmp_path / "m"
    save_memory(path, some_state(torch.bfloat16), "a", NOTES)
    whole = path.read_bytes()
    for place in range(0, 8 * len(whole), 5):  # 5 and 8 share no divisor: each byte, and each bit of some bytes
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(MemoryFileError, match=f"{path}|too large"):
            load_memory(path, "a")


def written_with(path, changes, model="a", **values):
    """A file with a right checksum and wrong values, as only a program can make it."""
    state = some_state()
    tensors = {**state.tensors(), **changes}
    header = {"format": "gnm-memory-2", "model": model, "written": "5", "notes": "{}", **values}
    header["checksum"] = memory_files._checksum(header, tensors)
    save_file(tensors, path, metadata=header)


ONES = torch.ones(2, 3)
VALUES = {
    "NaN": ({"slots": torch.full((2, 3, 3, 5), float("nan"))}, {}),
    "infinity": ({"slots": torch.full((2, 3, 3, 5), float("inf"))}, {}),
    "float64": ({"slots": torch.zeros(2, 3, 3, 5, dtype=torch.float64)}, {}),
    "a source that was never written": ({"source": torch.full((2, 3), 5)}, {}),
    "a source below all": ({"source": torch.full((2, 3), -3)}, {}),
    "written below a number": ({}, {"written": "3"}),
    "written below none": ({}, {"written": "-1"}),
    "written without end": ({}, {"written": "1" + 20 * "0"}),
    "strength": ({"strength": 2 * ONES, "segment": ONES.long()}, {}),
    "strength of NaN": ({"strength": float("nan") * ONES, "segment": ONES.long()}, {}),
    "segment": ({"strength": ONES, "segment": -1 * ONES.long()}, {}),
    "segment without end": ({"strength": ONES, "segment": ONES.long() << 40}, {}),
    "no segment": ({"strength": ONES}, {}),
    "notes that are a list": ({}, {"notes": "[1]"}),
    "notes without end": ({}, {"notes": 100_000 * "["}),
}


@pytest.mark.parametrize("what", VALUES)
def test_values_that_no_write_makes_are_refused(tmp_path, what):
    changes, header = VALUES[what]
    written_with(tmp_path / "m", changes, **header)
    with pytest.raises(MemoryFileError, match="m is damaged"):
        load_memory(tmp_path / "m", "a")
    written_with(tmp_path / "m", {})
    load_memory(tmp_path / "m", "a")


def test_a_memory_of_another_kind_than_the_reader_is_refused_and_its_dtype_is_changed(tmp_path):
    state = some_state(torch.float32)
    save_memory(tmp_path / "m", state, "a")
    like = some_state(torch.bfloat16)
    loaded, _ = load_memory(tmp_path / "m", "a", like=like)
    assert loaded.slots.dtype == torch.bfloat16 and torch.equal(loaded.slots, state.slots.bfloat16())
    others = {
        "batch": like.rows([0]),
        "layers": MemoryState(like.slots[:, :2], like.valid, like.source, like.seeds, 5),
        "width": MemoryState(like.slots[..., :4], like.valid, like.source, like.seeds, 5),
        "gates": MemoryState(like.slots, like.valid, like.source, like.seeds, 5, ONES, ONES.long()),
        "slots of the preamble": MemoryState(like.slots, like.valid, like.source * 0, like.seeds, 5),
    }
    for name, other in others.items():
        with pytest.raises(MemoryFileError, match=f"{name}: .*of this model: "):
            load_memory(tmp_path / "m", "a", like=other)


@pytest.mark.parametrize("version", ["gnm-memory-1", "gnm-memory-2"])
def test_a_loaded_memory_is_its_own_also_where_the_file_is_written_over_in_place(tmp_path, version):
    state, path = some_state(), tmp_path / "m"
    save_memory(path, state, "a")
    if version == "gnm-memory-1":
        changed_header()(path)
    loaded, _ = load_memory(path, "a")
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.truncate(10)
    assert same(loaded, state)


def test_a_file_from_before_the_checksum_is_read(tmp_path):
    state = some_state()
    save_file(state.tensors(), tmp_path / "m", metadata={"format": "gnm-memory-1", "model": "a", "written": "5",
                                                         "notes": json.dumps(NOTES)})  # fmt: skip
    loaded, notes = load_memory(tmp_path / "m", "a")
    assert same(loaded, state) and notes == NOTES and version_of(tmp_path / "m") is None


def test_a_memory_that_could_not_be_read_again_is_not_saved(tmp_path):
    state = some_state()
    state.slots[0, 0, 0, 0] = float("nan")
    with pytest.raises(MemoryFileError, match="not saved .*NaN"):
        save_memory(tmp_path / "m", state, "a")
    assert list(tmp_path.iterdir()) == []


HOLDING = """
import sys, time
from gnm.memory.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_lock_is_waited_for_and_goes_with_a_killed_process(tmp_path, capsys):
    path = tmp_path / "m"
    with subprocess.Popen([sys.executable, "-c", HOLDING, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        (tmp_path / ".m.abcdefgh.part").write_text("what a killed process left")
        with pytest.raises(MemoryFileError, match="m open for 0.2 seconds.*--timeout"), locked(path, timeout=0.2):
            raise AssertionError
        assert "waiting for another gnm process" in capsys.readouterr().err
        holder.kill()
    (tmp_path / "link").symlink_to(path)
    with locked(path, timeout=0), locked(tmp_path / "link", timeout=0):  # the same, taken twice
        assert not (tmp_path / ".m.abcdefgh.part").exists()
    assert capsys.readouterr().err == "" and mode(tmp_path / ".m.lock") == 0o600
