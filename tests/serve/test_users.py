"""Keys: who has none is refused, and no key reaches another's memories, whatever the path says."""

import hashlib
import itertools

import pytest
from services import running

from gnm.errors import ConfigError
from gnm.serve import program
from gnm.serve.keys import Keys, add_user

SECRET = {"document": "The vault opens with 4711.", "instruction": "Remember the number."}
QUESTION = {"questions": ["What opens the vault?"]}
CHAT = {"messages": [{"role": "user", "content": "What opens the vault?"}], "max_tokens": 4}
OPERATIONS = [
    ("GET", "", None), ("DELETE", "", None), ("GET", "/file", None), ("POST", "/undo", None),
    ("DELETE", "/documents/0", None), ("POST", "/ask", QUESTION), ("POST", "/ask", {**QUESTION, "stream": True}),
    ("POST", "/revoke", {"instruction": "Forget it."}), ("POST", "/merge", {"other": "own"}),
]  # fmt: skip
NAMES = [
    "vault", "../ben/vault", "..%2Fben%2Fvault", "%2e%2e%2fben%2fvault", "..%252Fben%252Fvault", "ben/vault",
    "ben%2Fvault", "./vault", "vault%00", "vault.mem", "..\\ben\\vault", ".vault.mem.lock", "own/../../ben/vault",
    "%2Fben%2Fvault", "~ben", "VAULT", "vault%20", "%E2%80%8Bvault", "*", "v?ult", "",
]  # fmt: skip


@pytest.fixture
def vault(anna, ben, service):
    """Ben's secret, and what must stay as it is."""
    ben.post("/v1/memories/vault/documents", json=SECRET)
    anna.post("/v1/memories/own/documents", json={"document": "Nothing.", "instruction": "All."})
    return service.folder / "ben" / "vault.mem"


def test_no_operation_on_any_spelling_reaches_another_s_memory(anna, vault):
    before = vault.read_bytes()
    for (method, rest, body), name in itertools.product(OPERATIONS, NAMES):
        answer = anna.request(method, f"/v1/memories/{name}{rest}", json=body)
        assert answer.status_code in (400, 404, 405, 307), (method, name, rest, answer.text)
        assert "4711" not in answer.text and "Remember" not in answer.text
    for name in NAMES[1:]:
        assert anna.post("/v1/memories/own/merge", json={"other": name}).status_code in (400, 404)
        for chat, headers in (({**CHAT, "model": name}, {}), ({**CHAT, "model": "own"}, {"X-GNM-Memory": name})):
            if name.isascii():
                assert anna.post("/v1/chat/completions", json=chat, headers=headers).status_code in (400, 404)
    assert vault.read_bytes() == before


def test_another_s_memory_looks_as_if_there_were_none(anna, vault):
    told = [anna.get(f"/v1/memories/{name}").json()["error"]["message"] for name in ("vault", "never")]
    assert told[0].replace("vault", "never") == told[1]
    assert anna.get("/v1/memories").json()["memories"] == ["own"]
    assert [model["id"] for model in anna.get("/v1/models").json()["data"]] == ["no-memory", "own"]


def test_the_same_name_is_another_memory_for_another_user(anna, ben, vault):
    anna.post("/v1/memories/vault/documents", json={"document": "Mine.", "instruction": "Anna's."})
    held = [client.get("/v1/memories/vault").json()["documents"][0]["instruction"] for client in (anna, ben)]
    assert held == ["Anna's.", "Remember the number."]
    anna.delete("/v1/memories/vault")
    assert vault.exists()


@pytest.mark.parametrize(
    "key", [None, "", "Bearer", "Bearer x", "Basic key-of-anna", "key-of-anna", "Bearer key-of-ann",
            "Bearer key-of-annaa", f"Bearer {hashlib.sha256(b'key-of-anna').hexdigest()}", "Bearer anna"],
)  # fmt: skip
def test_without_a_known_key_nothing_is_answered(service, key):
    with service.client(None) as client:
        headers = {} if key is None else {"Authorization": key}
        for method, path in [("GET", "/v1/memories"), ("GET", "/v1/models"), ("POST", "/v1/chat/completions"),
                             *((method, f"/v1/memories/own{rest}") for method, rest, _ in OPERATIONS)]:  # fmt: skip
            assert client.request(method, path, headers=headers, json=QUESTION).status_code == 401


def test_a_user_s_key_is_shown_once_and_recognised(tmp_path, capsys):
    path = tmp_path / "keys.yaml"
    program.main(["--keys", str(path), "--add-user", "anna"])
    key = capsys.readouterr().out.strip()
    other = add_user(path, "ben")
    read = Keys.read(path)
    assert (read.user(f"Bearer {key}"), read.user(f"bearer {other}")) == ("anna", "ben")
    assert key not in path.read_text() and path.stat().st_mode & 0o777 == 0o600
    add_user(path, "anna")
    assert Keys.read(path).user(f"Bearer {key}") is None
    with pytest.raises(ConfigError, match="letters, digits"):
        add_user(path, "../anna")


def test_users_that_differ_in_case_alone_are_refused(tmp_path):
    path = tmp_path / "keys.yaml"
    add_user(path, "anna")
    before = path.read_text()
    with pytest.raises(ConfigError, match="'anna' and 'Anna' differ in case alone"):
        add_user(path, "Anna")
    assert path.read_text() == before
    path.write_text(before + before.splitlines()[1].replace("anna", "ANNA"))
    with pytest.raises(ConfigError, match="differ in case alone"):
        Keys.read(path)


def test_a_key_of_two_users_is_refused(tmp_path):
    path = tmp_path / "keys.yaml"
    add_user(path, "anna")
    path.write_text(path.read_text() + path.read_text().splitlines()[1].replace("anna", "ben") + "\n")
    with pytest.raises(ConfigError, match="'anna' and 'ben' have the same key"):
        Keys.read(path)
    key = add_user(path, "ben")  # as the error says
    assert Keys.read(path).user(f"Bearer {key}") == "ben"


def test_other_machines_need_keys(capsys):
    with pytest.raises(SystemExit) as ended:
        program.main(["--host", "0.0.0.0"])
    assert "no keys are asked for" in str(ended.value)


def test_without_keys_foreign_pages_cannot_use_the_service(tmp_path):
    with running(tmp_path, Keys()) as started, started.client(None) as client:
        assert client.get("/v1/memories").json() == {"user": "local", "memories": [], "document_characters": 200_000}
        for host in ("127.0.0.2:8321", "localhost", "[::1]:1"):
            assert client.get("/v1/memories", headers={"Host": host}).status_code == 200
        for host in ("rebound.example", "128.0.0.1", "0.0.0.0:8321", "127.0.0.1.rebound.example", "[", ""):
            assert client.get("/v1/memories", headers={"Host": host}).status_code == 403, host
        assert client.get("/v1/memories/", headers={"Host": "rebound.example"}).status_code == 403  # not led on
        assert client.get("/v1/memories", headers={"Origin": "http://other.example"}).status_code == 403
        assert client.get("/v1/memories", headers={"Origin": started.url}).status_code == 200
        simple = {"Content-Type": "text/plain"}  # what a page may send anywhere without asking
        assert client.post("/v1/memories/a/documents", content="{}", headers=simple).status_code == 415
