"""Memory files that somebody made, with right checksums: what they hold too much of is refused, or not kept."""

import asyncio
import gc
from dataclasses import replace

import pytest
import torch
from services import keys, running
from test_keeping import written

from gnm.memory.files import read_memory, save_memory

HEADER = 3_000


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    limits = {"import_header_bytes": HEADER}
    with running(tmp_path_factory.mktemp("memories"), keys(), limits=limits, undo_steps=0) as started:
        yield started


@pytest.fixture
def saved(anna, service):
    """What Anna's memory `one` holds."""
    anna.delete("/v1/memories/one")
    written(anna, "one")
    return read_memory(service.folder / "anna" / "one.mem")


def imported(client, name, tmp_path, saved, state=None, notes=None):
    """The answer to the import of a memory like the one that was saved."""
    client.delete(f"/v1/memories/{name}")
    save_memory(tmp_path / "made.mem", state or saved.state, saved.model, notes or saved.notes)
    return client.put(f"/v1/memories/{name}/file", content=(tmp_path / "made.mem").read_bytes())


def padded(state, slots):
    """The state with so many slots that hold nothing."""
    grown = {
        "slots": torch.zeros(1, state.slots.shape[1], slots, state.slots.shape[3]),
        "valid": torch.zeros(1, slots, dtype=torch.bool),
        "source": torch.full((1, slots), -1),
    }
    joined = {name: torch.cat((getattr(state, name), new), 2 if name == "slots" else 1) for name, new in grown.items()}
    return replace(state, **joined)


def test_slots_that_hold_nothing_are_not_kept(anna, service, saved, tmp_path):
    answer = imported(anna, "padded", tmp_path, saved, padded(saved.state, 5_000))
    assert answer.status_code == 201 and answer.json()["slots"] == int(saved.state.used())
    kept = read_memory(service.folder / "anna" / "padded.mem").state
    assert kept.equals(saved.state)
    question = {"questions": ["Where is Bern?"]}
    said = [anna.post(f"/v1/memories/{name}/ask", json=question).json() for name in ("one", "padded")]
    assert said[0] == said[1]


def test_a_file_that_says_too_much_of_its_documents_is_not_read(anna, service, saved, tmp_path):
    for length, status in ((HEADER - 1_500, 201), (HEADER, 413)):
        notes = {"0": {"instruction": "x" * length, "beginning": ""}}
        answer = imported(anna, "talkative", tmp_path, saved, notes=notes)
        assert answer.status_code == status, answer.text
    assert f"bytes of its documents; at most {HEADER} are taken" in answer.text
    assert "talkative" not in anna.get("/v1/memories").json()["memories"]


def test_segments_of_a_memory_without_gates_are_refused(anna, saved, tmp_path):
    notes = {"0": {"instruction": "", "beginning": "", "segments": [["x", 0.5, 1, 1, True]]}}
    answer = imported(anna, "cut", tmp_path, saved, notes=notes)
    assert answer.status_code == 409 and "document 0 has segments" in answer.text
    assert "cut" not in anna.get("/v1/memories").json()["memories"]


def test_the_model_is_not_searched_for_garbage(service):
    gc.unfreeze()  # a command that another test ran here may have frozen its objects
    try:
        asyncio.run(service.service.warm_up())
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
