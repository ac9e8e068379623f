"""Memory files for a program: saved, read, merged, written by several at once, damaged."""

import functools
import io
import json
import subprocess
import sys

import pytest
import torch

from conversations import DOCUMENT, INSTRUCTION, LINES, NOTE, same, tiny, words_in
from gnm import api, cli
from gnm.api import load
from gnm.errors import BackboneError, MemoryFileError
from gnm.memory import save_memory


@pytest.fixture
def memory():
    return load(None, backbone="tiny", dtype="float32", device="cpu")


def test_a_saved_memory_answers_as_before(memory, tmp_path):
    memory.write(DOCUMENT, INSTRUCTION)
    memory.save_memory(tmp_path / "m")
    other = load(None, backbone="tiny", dtype="float32", device="cpu")
    other.load_memory(tmp_path / "m")
    assert torch.equal(other.state.slots, memory.state.slots)
    assert other.documents == memory.documents
    assert other.ask("The capital of Elbonia is") == memory.ask("The capital of Elbonia is")


def test_undo_does_not_go_back_to_before_the_memory_was_loaded(memory, tmp_path, monkeypatch, capsys):
    memory.write(DOCUMENT, INSTRUCTION)
    memory.save_memory(tmp_path / "m")
    memory.save_pretrained(tmp_path / "model")
    for again in (tiny(memory=tmp_path / "m"), load(tmp_path / "model", device="cpu")):
        with pytest.raises(MemoryFileError, match="nothing to undo"):
            again.undo()
        assert len(again.documents) == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("undo\nquit\n"))
    monkeypatch.setattr(api, "load", functools.partial(load, dtype="float32", device="cpu"))
    cli.main(["chat", str(tmp_path / "m"), "--backbone", "tiny"])
    assert "error: there is nothing to undo" in capsys.readouterr().out
    assert len(tiny(memory=tmp_path / "m").documents) == 1


def test_two_saved_memories_become_one(memory, tmp_path, monkeypatch):
    memory.write(DOCUMENT, INSTRUCTION)
    memory.save_memory(tmp_path / "a")
    memory.undo()
    memory.write(LINES, "Learn it all.")
    memory.save_memory(tmp_path / "b")
    monkeypatch.setattr(api, "load", functools.partial(load, dtype="float32", device="cpu"))
    cli.main(["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--backbone", "tiny"])
    memory.load_memory(tmp_path / "a")
    assert [(d.number, d.instruction) for d in memory.documents] == [(0, INSTRUCTION), (1, "Learn it all.")]
    whole = load(None, backbone="tiny", dtype="float32", device="cpu")
    whole.write(DOCUMENT, INSTRUCTION)
    whole.write(LINES, "Learn it all.")
    assert torch.equal(memory.state.slots, whole.state.slots) and torch.equal(memory.state.source, whole.state.source)
    memory.forget(1)
    assert [d.number for d in memory.documents] == [0]


def test_memories_that_could_not_be_read_together_are_not_merged(memory, tmp_path):
    window = memory._learner.lm.decoder.window
    memory.write("a" * int(window * 0.6), INSTRUCTION)
    memory.save_memory(tmp_path / "a")
    memory.undo()
    memory.write("b" * int(window * 0.6), INSTRUCTION)
    before = memory.state
    with pytest.raises(MemoryFileError, match=f"the memory would take .* attends over {window}.*forget a document"):
        memory.merge(tmp_path / "a")
    assert same(memory.state, before) and len(memory.documents) == 1
    small = tiny(capacity=int(window * 0.7), eviction="oldest")
    small.write("b" * int(window * 0.6), INSTRUCTION)
    small.merge(tmp_path / "a")
    small.ask("The capital of Elbonia is")


def test_a_memory_that_is_too_large_to_be_read_is_trimmed_by_a_write_with_a_capacity(memory, tmp_path):
    """As the error says; only a file of an earlier version, or one made for a larger window, is so large."""
    memory.write("a" * 500, INSTRUCTION)
    memory.save_memory(tmp_path / "m")
    reader = tiny(memory=tmp_path / "m", capacity=60, eviction="oldest")
    reader._learner.lm.decoder.config.max_position_embeddings = 400
    with pytest.raises(BackboneError, match="use a smaller pool .*--capacity"):
        reader.ask("The capital of Elbonia is")
    reader.write("b", INSTRUCTION)
    assert int(reader.state.used()) == 60
    reader.ask("The capital of Elbonia is")


def test_nothing_is_saved_of_what_is_forgotten_or_evicted(memory, tmp_path):
    memory.write("The code is 4711.", "Learn the code.")
    memory.write("Zurich lies on a lake.", "Learn the lake.")
    memory.save_memory(tmp_path / "m")
    assert all(words in words_in(tmp_path / "m") for words in ("4711", "Zurich", "Learn the code."))
    memory.forget(0)
    memory.save_memory(tmp_path / "m")
    assert "4711" not in words_in(tmp_path / "m") and "code" not in words_in(tmp_path / "m")
    small = tiny(capacity=memory.documents[0].slots + 3, eviction="oldest")
    small.write("Zurich lies on a lake.", "Learn the lake.")
    small.write("x", "y")
    first = small.documents[0]  # it has lost some of its slots, nobody knows which words they were
    assert 0 < first.slots < memory.documents[0].slots
    assert (first.beginning, first.instruction) == ("", "Learn the lake.")
    small.write("The code is 4711.", "Learn a code.")
    small.save_memory(tmp_path / "s")
    assert not any(words in words_in(tmp_path / "s") for words in ("Zurich", "lake"))
    assert (small.documents[0].slots, small.documents[0].instruction) == (0, "")


def test_words_of_what_is_not_stored_are_not_taken_out_of_a_file(memory, tmp_path):
    """Files of earlier versions hold them; reading or merging such a file shows none."""
    memory.write("The code is 4711.", "Learn the code.")
    notes = memory._notes
    memory.forget(0)
    save_memory(tmp_path / "m", memory.state, memory._digest, notes)
    assert "4711" in words_in(tmp_path / "m")
    for name in ("load_memory", "merge"):
        reader = tiny()
        reader.write(DOCUMENT, INSTRUCTION)
        getattr(reader, name)(tmp_path / "m")
        read = reader.documents[-1]
        assert (read.slots, read.beginning, read.instruction) == (0, "", "")


@pytest.mark.usefixtures("as_asked")
@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_memory_is_read_and_merged_in_the_dtype_of_the_model(tmp_path, dtypes):
    writer, reader = (tiny(dtype=dtype) for dtype in dtypes)
    writer.write(DOCUMENT, INSTRUCTION)
    writer.save_memory(tmp_path / "m")
    reader.load_memory(tmp_path / "m")
    reader.write(DOCUMENT, INSTRUCTION)
    reader.merge(tmp_path / "m")
    assert str(reader.state.slots.dtype) == f"torch.{dtypes[1]}" and len(reader.documents) == 3
    reader.ask("The capital of Elbonia is")


def test_a_file_that_was_changed_meanwhile_is_not_written_over(memory, tmp_path):
    memory.write(DOCUMENT, INSTRUCTION)
    memory.save_memory(tmp_path / "m")
    memory.save_memory(tmp_path / "m")
    other = tiny()
    (tmp_path / "link").symlink_to(tmp_path / "m")
    other.load_memory(tmp_path / "link")
    other.write(LINES, INSTRUCTION)
    other.save_memory(tmp_path / "link")
    memory.forget(0)
    with pytest.raises(MemoryFileError, match="m was changed since .*load it again"):
        memory.save_memory(tmp_path / "m")
    memory.save_memory(tmp_path / "n")
    memory.load_memory(tmp_path / "m")
    assert len(memory.documents) == 2
    memory.save_memory(tmp_path / "m")
    tiny().save_memory(tmp_path / "m")  # never loaded here: as if it were new
    (tmp_path / "m").unlink()
    memory.save_memory(tmp_path / "m")


def test_two_processes_that_write_at_once_both_keep_their_documents(tmp_path):
    command = [sys.executable, "-m", "gnm.cli", "write", str(tmp_path / "m"), "--backbone", "tiny"]
    command += ["--timeout", "600", "--instruction"]  # a machine that others use too
    started = [
        subprocess.Popen([*command, instruction, *(f"{DOCUMENT} {n}" for n in range(40))]) for instruction in "ab"
    ]
    assert [process.wait() for process in started] == [0, 0]
    both = tiny()
    both.load_memory(tmp_path / "m")
    assert [each.number for each in both.documents] == list(range(80))
    assert sorted(each.instruction for each in both.documents) == 40 * ["a"] + 40 * ["b"]


NOTES = {
    "of no document": {"1": NOTE},
    "of a name": {"x": NOTE},
    "without instruction": {"0": {"beginning": "b"}},
    "without beginning": {"0": {"instruction": "a"}},
    "numbers for words": {"0": {"instruction": 1, "beginning": "b"}},
    "half of a character": {"0": {"instruction": "\ud800", "beginning": "b"}},
    "a list": {"0": ["a", "b"]},
    "segments without gates": {"0": NOTE | {"segments": [["text", 0.5, 3, 1, True]]}},
}


@pytest.mark.parametrize("what", NOTES)
def test_notes_of_another_form_are_refused(memory, tmp_path, what):
    memory.write(DOCUMENT, INSTRUCTION)
    save_memory(tmp_path / "m", memory.state, memory._digest, json.loads(json.dumps(NOTES[what])))
    for use in (memory.load_memory, memory.merge):
        with pytest.raises(MemoryFileError, match="notes in .*m are damaged"):
            use(tmp_path / "m")


def test_what_cannot_be_saved_or_is_absent_is_said_before_the_model_is_loaded(tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(api, "load_backbone", never)
    (tmp_path / "file").touch()
    for line, message in (
        (["write", str(tmp_path), "a", "--instruction", "b"], "is a folder"),
        (["write", str(tmp_path / "file" / "m"), "a", "--instruction", "b"], "is no folder"),
        (["chat", str(tmp_path / ("n" * 250))], "too long"),
        (["forget", str(tmp_path), "0"], "is a folder"),
        (["forget", str(tmp_path / "absent"), "0"], "there is no memory file"),
        (["merge", str(tmp_path / "file"), str(tmp_path / "absent")], "there is no memory file .*absent"),
        (["inspect", str(tmp_path / "absent")], "there is no memory file"),
        (["write", str(tmp_path / "m"), "a", "--instruction", "b", "--store", "4"], "give its size too: .*--capacity"),
    ):
        with pytest.raises(SystemExit, match=message):
            cli.main([*line, "--backbone", "tiny"])
    for seconds in ("-1", "nan", "long"):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["write", "m", "a", "--instruction", "b", "--timeout", seconds])
    for count in ("0", "-1", "99999999999999999999"):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["write", "m", "a", "--instruction", "b", "--capacity", count])
        with pytest.raises(SystemExit, match="2"):
            cli.main(["ask", "m", "a", "--max-new-tokens", count])
