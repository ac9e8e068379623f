"""Memory files: what is read is what was saved; what cannot be saved is said before."""

import errno
import json
import os
import re
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from gnm.errors import MemoryFileError
from gnm.memory import MemoryState, PoolSettings, load_memory, save_memory
from gnm.memory.files import check_target, locked, version_of
from gnm.models.memory_lm import MemoryLM
from gnm.models.write_settings import WriteSettings
from memory_files import NOTES, ONES, changed_header, some_state
from stock import QUESTIONS, blocks, first_scores, reader_of


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
    with pytest.raises(MemoryFileError, match="written by the model 'model-a', this one is model-b"):
        load_memory(tmp_path / "m", "model-b")


# --- saving


def test_a_foreign_file_cannot_command_the_terminal_by_its_model(tmp_path):
    save_memory(tmp_path / "m", some_state(), "\x1b[31mother")
    with pytest.raises(MemoryFileError, match=r"written by the model '\\x1b\[31mother'"):
        load_memory(tmp_path / "m", "a")


def test_a_pipe_is_no_memory_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "m")
    for use in (lambda: load_memory(tmp_path / "m", "a"), lambda: check_target(tmp_path / "m")):
        with pytest.raises(MemoryFileError, match="m is no regular file; name a memory file"):
            use()


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


# --- others


def test_a_memory_of_another_kind_than_the_reader_is_refused_and_its_dtype_is_changed(tmp_path):
    state = some_state(torch.float32)
    save_memory(tmp_path / "m", state, "a")
    like = some_state(torch.bfloat16)
    loaded, _ = load_memory(tmp_path / "m", "a", like=like)
    assert loaded.slots.dtype == torch.bfloat16 and torch.equal(loaded.slots, state.slots.bfloat16())
    others = {
        "batch: 2, of this model: 1": like.rows([0]),
        "layers: 3, of this model: 2": MemoryState(like.slots[:, :2], like.valid, like.source, like.seeds, 5),
        "width: 5, of this model: 4": MemoryState(like.slots[..., :4], like.valid, like.source, like.seeds, 5),
        "gates: False, of this model: True": MemoryState(
            like.slots, like.valid, like.source, like.seeds, 5, ONES, ONES.long()
        ),
        "slots of the preamble: [1, 1], of this model: [0, 0]": MemoryState(
            like.slots, like.valid, like.source * 0, like.seeds, 5
        ),
    }
    for told, other in others.items():
        with pytest.raises(MemoryFileError, match=re.escape(told)):
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
