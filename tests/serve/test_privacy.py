"""What nobody is to see, or is to be gone: text that is not stored, files of others, parts of what was deleted."""

import pytest
from services import keys, running
from test_stores import TEXTS, small

from gnm.api import load
from gnm.memory import merge
from gnm.memory.files import read_memory
from gnm.memory.parts import parts_folder
from gnm.serve.keys import Keys

BERN = {"document": "Bern is in Asia.", "instruction": "Learn it all."}


def written(client, path, **body):
    answer = client.post(f"{path}/documents", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_the_text_of_what_is_left_out_goes_back_to_who_wrote_it_and_nowhere_else(gated):
    path = "/v1/memories/half"
    with gated.client("anna") as anna:
        document = "Oslo is big.\nHorses are red.\nMilk is white.\nRavens are black.\nIce is cold.\n"
        told = written(anna, path, document=document, instruction="Learn it.")
        [shown] = anna.get(path).json()["documents"]
        kept = [each["text"] for each in told["segments"] if each["stored"]]
        assert [each["text"] for each in shown["segments"] if each["text"]] == kept
        memory = gated.service.store.open("anna", "half")
        written(anna, path, **BERN)
    left_out = [each["text"].split("\n")[0] for each in told["segments"] if not each["stored"] and each["text"].strip()]
    held = [shown, memory.documents[0], *(notes for _, notes in memory._before._kept)]
    assert "Oslo is big." in left_out and not any(text in str(each) for text in left_out for each in held)


def test_of_a_document_that_is_to_leave_no_words_none_are_kept(anna, service):
    path, secret = "/v1/memories/silent", "Zanzibar"
    body = {"document": f"{secret} is far.", "instruction": f"Learn of {secret}."}
    written(anna, path, **body, keep_notes=False)
    assert secret not in anna.get(path).text
    assert secret.encode() not in (service.folder / "anna" / "silent.mem").read_bytes()
    written(anna, path, **body)
    assert secret in anna.get(path).text


def test_a_folder_that_an_import_makes_is_its_owner_s_alone(anna, ben, service, tmp_path):
    written(anna, "/v1/memories/given", **BERN)
    assert not (service.folder / "ben").exists()
    assert ben.put("/v1/memories/given/file", content=anna.get("/v1/memories/given/file").content).status_code == 201
    assert (service.folder / "ben").stat().st_mode & 0o777 == 0o700
    assert (service.folder / "ben" / "given.mem").stat().st_mode & 0o777 == 0o600


def test_a_memory_that_no_question_fits_behind_is_not_imported(anna, service, tmp_path):
    large = load(None, backbone="tiny", dtype="float32", device="cpu")
    large.write("Bern is in Asia. " * 100, "Learn it all.")
    while large.state.slots.shape[2] < 8192:
        large._memory = large._attach(merge(large.state, large.state, large.pool))
    large.save_memory(tmp_path / "large.mem")
    answer = anna.put("/v1/memories/large/file", content=(tmp_path / "large.mem").read_bytes())
    assert answer.status_code == 409 and "the decoder attends over 8192" in answer.json()["error"]["message"]
    assert anna.get("/v1/memories/large").status_code == 404


def test_a_memory_that_is_deleted_takes_its_parts_on_the_disk_with_it(open_gates, tmp_path):
    model = small(open_gates, store={"k": 2, "on_disk": True})
    with running(tmp_path, keys(), model) as started, started.client() as anna:
        for name in ("gone", "kept"):
            for text in TEXTS:
                written(anna, f"/v1/memories/{name}", document=text, instruction="Learn it.")
        gone, kept = (tmp_path / "anna" / f"{name}.mem" for name in ("gone", "kept"))
        assert all(any(parts_folder(path).iterdir()) for path in (gone, kept))
        assert anna.delete("/v1/memories/gone").status_code == 204
        assert not gone.exists() and not parts_folder(gone).exists() and any(parts_folder(kept).iterdir())
        left = [path.name for path in (tmp_path / "anna").iterdir() if "gone" in path.name]
        assert left == [".gone.mem.lock"]


def test_a_memory_with_parts_on_the_disk_is_exported_whole(open_gates, tmp_path):
    model = small(open_gates, store={"k": 2, "on_disk": True})
    with running(tmp_path, keys(), model) as started, started.client() as anna, started.client("ben") as ben:
        for text in TEXTS:
            written(anna, "/v1/memories/long", document=text, instruction="Learn it.")
        before = sorted(path.name for path in (tmp_path / "anna").iterdir())
        answer = anna.get("/v1/memories/long/file")
        assert answer.headers["content-disposition"] == 'attachment; filename="long.mem"'
        assert sorted(path.name for path in (tmp_path / "anna").iterdir()) == before
        assert ben.put("/v1/memories/mine/file", content=answer.content).status_code == 201
        anna.delete("/v1/memories/long")
        question = {"questions": ["Oslo is a"]}
        assert ben.post("/v1/memories/mine/ask", json=question).status_code == 200
    kept = read_memory(tmp_path / "ben" / "mine.mem").state
    (tmp_path / "sent.mem").write_bytes(answer.content)
    assert kept.equals(read_memory(tmp_path / "sent.mem").state) and len(kept.store[0])


@pytest.mark.parametrize("host", ["memories.example", "memories.example:8321", "127.0.0.1"])
def test_a_service_without_keys_answers_to_the_hosts_of_its_settings(nameless, host):
    own = {"Host": host, "Origin": f"http://{host}"}
    assert nameless.get("/v1/memories", headers=own).status_code == 200
    assert nameless.get("/v1/memories", headers={**own, "Origin": "http://other.example"}).status_code == 403


@pytest.mark.parametrize("host", ["other.example", "a.memories.example", "memories.example.other.example", "example"])
def test_a_service_without_keys_answers_to_no_other_host(nameless, host):
    answer = nameless.get("/v1/memories", headers={"Host": host})
    assert answer.status_code == 403 and "setting: hosts" in answer.json()["error"]["message"]


@pytest.fixture(scope="module")
def nameless(tmp_path_factory):
    """A client of a service without keys that has a host of its own."""
    with (
        running(tmp_path_factory.mktemp("memories"), Keys(), hosts=["memories.example"]) as started,
        started.client(None) as client,
    ):
        yield client
