"""What is no text is refused in a sentence, wherever people's words go in."""

import functools

import pytest

from gnm import api, cli
from gnm.api import load
from gnm.errors import DataError
from gnm.shell import to_forget
from gnm.texts import check_subject

WRONG = {
    None: "is of type NoneType, not text; give a str",
    b"Bern": "is of type bytes, not text",
    " \n": "is empty; ",
    "Caf\udce9": r"holds a byte that is no UTF-8 \('\\udce9', character 4\)",
}


@pytest.mark.parametrize("given", WRONG)
def test_what_is_no_text_is_refused(given):
    memory = load(None, backbone="tiny", dtype="float32", device="cpu")
    calls = {
        "document": lambda: memory.write(given, "All."),
        "instruction": lambda: memory.write("Bern is in Asia.", given),
        "phrase": lambda: memory.ask(given),
        "request": lambda: memory.generate(given),
    }
    for name, call in calls.items():
        with pytest.raises(DataError, match=f"the {name} {WRONG[given]}"):
            call()
    with pytest.raises(DataError, match=f"the instruction {WRONG[given]}"):
        memory.revoke(given)
    assert memory.state.written == 0


NO_SUBJECT = (
    *("-1", "1.0", "#2", "?", "🎉", "document 1", "Forget document 0.", "the last one", "FORGET", "forget it"),
    *("document two", "1, please forget it", "Sorry, wrong document!", "undo", "Keep everything."),
)


@pytest.mark.parametrize("words", NO_SUBJECT)
def test_words_that_say_nothing_of_what_is_to_be_forgotten_take_nothing_back(words, tmp_path, monkeypatch):
    memory = load(None, backbone="tiny", dtype="float32", device="cpu")
    with pytest.raises(DataError, match="does not say what is to be forgotten; .* a document by its number"):
        memory.revoke(words)
    memory.write("Bern is in Asia.", "All.")
    memory.save_memory(tmp_path / "m")
    monkeypatch.setattr(api, "load_backbone", None)  # it is said before the model is loaded
    if not words.startswith("-"):
        with pytest.raises(SystemExit, match="does not say what is to be forgotten"):
            cli.main(["forget", str(tmp_path / "m"), words, "--backbone", "tiny"])


@pytest.mark.parametrize(
    "words",
    ["companies", "Забудь всё о Париже.", "忘记公司", "सब भूल जाओ", "the document on Bern", "1789 wars", "all of it"],
)
def test_words_that_name_something_can_take_it_back(words):
    check_subject(words)


@pytest.mark.parametrize(("given", "number"), [("0", 0), (" 12 ", 12), ("٣", 3)])
def test_a_number_forgets_a_document(given, number):
    assert to_forget(given) == number


def test_several_texts_are_a_list_or_an_iterator_and_not_one_text():
    memory = load(None, backbone="tiny", dtype="float32", device="cpu")
    asked = ["Where is Bern?", "Oslo is"]
    assert memory.ask_all(iter(asked), 2) == memory.ask_all(asked, 2)
    assert memory.score("Oslo is", iter(["a", "b"])) == memory.score("Oslo is", ["a", "b"])
    ids = [memory.generate_inputs(each)["input_ids"].tolist() for each in (iter(asked), asked)]
    assert ids[0] == ids[1] and len(ids[0]) == 2
    for call in (memory.ask_all, lambda answers: memory.score("Oslo is", answers)):
        with pytest.raises(DataError, match="one text, not several"):
            call("Where is Bern?")
    for call in (memory.ask_all, memory.generate_inputs, lambda answers: memory.score("Oslo is", answers)):
        with pytest.raises(DataError, match="s are of type NoneType, not texts; give a list of str"):
            call(None)
    with pytest.raises(DataError, match="there is no request"):
        memory.generate_inputs([])


def test_an_argument_in_latin_1_is_refused_by_the_shell(tmp_path, monkeypatch):
    monkeypatch.setattr(api, "load", functools.partial(load, dtype="float32", device="cpu"))
    command = ["write", str(tmp_path / "m"), "Caf\udce9", "--instruction", "All.", "--backbone", "tiny"]
    with pytest.raises(SystemExit, match="error: the document holds a byte that is no UTF-8"):
        cli.main(command)
    assert not (tmp_path / "m").exists()
