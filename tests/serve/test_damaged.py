"""Files that are no sound memories: they can be deleted and replaced, and none is taken in."""

import json
import struct

import pytest
from test_keeping import written

from gnm.memory.files import load_memory, read_memory, save_memory


def listed(client):
    return client.get("/v1/memories").json()["memories"]


def cached(service):
    return service.service.metrics.registry.get_sample_value("gnm_cached_slots")


def test_a_damaged_memory_can_be_deleted_and_replaced(anna, service):
    written(anna, "torn")
    path = service.folder / "anna" / "torn.mem"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert anna.get("/v1/memories/torn").status_code == 409
    assert anna.put("/v1/memories/torn/file", content=whole).status_code == 409
    assert anna.delete("/v1/memories/torn").status_code == 204 and not path.exists()
    assert anna.delete("/v1/memories/torn").status_code == 404
    assert anna.put("/v1/memories/torn/file", content=whole).status_code == 201
    assert anna.delete("/v1/memories/torn").status_code == 204


def test_deleted_memories_are_not_counted_as_loaded(anna, service):
    before = cached(service) or 0
    written(anna, "gone")
    assert cached(service) > before
    anna.delete("/v1/memories/gone")
    assert cached(service) == before


def test_a_folder_is_no_memory(anna, service):
    folder = service.folder / "anna" / "folder.mem"
    folder.mkdir(parents=True)
    assert "folder" not in listed(anna)
    for method, rest in (("GET", ""), ("GET", "/file"), ("DELETE", ""), ("POST", "/undo")):
        answer = anna.request(method, f"/v1/memories/folder{rest}")
        assert answer.status_code == 404 and "no memory 'folder'" in answer.json()["error"]["message"]
    assert anna.get("/v1/models/folder").status_code == 404
    answer = anna.post("/v1/memories/folder/documents", json={"document": "x", "instruction": "y"})
    assert answer.status_code == 507 and folder.is_dir()


@pytest.mark.parametrize(
    "notes",
    [
        {"0": {"instruction": "\ud800", "beginning": ""}},
        {"0": {"instruction": "", "beginning": "x\udfff"}},
        {"0": {"instruction": "", "beginning": "", "segments": [["\ud800", 0.5, 1, 1, True]]}},
        {"0" + "9" * 5_000: {"instruction": "", "beginning": ""}},
        {"9" * 5_000: {"instruction": "", "beginning": ""}},
    ],
)
def test_an_import_with_notes_that_cannot_be_shown_is_refused(anna, service, tmp_path, notes):
    written(anna, "one")
    saved = read_memory(service.folder / "anna" / "one.mem")
    state, _ = load_memory(saved, saved.model)
    save_memory(tmp_path / "odd.mem", state, saved.model, notes)
    content = (tmp_path / "odd.mem").read_bytes()
    [length] = struct.unpack("<Q", content[:8])
    assert json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["notes"]) == notes
    answer = anna.put("/v1/memories/odd/file", content=content)
    assert answer.status_code == 409 and "notes in the file are damaged" in answer.json()["error"]["message"]
    assert "odd" not in listed(anna)
