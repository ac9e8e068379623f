"""Documents longer than the window are written in parts that are one document for forget, undo and inspect."""

import io

import pytest
import torch

from conversations import INSTRUCTION, same
from gnm import api, cli
from gnm.api import load
from gnm.errors import ConfigError, MemoryFileError
from gnm.learners import long_documents
from gnm.learners.long_documents import parts_for, split_to
from test_api_gates import gated  # noqa: F401 (a fixture)

FIRST, LAST = "The capital of Elbonia is Orvane.", "The currency of Elbonia is the grubnick."
DOCUMENT = "\n".join([FIRST, *(f"Fact {n} is that {n} comes after {n - 1}." for n in range(1, 60)), LAST])


def narrow(conversation, window=600):
    """The conversation with a decoder that attends over few positions."""
    conversation._learner.lm.decoder.config.max_position_embeddings = window
    assert conversation._learner.lm.decoder.window == window
    return conversation


@pytest.fixture
def memory(gated):  # noqa: F811
    """A memory with gates that stores a tenth of each part."""
    return narrow(load(gated, dtype="float32", device="cpu", gates={"share": 0.1}))


def parts_of(conversation):
    return parts_for(conversation._learner, DOCUMENT, INSTRUCTION)


def test_parts_are_whole_segments_and_lose_nothing():
    parts = split_to(DOCUMENT, 200, len)
    assert "".join(parts) == DOCUMENT and len(parts) > 1 and all(len(part) <= 200 for part in parts)
    assert all(part.endswith(".\n") for part in parts[:-1])
    assert split_to("a b c. ", 200, len) == ["a b c. "]
    with pytest.raises(MemoryFileError, match="the clause 'aaa.* takes 300 tokens, 200 are free.*break it"):
        split_to("Short. " + "a" * 300, 200, len)


def test_a_long_document_is_refused_unless_it_is_to_be_split(memory):
    with pytest.raises(MemoryFileError, match="split the document .long=.split., in the shell --long split"):
        memory.write(DOCUMENT, INSTRUCTION)
    with pytest.raises(ConfigError, match="long: 'cut' is none of refuse, split"):
        memory.write(DOCUMENT, INSTRUCTION, long="cut")
    assert memory.documents == []


def test_an_instruction_that_would_take_half_of_each_part_is_refused_before_work(memory, monkeypatch):
    monkeypatch.setattr(memory._learner, "write", lambda *given: pytest.fail("a part is written"))
    monkeypatch.setattr(long_documents, "split_to", lambda *given: pytest.fail("the document is cut"))
    long = "Learn about Elbonia. " * 30
    with pytest.raises(
        MemoryFileError, match=r"the instruction takes \d+ tokens, more than half of .*shorten the instr"
    ):
        memory.write(DOCUMENT, long, long="split")
    assert parts_for(narrow(memory, 3000)._learner, FIRST, long) == [FIRST]  # it fits whole


def test_a_short_document_is_written_as_ever(memory):
    memory.write(FIRST, INSTRUCTION, long="split")
    split, documents = memory.state, memory.documents
    memory.undo()
    memory.write(FIRST, INSTRUCTION)
    assert same(memory.state, split) and memory.documents == documents


def test_the_parts_are_one_document_and_hold_what_separate_ones_would(memory, gated):  # noqa: F811
    parts = parts_of(memory)
    assert len(parts) > 3
    memory.write("Before.", INSTRUCTION)
    before = memory.state
    assert memory.write(DOCUMENT, INSTRUCTION, long="split") == 1 and memory.state.written == 2
    separate = narrow(load(gated, dtype="float32", device="cpu", gates={"share": 0.1}))
    for part in ("Before.", *parts):
        separate.write(part, INSTRUCTION)
    assert torch.equal(memory.state.slots, separate.state.slots)
    for phrase in (FIRST[:-8], LAST[:-10]):
        assert memory.ask(phrase) == separate.ask(phrase)
    document = memory.documents[1]
    shown = [part for part in document.segments if part.of_document]
    assert "".join(part.text for part in shown).split() == DOCUMENT.split()
    assert document.slots == sum(part.stored for part in document.segments)
    assert [part.stored for part in document.segments] == [
        part.stored for each in separate.documents[1:] for part in each.segments
    ]
    memory.forget(1)
    assert same(memory.state.__class__(**memory.state.tensors(), written=1), before) and len(memory.documents) == 1
    memory.undo()
    memory.undo()
    assert same(memory.state, before) and len(memory.documents) == 1
    assert memory.write(FIRST, INSTRUCTION) == 1


def test_without_gates_the_window_bounds_what_can_be_read(tmp_path):
    whole = narrow(load(None, backbone="tiny", dtype="float32", device="cpu"))
    with pytest.raises(MemoryFileError, match="the memory would take .*a smaller pool .*--capacity"):
        whole.write(DOCUMENT, INSTRUCTION, long="split")
    small = narrow(load(None, backbone="tiny", dtype="float32", device="cpu", capacity=300, eviction="oldest"))
    small.write(DOCUMENT, INSTRUCTION, long="split")
    small.ask(LAST[:-10])
    assert small.documents[0].slots == 300
    small.save_memory(tmp_path / "m")
    assert "Orvane" not in (tmp_path / "m").read_bytes().decode("utf-8", "replace")  # its first slots are gone
    small.load_memory(tmp_path / "m")
    assert small.documents[0].beginning == ""


def test_each_part_is_read_alone_so_memory_grows_with_the_length(memory, monkeypatch):
    lengths = []
    run = memory._learner.lm.decoder.run

    def counted(ids, *given):
        lengths.append(ids.shape[-1])
        return run(ids, *given)

    monkeypatch.setattr(memory._learner.lm.decoder, "run", counted)
    memory.write(DOCUMENT, INSTRUCTION, long="split")
    assert len(lengths) > 3 and max(lengths) <= memory._learner.lm.room


def test_the_shell_splits_and_shows_one_document(gated, tmp_path, monkeypatch, capsys):  # noqa: F811
    def narrow_load(*given, **options):
        return narrow(load(*given, **options, dtype="float32", device="cpu", gates={"share": 0.1}))

    monkeypatch.setattr(api, "load", narrow_load)
    command = ["write", str(tmp_path / "m"), DOCUMENT, "--instruction", INSTRUCTION, "--adapter", str(gated)]
    with pytest.raises(SystemExit, match="--long split"):
        cli.main(command)
    cli.main([*command, "--long", "split"])
    cli.main(["inspect", str(tmp_path / "m"), "--adapter", str(gated)])
    assert "of 1 documents" in capsys.readouterr().out
    cli.main(["forget", str(tmp_path / "m"), "0", "--adapter", str(gated)])
    assert "0 documents are left" in capsys.readouterr().out
    assert "Elbonia" not in (tmp_path / "m").read_bytes().decode("utf-8", "replace")


def test_a_session_splits_if_it_is_asked_to(gated, tmp_path, monkeypatch, capsys):  # noqa: F811
    def narrow_load(*given, **options):
        return narrow(load(*given, **options, dtype="float32", device="cpu", gates={"share": 0.1}))

    (tmp_path / "long.txt").write_text(DOCUMENT)
    monkeypatch.setattr(api, "load", narrow_load)
    for options, said in (((), "error: "), (("--long", "split"), "document 0: ")):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"write @{tmp_path / 'long.txt'} | {INSTRUCTION}\n"))
        cli.main(["chat", str(tmp_path / "m"), "--adapter", str(gated), *options])
        assert said in capsys.readouterr().out
