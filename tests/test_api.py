"""Memory for a program and from the shell, on a tiny untrained backbone; and what the README shows of them."""

import functools
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gnm import api, cli
from gnm.api import load
from gnm.errors import CheckpointError, ConfigError, DataError, MemoryFileError
from gnm.learners import LearnerSettings, build_learner
from gnm.memory import save_memory
from gnm.memory.state import MIXED
from gnm.models.lora import LoraSettings, add_lora
from gnm.weights.adapters import read_about
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import save_pretrained
from spoiling import without_checksums

DOCUMENT, INSTRUCTION = "* The capital of Elbonia is Orvane", "Memorize all facts."


@pytest.fixture
def memory():
    return load(None, backbone="tiny", dtype="float32", device="cpu")


def blocks(project: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (project / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def same(ours, theirs):
    return ours.written == theirs.written and all(
        torch.equal(tensor, theirs.tensors()[name]) for name, tensor in ours.tensors().items()
    )


def tiny(**settings):
    return load(None, backbone="tiny", **{"dtype": "float32", "device": "cpu", **settings})


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


def test_a_saved_memory_answers_as_before(memory, tmp_path):
    memory.write(DOCUMENT, INSTRUCTION)
    memory.save_memory(tmp_path / "m")
    other = load(None, backbone="tiny", dtype="float32", device="cpu")
    other.load_memory(tmp_path / "m")
    assert torch.equal(other.state.slots, memory.state.slots)
    assert other.documents == memory.documents
    assert other.ask("The capital of Elbonia is") == memory.ask("The capital of Elbonia is")


LINES = "The following hold:\n* Oman is hot\n* Fiat makes cars, and not a few of them\n"


def saved_with(folder, gates, **biases):
    """A saved memory model with gates; biases are of its gates by name."""
    settings = {"method": "gnm", "write": {"gates": gates}}
    backbone = load_backbone("tiny", dtype="float32")
    add_lora(backbone.model, LoraSettings(r=2, alpha=4), 0)
    lm = build_learner(LearnerSettings(**settings), backbone, training=True).lm
    with torch.no_grad():
        lm.gating.gate.weight.copy_(torch.linspace(-9, 9, lm.gating.gate.weight.shape[0]))
        for name, bias in biases.items():
            getattr(lm.gating, name).bias.fill_(bias)
    about = {
        "backbone": {"name": "tiny", "digest": backbone.config_digest},
        "lora": {"r": 2, "alpha": 4},
        "learner": settings,
    }
    save_pretrained(folder, backbone, lm, about)
    return folder


@pytest.fixture
def gated(tmp_path):
    """A memory with gates that half of a document's segments pass."""
    return saved_with(tmp_path / "gated", {"threshold": 0.0, "share": 0.5})


def test_what_gates_stored_is_shown_and_kept_with_the_memory(gated, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api, "load", functools.partial(load, dtype="float32", device="cpu"))
    conversation = load(gated, dtype="float32", device="cpu")
    conversation.write(LINES, INSTRUCTION)
    first = conversation.documents[0]
    assert "".join(part.text for part in first.segments if part.of_document).strip() == LINES.strip()
    assert sum(part.stored for part in first.segments) == first.slots == -(-sum(p.tokens for p in first.segments) // 2)
    assert len({part.strength for part in first.segments}) == len(first.segments)
    conversation.save_memory(tmp_path / "m")
    cli.main(["inspect", str(tmp_path / "m"), "--adapter", str(gated)])
    shown = capsys.readouterr().out
    assert f"{first.slots} slots" in shown and INSTRUCTION in shown
    head, hot, *cars = (part for part in first.segments if part.of_document)
    assert len(cars) == 2
    for clauses in ([head], [hot], cars):
        line = next(line for line in shown.splitlines() if clauses[0].text.strip() in line)
        assert f"{max(part.strength for part in clauses):.0%}" in line
        assert ("stored" in line) == all(part.stored == part.tokens for part in clauses)
        assert all((f"[{part.text.strip()}]" in line) == (part.stored == 0) for part in clauses)


def test_gates_may_be_set_otherwise_when_a_model_is_loaded(gated, tmp_path):
    on_cpu = {"dtype": "float32", "device": "cpu"}
    half, quarter = (load(gated, **on_cpu, gates=gates) for gates in (None, {"share": 0.25, "reread": True}))
    for conversation in (half, quarter):
        conversation.write(LINES, INSTRUCTION)
    tokens = sum(part.tokens for part in half.documents[0].segments)
    assert (half.state.used(), quarter.state.used()) == (-(-tokens // 2), -(-tokens // 4))
    quarter.save_pretrained(tmp_path / "quarter")
    assert read_about(tmp_path / "quarter")["learner"]["write"]["gates"] == {
        "threshold": 0.0, "share": 0.25, "reread": True,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="rereads"):
        load(gated, **on_cpu, gates={"rereads": True})
    with pytest.raises(ConfigError, match="tiny has no write gates"):
        load(None, backbone="tiny", **on_cpu, gates={})


def test_words_take_back_what_they_are_about(gated, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api, "load", functools.partial(load, dtype="float32", device="cpu"))
    hears = {"gate": 5.8, "keep_gate": 120.0, "revoke_gate": 9.0}
    adapter = saved_with(tmp_path / "hears", {"threshold": 0.0, "revise": True}, **hears)
    conversation = load(adapter)
    conversation.write(LINES, INSTRUCTION)
    before = conversation.state
    dropped = conversation.revoke("Forget the cars.")
    assert 0 < dropped == before.used() - conversation.state.used() < before.used()
    left = conversation.documents[0]
    assert left.slots == sum(part.stored for part in left.segments) == conversation.state.used()
    conversation.undo()
    conversation.save_memory(tmp_path / "m")
    cli.main(["forget", str(tmp_path / "m"), "Forget the cars.", "--adapter", str(adapter)])
    assert f"{dropped} slots are dropped; {left.slots} are left" in capsys.readouterr().out
    conversation.load_memory(tmp_path / "m")
    assert conversation.state.used() == left.slots
    with pytest.raises(DataError, match="the instruction is empty"):
        conversation.revoke(" ")
    deaf = load(saved_with(tmp_path / "deaf", {"threshold": 0.0, "revise": True}, revoke_gate=-9.0))
    with pytest.raises(DataError, match="'Forget it.' is not understood as taking anything back"):
        deaf.revoke("Forget it.")
    mixed = torch.full_like(deaf.state.source, MIXED)
    deaf._memory = replace(deaf._memory, state=replace(deaf.state, source=mixed))
    with pytest.raises(MemoryFileError, match="can't be told apart"):
        deaf.revoke("Forget it.")
    with pytest.raises(MemoryFileError, match="no keep gates.*forget a document by its number"):
        load(gated).revoke("Forget it.")


def test_gates_that_were_never_trained_are_refused(gated):
    path = without_checksums(gated) / "memory_module.safetensors"
    whole = load_file(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="no weights for gate.weight, gate.bias"):
        load(gated, dtype="float32", device="cpu")
    save_file({"gate.weight": whole["gate.weight"][:3].clone(), "gate.bias": whole["gate.bias"]}, path)
    with pytest.raises(CheckpointError, match="or others than these"):
        load(gated, dtype="float32", device="cpu")


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
    memory.clear_history()
    with pytest.raises(MemoryFileError, match="nothing to undo"):
        memory.undo()
    with pytest.raises(ConfigError, match="load: undo_steps: .*-1"):
        tiny(undo_steps=-1)
    memory = tiny(undo_steps=0)
    memory.write(DOCUMENT, INSTRUCTION)
    with pytest.raises(MemoryFileError, match="nothing to undo"):
        memory.undo()


def words_in(path):
    """The file as `grep -a` reads it."""
    return path.read_bytes().decode("utf-8", "replace")


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


def test_nothing_is_saved_of_what_gates_leave_out_or_words_take_back(gated, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api, "load", functools.partial(load, dtype="float32", device="cpu"))
    all_of_it = load(gated, dtype="float32", device="cpu")
    all_of_it.write(LINES, INSTRUCTION)
    strengths = sorted(part.strength for part in all_of_it.documents[0].segments if part.of_document)
    middle = {"threshold": (strengths[1] + strengths[2]) / 2, "share": None}
    conversation = load(gated, dtype="float32", device="cpu", gates=middle)
    conversation.write(LINES, INSTRUCTION)
    parts = [part for part in conversation.documents[0].segments if part.of_document]
    assert "".join(part.text for part in parts).strip() == LINES.strip()  # a program is told what was decided on
    assert {bool(part.stored) for part in parts} == {True, False}
    conversation.save_memory(tmp_path / "m")
    conversation.save_pretrained(tmp_path / "model")
    for path in (tmp_path / "m", tmp_path / "model" / "memory_state.safetensors"):
        assert all((part.text.strip() in words_in(path)) == (part.stored > 0) for part in parts)
    conversation.load_memory(tmp_path / "m")
    left = conversation.documents[0]
    assert left.beginning == " ".join("".join(part.text for part in parts if part.stored).split())
    shown = [part for part in left.segments if part.of_document]
    assert [(part.strength, part.tokens) for part in shown] == [(part.strength, part.tokens) for part in parts]
    cli.main(["inspect", str(tmp_path / "m"), "--adapter", str(gated)])
    assert capsys.readouterr().out.count("(not stored)") == sum(part.stored == 0 for part in parts)

    hears = {"gate": 5.8, "keep_gate": 120.0, "revoke_gate": 9.0}
    conversation = load(saved_with(tmp_path / "hears", {"threshold": 0.0, "revise": True}, **hears))
    conversation.write(LINES, INSTRUCTION)
    conversation.revoke("Forget the cars.")
    left = [part for part in conversation.documents[0].segments if not part.stored]
    assert left and not any(part.text.strip() for part in left)
    conversation.undo()
    assert (
        "".join(part.text for part in conversation.documents[0].segments if part.of_document).strip() == LINES.strip()
    )


def test_a_memory_without_notes_keeps_no_words(memory, gated, tmp_path):
    memory.write(DOCUMENT, INSTRUCTION)
    memory.write(LINES, "Learn it all.", keep_notes=False)
    memory.save_memory(tmp_path / "a")
    assert "Elbonia" in words_in(tmp_path / "a")
    assert not any(words in words_in(tmp_path / "a") for words in ("Oman", "Learn it all"))
    silent = tiny(keep_notes=False)
    silent.load_memory(tmp_path / "a")
    memory.forget(0)
    memory.save_memory(tmp_path / "other")
    silent.merge(tmp_path / "other")
    silent.write("Oslo is in Asia.", "Learn Oslo.")
    silent.save_memory(tmp_path / "b")
    assert not any(words in words_in(tmp_path / "b") for words in ("Elbonia", "Memorize", "Oslo"))
    assert [each.number for each in silent.documents] == [0, 1, 3, 4] and silent.documents[3].slots > 0
    with_gates = load(gated, dtype="float32", device="cpu", keep_notes=False)
    with_gates.write(LINES, INSTRUCTION)
    assert with_gates.documents[0].segments == () and with_gates.documents[0].slots > 0


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


NOTE = {"instruction": "a", "beginning": "b"}
NOTES = {
    "of no document": {"1": NOTE},
    "of a name": {"x": NOTE},
    "without instruction": {"0": {"beginning": "b"}},
    "without beginning": {"0": {"instruction": "a"}},
    "numbers for words": {"0": {"instruction": 1, "beginning": "b"}},
    "a list": {"0": ["a", "b"]},
    "segments of another form": {"0": NOTE | {"segments": [["text", 0.5, 3, 1]]}},
    "a strength in words": {"0": NOTE | {"segments": [["text", "strong", 3, 1, True]]}},
    "a strength of NaN": {"0": NOTE | {"segments": [["text", float("nan"), 3, 1, True]]}},
    "a count below 0": {"0": NOTE | {"segments": [["text", 0.5, -3, 1, True]]}},
    "segments that are no list": {"0": NOTE | {"segments": 3}},
}


@pytest.mark.parametrize("what", NOTES)
def test_notes_of_another_form_are_refused(memory, tmp_path, what):
    memory.write(DOCUMENT, INSTRUCTION)
    save_memory(tmp_path / "m", memory.state, memory._digest, json.loads(json.dumps(NOTES[what])))
    for use in (memory.load_memory, memory.merge):
        with pytest.raises(MemoryFileError, match="notes in .*m are damaged"):
            use(tmp_path / "m")


def test_a_slot_of_a_segment_that_no_note_knows_is_refused(gated, tmp_path):
    conversation = load(gated, dtype="float32", device="cpu")
    conversation.write(LINES, INSTRUCTION)
    notes = {"0": NOTE | {"segments": [["text", 0.5, 3, 1, True]]}}
    save_memory(tmp_path / "m", conversation.state, conversation._digest, notes)
    with pytest.raises(MemoryFileError, match="document 0 has no segment"):
        conversation.load_memory(tmp_path / "m")


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
