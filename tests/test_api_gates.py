"""A memory with gates for a program and from the shell: what is stored, shown, taken back, saved."""

import functools
from dataclasses import astuple, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from conversations import DOCUMENT, INSTRUCTION, LINES, NOTE, saved_with, tiny, words_in
from gnm import api, cli
from gnm.api import load
from gnm.errors import CheckpointError, ConfigError, DataError, MemoryFileError
from gnm.memory import save_memory
from gnm.memory.state import MIXED
from gnm.weights.adapters import read_about
from spoiling import without_checksums


@pytest.fixture
def memory():
    return load(None, backbone="tiny", dtype="float32", device="cpu")


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
    hears = {"gate": 5.8, "about_gate": 5.8, "keep_gate": 120.0}
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
    mixed = torch.full_like(conversation.state.source, MIXED)
    conversation._memory = replace(conversation._memory, state=replace(conversation.state, source=mixed))
    with pytest.raises(MemoryFileError, match="can't be told apart"):
        conversation.revoke("Forget the cars.")
    with pytest.raises(MemoryFileError, match="no keep gates.*forget a document by its number"):
        load(gated).revoke("Forget the cars.")


def test_words_that_take_back_nothing_leave_memory_and_undo_as_they_were(tmp_path):
    deaf = {"gate": 5.8, "about_gate": -1e3, "keep_gate": 120.0}
    conversation = load(saved_with(tmp_path / "deaf", {"threshold": 0.0, "revise": True}, **deaf))
    conversation.write(LINES, INSTRUCTION)
    before, documents = conversation.state, conversation.documents
    assert conversation.revoke("Forget the cars.") == 0
    assert conversation.state.equals(before) and conversation.documents == documents
    conversation.undo()  # the write
    assert conversation.documents == []
    with pytest.raises(MemoryFileError, match="nothing to undo"):
        conversation.undo()


def test_gates_that_were_never_trained_are_refused(gated):
    path = without_checksums(gated) / "memory_module.safetensors"
    whole = load_file(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="no weights for gate.weight, gate.bias"):
        load(gated, dtype="float32", device="cpu")
    save_file({"gate.weight": whole["gate.weight"][:3].clone(), "gate.bias": whole["gate.bias"]}, path)
    with pytest.raises(CheckpointError, match="or others than these"):
        load(gated, dtype="float32", device="cpu")


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

    hears = {"gate": 5.8, "about_gate": 5.8, "keep_gate": 120.0}
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


def test_a_slot_of_a_segment_that_no_note_knows_is_refused(gated, tmp_path):
    conversation = load(gated, dtype="float32", device="cpu")
    conversation.write(LINES, INSTRUCTION)
    notes = {"0": NOTE | {"segments": [["text", 0.5, 3, 1, True]]}}
    save_memory(tmp_path / "m", conversation.state, conversation._digest, notes)
    with pytest.raises(MemoryFileError, match="document 0 has no segment"):
        conversation.load_memory(tmp_path / "m")


SEGMENTS = {
    "of another form": ["text", 0.5, 3, 1],
    "numbers for words": [1, 0.5, 3, 1, True],
    "half of a character": ["\ud800", 0.5, 3, 1, True],
    "a strength in words": ["text", "strong", 3, 1, True],
    "a strength of NaN": ["text", float("nan"), 3, 1, True],
    "a refusal above 1": ["text", 0.5, 3, 1, True, 1.5],
    "a count below 0": ["text", 0.5, -3, 1, True],
    "a count for a verdict": ["text", 0.5, 3, 1, 1],
}


def test_segments_of_another_form_are_refused(gated, tmp_path):
    conversation = load(gated, dtype="float32", device="cpu")
    conversation.write(LINES, INSTRUCTION)
    segments = [list(astuple(part)) for part in conversation.documents[0].segments]
    spoiled = {what: [*segments[:-1], segment] for what, segment in SEGMENTS.items()}
    for what, given in {"no list": 3, **spoiled}.items():
        notes = {"0": NOTE | {"segments": given}}
        save_memory(tmp_path / "m", conversation.state, conversation._digest, notes)
        with pytest.raises(MemoryFileError, match="lacks its instruction or beginning, or holds other values"):
            conversation.load_memory(tmp_path / "m")
            pytest.fail(what)
