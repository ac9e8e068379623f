"""Memory for a program and from the shell, on a tiny untrained backbone; and what the README shows of them."""

import functools
import shlex

import pytest

from conversations import DOCUMENT, INSTRUCTION, blocks, same, tiny
from gnm import api, cli
from gnm.api import load
from gnm.errors import CheckpointError, ConfigError, DataError, MemoryFileError


@pytest.fixture
def memory():
    return load(None, backbone="tiny", dtype="float32", device="cpu")


def test_undo_and_forget_take_back_a_write(memory):
    empty, silent = memory.state, memory.ask("The capital of Elbonia is")
    number = memory.write(DOCUMENT, INSTRUCTION)
    written = memory.state
    assert number == 0 and memory.documents[0].slots > len(DOCUMENT)
    memory.forget(0)
    assert memory.documents == [] and memory.ask("The capital of Elbonia is") == silent
    memory.undo()
    assert same(memory.state, written)
    memory.undo()
    assert same(memory.state, empty)
    with pytest.raises(MemoryFileError, match="nothing to undo"):
        memory.undo()


@pytest.mark.parametrize("number", ["0", 0.0, False, None])
def test_a_document_is_forgotten_by_an_int_alone(memory, number):
    """Anything else took the note away and left the slots."""
    memory.write(DOCUMENT, INSTRUCTION)
    with pytest.raises(MemoryFileError, match="is no document's number; give an int"):
        memory.forget(number)
    assert [document.number for document in memory.documents] == [0] == list(memory.state.documents())


@pytest.mark.parametrize("number", [0, -1, 1.5, "3", None, True])
def test_an_answer_has_a_number_of_tokens(memory, number):
    with pytest.raises(ConfigError, match="max_new_tokens: .* is no number of tokens"):
        memory.ask("Oslo is", max_new_tokens=number)
    with pytest.raises(
        ConfigError, match="max_new_tokens: 10000 do not fit into the model's 8192 positions; give fewer"
    ):
        memory.ask("Oslo is", max_new_tokens=10_000)


def test_one_text_is_not_taken_for_several_answers(memory):
    with pytest.raises(DataError, match="the answers are one text, not several"):
        memory.score("Oslo is", "red")


def test_numbers_go_on_after_forgetting(memory):
    memory.write(DOCUMENT, INSTRUCTION)
    memory.forget(0)
    assert memory.write(DOCUMENT, INSTRUCTION) == 1


def test_bad_input_is_refused_in_one_sentence(memory, tmp_path):
    with pytest.raises(DataError, match="the document is empty"):
        memory.write(" \n", INSTRUCTION)
    with pytest.raises(DataError, match="the instruction is empty"):
        memory.write(DOCUMENT, "")
    with pytest.raises(MemoryFileError, match="document 3 has no slots"):
        memory.forget(3)
    memory.write(DOCUMENT, INSTRUCTION)
    memory.save_memory(tmp_path / "m")
    qwen = load(None, backbone="tiny-qwen2", dtype="float32", device="cpu")
    with pytest.raises(MemoryFileError, match="was written by the model"):
        qwen.load_memory(tmp_path / "m")
    small = load(None, backbone="tiny", dtype="float32", device="cpu", capacity=10)
    with pytest.raises(MemoryFileError, match="the pool holds 10"):
        small.write(DOCUMENT, INSTRUCTION)
    with pytest.raises(CheckpointError, match="no adapter"):
        load(tmp_path / "absent")


def test_the_history_is_bounded_and_states_that_follow_each_other_share_their_slots():
    memory = tiny(undo_steps=3)
    for number in range(5):
        memory.write(f"{DOCUMENT} {number}", INSTRUCTION)
    states = [state for state, _ in memory._before._kept]
    assert [state.written for state in states] == [2, 3, 4]
    assert states[0].slots.data_ptr() == states[1].slots.data_ptr() == states[2].slots.data_ptr()
    for number in (4, 3):
        memory.undo()
        again = tiny()
        for document in range(number):
            again.write(f"{DOCUMENT} {document}", INSTRUCTION)
        assert same(memory.state, again.state) and memory.documents == again.documents
    other = memory.fork()
    for _ in range(4):
        other.write(DOCUMENT, INSTRUCTION)
    assert len(other._before) == 3 and len(memory._before) == 1
    memory.clear_history()
    with pytest.raises(MemoryFileError, match="nothing to undo"):
        memory.undo()
    with pytest.raises(ConfigError, match="load: undo_steps: .*-1"):
        tiny(undo_steps=-1)
    memory = tiny(undo_steps=0)
    memory.write(DOCUMENT, INSTRUCTION)
    with pytest.raises(MemoryFileError, match="nothing to undo"):
        memory.undo()


def test_the_shell_commands_of_the_readme(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks(project, "sh") for line in block.splitlines() if line.startswith("gnm ")]
    lines = [line for line in lines if ".mem " in f"{line} "]
    assert [line.split()[1] for line in lines] == ["write", "ask", "inspect", "forget"]
    for line in lines:
        cli.main([*shlex.split(line)[1:], "--backbone", "tiny"])
    said = capsys.readouterr().out
    assert "document 0:" in said and "Memorize all facts." in said and "0 documents are left" in said


def test_the_program_of_the_readme(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "load", functools.partial(load, None, backbone="tiny", dtype="float32"))
    (program,) = blocks(project, "python")
    exec(compile(program, "README.md", "exec"), {})
    assert (tmp_path / "elbonia.safetensors").is_file() and (tmp_path / "elbonia" / "gnm.json").is_file()
    assert "Only religions" in capsys.readouterr().out


def test_shell_errors_are_sentences(tmp_path):
    for line, message in (
        (["ask", "absent.mem", "a"], "there is no memory file"),
        (["write", "m", "@absent.txt", "--instruction", "a"], "cannot read the document absent.txt"),
    ):
        with pytest.raises(SystemExit, match=message):
            cli.main([*line, "--backbone", "tiny"])
