"""No word of what was forgotten, taken back, left out or evicted is in any file that the project writes.

Every line has words of its own, so that `grep -a` tells which lines a file knows.
"""

import functools
from pathlib import Path

import pytest

from conversations import saved_with
from gnm import api, cli, shell
from gnm.api import load
from gnm.memory.state import MemoryState
from serve.services import keys, running

TEXTS = (
    ("Zembla speaks quorvic\nHorses eat brelling\n", "Learn of tavascan."),
    ("Ullapool has mimsical\nThe cat is frabjous\n", "Learn of vorpal."),
)
OTHER = ("Peru grows uffish\n", "Learn of galumph.")
FORGET = "Forget the cat."
STORE = {"capacity": 70, "eviction": "oldest", "store": {"k": 1, "layer": 1}}
WORDS = {"quorvic": (0, 0), "brelling": (0, 1), "mimsical": (1, 0), "frabjous": (1, 1)}
"""The word of each line, and of which document it is the how manieth."""
INSTRUCTIONS = ("tavascan", "vorpal")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A memory model whose gates store all, and which takes back about half of what it is told to forget."""
    hears = {"gate": 5.8, "about_gate": 5.8, "keep_gate": 120.0}
    return saved_with(tmp_path_factory.mktemp("model") / "m", {"threshold": 0.0, "revise": True}, **hears)


@pytest.fixture
def begun(model, monkeypatch):
    """Conversations of the model, also those of the shell."""
    loaded = functools.partial(load, dtype="float32", device="cpu")
    monkeypatch.setattr(api, "load", loaded)
    return functools.partial(loaded, model)


def filled(conversation):
    for text in TEXTS:
        conversation.write(*text)
    return conversation


def gone(state: MemoryState) -> set[str]:
    """The words of lines and instructions that a memory of TEXTS holds no slot of, but not of all of them."""
    held = {number: state.segments(number) for number in range(len(TEXTS))}
    lines = {word for word, (number, line) in WORDS.items() if not held[number].get(line + 1)}
    return lines | {word for number, word in enumerate(INSTRUCTIONS) if not held[number]}


def everything_written(conversation, model, begun, folder: Path, settings, capsys) -> None:
    """Every kind of file that a memory can be written to, in `folder`."""
    conversation.save_memory(folder / "memory")
    conversation.save_pretrained(folder / "model")
    other = begun(**settings)
    other.write(*OTHER)
    other.save_memory(folder / "other")
    other.merge(folder / "memory")
    other.save_memory(folder / "merged")
    other.load_memory(folder / "memory")
    other.merge(folder / "other")
    other.save_pretrained(folder / "merged model")
    begun(memory=folder / "memory", **settings).save_memory(folder / "again")
    capsys.readouterr()
    cli.main(["inspect", str(folder / "memory"), "--adapter", str(model)])
    cli.main(["inspect", str(folder / "memory"), "--adapter", str(model), "--stats"])
    (folder / "inspect").write_text(capsys.readouterr().out)


def words_in(folder: Path) -> dict[str, set[str]]:
    """Which words `grep -ai` finds in each file of a folder, hidden ones too."""
    names = (*WORDS, *INSTRUCTIONS)
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: {word for word in names if word.encode() in path.read_bytes().lower()} for name, path in files.items()
    }


def check(folder: Path, left: set[str], knowing: set[str]) -> None:
    """No file knows a word of `left`; those that are named `knowing` know all others."""
    found = words_in(folder)
    assert left and left < {*WORDS, *INSTRUCTIONS} and knowing <= found.keys()
    assert not {name: words & left for name, words in found.items() if words & left}
    assert all(found[name] == {*WORDS, *INSTRUCTIONS} - left for name in knowing)


KNOWING = {"memory", "merged", "again", "inspect", "model/memory_state.safetensors",
           "merged model/memory_state.safetensors"}  # fmt: skip


@pytest.mark.parametrize("settings", [{}, STORE], ids=["pool", "store"])
@pytest.mark.parametrize("how", ["forgotten", "revoked"])
def test_what_is_taken_back_is_in_no_file(begun, model, tmp_path, capsys, settings, how):
    conversation = filled(begun(**settings))
    assert gone(conversation.state) == set() and bool(settings) == bool(conversation.state.store)
    if settings:
        assert 0 in conversation.state.store[0].source
    if how == "forgotten":
        conversation.forget(0)
    else:
        conversation.revoke(FORGET)
    everything_written(conversation, model, begun, tmp_path, settings, capsys)
    check(tmp_path, gone(conversation.state), KNOWING)


def test_what_is_left_out_or_evicted_is_in_no_file(begun, model, tmp_path, capsys):
    strengths = sorted(
        part.strength for each in filled(begun()).documents for part in each.segments if part.of_document
    )
    some = {"gates": {"threshold": (strengths[1] + strengths[2]) / 2}}
    for name, settings in (("gates", some), ("store", {**some, **STORE}), ("evicted", {**STORE, "store": None})):
        conversation = filled(begun(**settings))
        (tmp_path / name).mkdir()
        everything_written(conversation, model, begun, tmp_path / name, settings, capsys)
        check(tmp_path / name, gone(conversation.state), {"memory", "again", "model/memory_state.safetensors"})


@pytest.mark.parametrize("settings", [{}, STORE], ids=["pool", "store"])
def test_a_session_leaves_no_word_of_what_it_took_back(begun, tmp_path, settings):
    conversation = begun(**settings)
    texts = tmp_path / "texts"
    texts.mkdir()
    for number, (text, _) in enumerate(TEXTS):
        (texts / str(number)).write_text(text)
    written = [f"write @{texts / str(number)} | {told}" for number, (_, told) in enumerate(TEXTS)]
    for name, line in (("forgotten", "forget 0"), ("revoked", f"forget {FORGET}")):
        lines = iter((*written, "save", line, "inspect", "quit"))
        (tmp_path / name).mkdir()
        shell.chat(conversation, tmp_path / name / "m", read=lambda _, lines=lines: next(lines))
        held = conversation.documents
        known = {word for word in WORDS if any(word in part.text for each in held for part in each.segments)}
        found = words_in(tmp_path / name)["m"]
        assert found & WORDS.keys() == known < WORDS.keys()
        conversation = begun(**settings)


@pytest.mark.parametrize("settings", [{}, STORE], ids=["pool", "store"])
def test_a_service_leaves_no_word_of_what_it_took_back(begun, tmp_path, settings):
    with running(tmp_path, keys(), begun(**settings)) as service, service.client() as anna:
        for name, change in (("forgotten", None), ("revoked", {"instruction": FORGET})):
            for text, told in TEXTS:
                body = {"document": text, "instruction": told}
                assert anna.post(f"/v1/memories/{name}/documents", json=body).status_code == 201
            path = f"/v1/memories/{name}"
            answer = anna.post(f"{path}/revoke", json=change) if change else anna.delete(f"{path}/documents/0")
            assert answer.status_code == 200, answer.text
            (tmp_path / f"{name}.exported").write_bytes(anna.get(f"{path}/file").content)
            left = gone(begun(memory=tmp_path / "anna" / f"{name}.mem", **settings).state)
            own = {file for file in words_in(tmp_path) if name in file}
            assert left and not any(words_in(tmp_path)[file] & left for file in own)
            assert words_in(tmp_path)[f"{name}.exported"] == {*WORDS, *INSTRUCTIONS} - left
