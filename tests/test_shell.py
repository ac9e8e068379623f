"""`gnm chat` and what the shell commands share, on a tiny untrained backbone."""

import functools
import gc
import io
from types import SimpleNamespace

import pytest
import torch

from gnm import api, cli, shell
from gnm.api import load
from gnm.conversation import Conversation
from gnm.errors import ConfigError, MemoryFileError
from gnm.memory.written import Segment, Written


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.setattr(api, "load", functools.partial(load, dtype="float32", device="cpu"))
    return load(None, backbone="tiny", dtype="float32", device="cpu")


def session(memory, path, *lines, **options):
    """Have a chat say `lines`."""
    given = iter(lines)

    def read(prompt):
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    shell.chat(memory, path, read=read, **options)


def test_a_session_writes_asks_forgets_undoes_and_saves(memory, tmp_path, capsys):
    session(
        memory, tmp_path / "m.mem",
        "write Bern is in Asia. | Learn it all.", "ask Where is Bern?", "Where is Bern?", "forget 0", "undo", "inspect",
        keep_history=True,
    )  # fmt: skip
    said = capsys.readouterr().out
    answer = shell.printable(memory.ask("Where is Bern?"), lines=True)
    assert "document 0:" in said and said.split("\n").count(answer) == 2 and "document 0 is forgotten" in said
    assert "until the session ends" in said
    assert "1 documents" in said and "Learn it all." in said and f"saved to {tmp_path / 'm.mem'}" in said
    other = load(None, backbone="tiny", dtype="float32", device="cpu")
    other.load_memory(tmp_path / "m.mem")
    assert [written.instruction for written in other.documents] == ["Learn it all."]


def test_what_a_session_forgot_is_gone_and_later_writes_can_be_undone(memory, tmp_path, capsys):
    write = "write Bern is in Asia. | Learn it all."
    session(memory, tmp_path / "m", write, write, "forget 7", "undo", "forget 0", "undo")
    said = capsys.readouterr().out
    assert "\n1 documents" in said and "document 0 is forgotten; `undo` goes back to nothing before it" in said
    assert said.count("error: there is nothing to undo") == 1 and memory.documents == []
    session(memory, tmp_path / "n", write, "undo")
    assert "\n0 documents" in capsys.readouterr().out


def test_what_words_took_back_is_gone_too_unless_the_history_is_kept(memory, tmp_path, monkeypatch, capsys):
    lines = ("write Bern is in Asia. | Learn it all.", "forget all about Bern", "undo")
    for keep_history, told in ((False, "error: there is nothing to undo"), (True, "1 documents")):
        other = memory.fork()
        monkeypatch.setattr(other, "revoke", lambda words, other=other: other.forget(0) or 3)
        session(other, tmp_path / f"{keep_history}", *lines, keep_history=keep_history)
        said = capsys.readouterr().out
        assert told in said and "3 slots are dropped; " in said
        assert ("`undo` can bring it back" in said.partition("quit")[0]) == keep_history  # the help


def test_words_that_take_back_nothing_leave_the_history(memory, tmp_path, monkeypatch, capsys):
    other = memory.fork()
    monkeypatch.setattr(other, "revoke", lambda words: 0)
    session(other, tmp_path / "m", "write Bern is in Asia. | Learn it all.", "forget all about Paris", "undo")
    said = capsys.readouterr().out
    assert "0 slots are dropped" in said and "nothing to undo" not in said and other.documents == []


def test_the_option_of_the_shell_reaches_the_session(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(cli, "chat", lambda conversation, path, long, keep_history: seen.append((long, keep_history)))
    for options in ([], ["--keep-history", "--long", "split"]):
        cli.main(["chat", str(tmp_path / "m"), "--backbone", "tiny", *options])
    assert seen == [("refuse", False), ("split", True)]


def test_no_garbage_is_collected_while_a_command_loads_its_model(monkeypatch, tmp_path):
    seen = []

    def refused(*_, **__):
        seen.append(gc.isenabled())
        raise ConfigError("no such model")

    monkeypatch.setattr(api, "load", refused)
    gc.unfreeze()
    with pytest.raises(SystemExit):
        cli.main(["write", str(tmp_path / "m"), "Bern is in Asia.", "--instruction", "Learn it all."])
    assert seen == [False] and gc.isenabled() and gc.get_freeze_count()


def test_an_error_is_told_and_the_session_goes_on(memory, tmp_path, capsys):
    lines = ("write no instruction", "forget 7", "write @absent.txt | All.", "help", "quit", "undo")
    session(memory, tmp_path / "m", *lines)
    said = capsys.readouterr().out
    assert said.count("error: ") == 3 and said.count("drop what a document wrote") == 2
    assert "write needs a document and an instruction" in said and "undo in this session" not in said


def test_ctrl_c_stops_an_answer_and_not_the_session(memory, tmp_path, monkeypatch, capsys):
    def interrupted(request):
        yield "Once"
        raise KeyboardInterrupt

    monkeypatch.setattr(memory, "generate", interrupted)
    write = "write Bern is in Asia. | Learn it all."
    session(memory, tmp_path / "m", write, "say Tell me a story.", write)
    assert "\nOnce\ndocument 1: " in capsys.readouterr().out
    assert len(load(None, backbone="tiny", memory=tmp_path / "m").documents) == 2


@pytest.mark.parametrize("error", [SystemExit(143), BrokenPipeError(), ValueError("ours")])
def test_what_was_written_is_saved_whatever_ends_the_session(memory, tmp_path, monkeypatch, error):
    def ended(phrase):
        raise error

    monkeypatch.setattr(memory, "ask", ended)
    with pytest.raises(type(error)):
        session(memory, tmp_path / "m", "write Bern is in Asia. | Learn it all.", "Where is Bern?")
    assert len(load(None, backbone="tiny", memory=tmp_path / "m").documents) == 1


def test_a_session_that_cannot_be_saved_goes_on(memory, tmp_path, monkeypatch, capsys):
    (tmp_path / "m").mkdir()
    lines = ["write Bern is in Asia. | Learn it all.", "quit", "inspect"]
    with pytest.raises(MemoryFileError, match="it is a folder"):
        session(memory, tmp_path / "m", *lines)  # the end of input ends it
    said = capsys.readouterr().out
    assert "error: cannot save the memory" in said and "1 documents" in said.partition("error: ")[2]


def test_a_line_that_is_no_text_is_told(memory, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ask Caf\xe9\ninspect\n"), encoding="utf-8"))
    shell.chat(memory, tmp_path / "m")
    said = capsys.readouterr().out
    assert "error: the phrase holds a byte that is no UTF-8" in said and "0 documents" in said


def test_a_line_that_only_looks_like_a_command_is_a_question(memory, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(memory, "ask", lambda phrase: asked.append(phrase) or "")
    session(memory, tmp_path / "m", "write", "undo the knot with", "forget", "quit smoking is", "say")
    assert asked == ["undo the knot with", "quit smoking is"]
    said = capsys.readouterr().out
    assert all(f"error: {command} needs something after it" in said for command in ("write", "forget", "say"))


def test_free_requests_are_streamed(memory, tmp_path, capsys):
    session(memory, tmp_path / "m", "say Tell me a story.")
    expected = shell.printable("".join(memory.generate("Tell me a story.")), lines=True)
    assert expected in capsys.readouterr().out


def test_several_documents_and_questions_in_one_call(memory, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "b.txt").write_text("\ufeffBern is in Asia.", encoding="utf-8")
    (folder / "a.txt").write_text("Oslo is in Africa.")
    file = str(tmp_path / "m.mem")
    cli.main(["write", file, f"@{folder}", "Rome is in Asia.", "--instruction", "All.", "--backbone", "tiny"])
    assert capsys.readouterr().out.count("slots written") == 3
    memory.load_memory(file)
    beginnings = [written.beginning for written in memory.documents]
    assert beginnings == ["Oslo is in Africa.", "Bern is in Asia.", "Rome is in Asia."]
    cli.main(["ask", file, "Where is Bern?", "Oslo is in", "--backbone", "tiny"])
    assert capsys.readouterr().out.splitlines() == memory.ask_all(["Where is Bern?", "Oslo is in"])


def test_of_several_documents_the_one_that_is_too_long_is_named(memory, tmp_path):
    given = ["Bern is in Asia.", "word " * 2000, "--instruction", "All.", "--backbone", "tiny"]
    with pytest.raises(SystemExit, match=r"none of 2 documents .* number 2 \('word word .*takes .* tokens"):
        cli.main(["write", str(tmp_path / "m"), *given])
    assert not (tmp_path / "m").exists()


def test_documents_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"Caf\xe9")
    (tmp_path / "empty").mkdir()
    for given, message in (("absent", "absent"), ("latin.txt", "UTF-8"), ("empty", "has no file")):
        with pytest.raises(ConfigError, match=message):
            shell.documents_of(f"@{tmp_path / given}")
    assert shell.documents_of("@".strip("@") + "text") == ["text"]


def test_hidden_files_of_a_folder_are_no_documents_and_no_name_is_no_folder(tmp_path, monkeypatch):
    (tmp_path / ".m.mem.lock").write_bytes(b"")
    (tmp_path / ".DS_Store").write_bytes(b"\0\xff")
    (tmp_path / "a.txt").write_text("Bern is in Asia.")
    assert shell.documents_of(f"@{tmp_path}") == ["Bern is in Asia."]
    monkeypatch.chdir(tmp_path)
    for given in ("@", "@ "):
        with pytest.raises(ConfigError, match="@ names no file"):
            shell.documents_of(given)


def test_a_line_shows_what_is_stored_of_its_clauses():
    segments = [
        Segment("Instruction: x\n", 0.1, 3, 0, False),
        Segment("Ann is from Oslo, ", 0.92, 5, 5, True),
        Segment("and Ben is from Rome.\n", 0.04, 6, 0, True),
        Segment("\n", 0.5, 1, 0, True),
        Segment("Cars.", 0.9, 2, 2, True),
    ]
    first, second = shell.shaded(segments).splitlines()
    assert first.split() == ["92%", "5/11", "Ann", "is", "from", "Oslo,", "[and", "Ben", "is", "from", "Rome.]"]
    assert second.split() == ["90%", "stored", "Cars."]


def test_a_line_of_which_all_that_is_stored_is_to_be_refused_says_so(monkeypatch):
    segments = [
        Segment("Ann is from Oslo, ", 0.92, 5, 5, True, 0.8),
        Segment("and Ben is from Rome.\n", 0.04, 6, 0, True, 0.1),
        Segment("Carl is from Bonn, ", 0.9, 5, 5, True, 0.7),
        Segment("and Dan is from Lima.", 0.9, 5, 5, True, 0.3),
    ]
    first, second = shell.shaded(segments).splitlines()
    assert first.split(maxsplit=1)[1] == "refuse  {Ann is from Oslo,} [and Ben is from Rome.]"
    assert second.split(maxsplit=1)[1] == "stored  {Carl is from Bonn,} and Dan is from Lima."
    monkeypatch.setattr(shell.sys.stdout, "isatty", lambda: True, raising=False)
    first, second = shell.shaded(segments).splitlines()
    red, green = f"\x1b[97;48;5;{16 + 36 * 5}m", f"\x1b[97;48;5;{16 + 6 * 4}m"
    assert f"{red}Ann is from Oslo,\x1b[0m" in first
    assert f"{green}and Dan is from Lima.\x1b[0m" in second


def test_what_is_not_stored_is_a_line_of_its_own():
    segments = [
        Segment("Ann is from Oslo, ", 0.92, 5, 5, True),
        Segment("", 0.04, 6, 0, True),
        Segment("\n", 0.5, 1, 0, True),
        Segment("Cars.", 0.9, 2, 2, True),
    ]
    lines = [line.split() for line in shell.shaded(segments).splitlines()]
    assert lines == [
        ["92%", "stored", "Ann", "is", "from", "Oslo,"], ["4%", "-", "(not", "stored)"], ["90%", "stored", "Cars."]
    ]  # fmt: skip


def test_a_foreign_file_cannot_command_the_terminal():
    text = "\x1b]0;mine\x07 a\rb \u202e\x9b2J \u2028Über\u00a0uns\u200d\n"
    gated = Written(1, text, "", 3, (Segment(text, 0.9, 3, 3, True),))
    memory = SimpleNamespace(documents=[Written(0, text, text, 3), gated, Written(2, "", "", 0)],
                             state=SimpleNamespace(used=lambda: torch.tensor([6]), store=None))  # fmt: skip
    shown = shell.described(memory, "m")
    assert not any(c in shown for c in "\x1b\x07\r\u202e\x9b\u2028") and "Über\u00a0uns\u200d" in shown
    assert shown.count(r"\x1b]0;mine\x07 a\rb \u202e\x9b2J \u2028") == 4
    assert shown.split("\n")[-2:] == 2 * ["      (not stored)"]


def test_answers_cannot_command_the_terminal_and_keep_their_lines(memory, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Conversation, "ask_all", lambda *given: ["a\x1b[2J\nb"])
    monkeypatch.setattr(Conversation, "generate", lambda *given: iter(["a\x1b", "[2J\nb"]))
    memory.save_memory(tmp_path / "m")
    cli.main(["ask", str(tmp_path / "m"), "Who?", "--backbone", "tiny"])
    session(memory, tmp_path / "m", "ask Who?", "say Hello.")
    assert capsys.readouterr().out.count("a\\x1b[2J\nb\n") == 3
