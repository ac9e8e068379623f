"""What can be known before the model is loaded is said before, and what is no file, number or text is named."""

import functools
import shutil
from typing import get_args

import pytest

from conversations import DOCUMENT, INSTRUCTION, same, tiny
from gnm import api, cli
from gnm.api import load
from gnm.errors import BackboneError, ConfigError, GNMError, MemoryFileError
from gnm.memory import PoolSettings
from gnm.memory.files import read_memory
from gnm.models.memory_lm import MemoryLM
from spoiling import flip_a_bit


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a memory, the same damaged, one of another model, and what is no memory."""
    folder = tmp_path_factory.mktemp("files")
    for name, backbone in (("m", "tiny"), ("qwen", "tiny-qwen2")):
        memory = load(None, backbone=backbone, dtype="float32", device="cpu")
        memory.write(DOCUMENT, INSTRUCTION)
        memory.save_memory(folder / name)
    shutil.copyfile(folder / "m", folder / "m2")
    shutil.copyfile(folder / "m", folder / "damaged")
    flip_a_bit(folder / "damaged")
    (folder / "text").write_text("a text")
    (folder / "link").symlink_to(folder / "m")
    return folder


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["ask", "damaged", "Where is Bern?"], "damaged.*checksum"),
        (["ask", "text", "Where is Bern?"], "text is damaged or no memory file"),
        (["ask", "m", "Where is Bern?", " "], "the phrase is empty"),
        (["ask", "m", "Caf\udce9"], "the phrase holds a byte that is no UTF-8"),
        (["inspect", "damaged"], "damaged.*checksum"),
        (["chat", "damaged"], "damaged.*checksum"),
        (["write", "damaged", "a", "--instruction", "b"], "damaged.*checksum"),
        (["write", "m", "a", "--instruction", " "], "the instruction is empty"),
        (["write", "m", "a", "\n", "--instruction", "b"], "the document is empty"),
        (["write", "m", "@absent", "--instruction", "b"], "cannot read the document absent"),
        (["forget", "m", "3"], "document 3 has no slots in this memory; it holds"),
        (["forget", "m", " "], "the instruction is empty"),
        (["merge", "m", "m"], "the memory itself"),
        (["merge", "m", "link"], "the memory itself"),
        (["merge", "m", "damaged"], "damaged.*checksum"),
        (["merge", "m", "qwen"], "qwen was written by the model .*; merge memories of one model"),
        (["forget", "m", "9" * 5000], "the instruction '99*' does not say what is to be forgotten"),
        (["ask", "m", "a", "--store", "4"], "give its size too: .*--capacity SLOTS"),
        (["ask", "m", "a", "--store", "4", "--capacity", "90"], "set write.gates"),
        (["ask", "m", "a", "--capacity", "90"], "--capacity would change nothing: .*m has no long-term store"),
        (["inspect", "m", "--eviction", "oldest"], "--eviction would change nothing: "),
        (["forget", "m", "0", "--capacity", "9", "--eviction", "oldest"], "--capacity and --eviction would change"),
        (["write", "m", "a", "--instruction", "b", "--eviction", "oldest"], "eviction: oldest .*--capacity SLOTS"),
        (["chat", "new", "--eviction", "random"], "eviction: random .*never full"),
        (["merge", "m", "m2", "--eviction", "random"], "eviction: random .*never full"),
    ],
)
def test_commands_are_refused_before_the_model_is_loaded(files, monkeypatch, line, message):
    def never(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(api, "load_backbone", never)
    monkeypatch.chdir(files)
    before = (files / "m").read_bytes()
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        cli.main([*line, "--backbone", "tiny"])
    assert (files / "m").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": 5}, "load: adapter"),
        ({"backbone": b"tiny"}, "load: backbone"),
        ({"dtype": None}, "load: dtype"),
        ({"device": 0}, "load: device"),
        ({"capacity": "80"}, "load: capacity"),
        ({"capacity": True}, "load: capacity"),
        ({"capacity": 0}, "load: capacity"),
        ({"eviction": 1}, "load: eviction"),
        ({"eviction": "newest"}, "the settings of tiny: memory.eviction"),
        ({"eviction": "oldest"}, "eviction: oldest .*; give its size too: capacity"),
        ({"gates": 0.5}, "load: gates"),
        ({"gates": {}}, "gates: tiny has no write gates"),
        ({"store": 8}, "load: store"),
        ({"store": {"k": "many"}, "capacity": 80}, "memory.store.k"),
        ({"keep_notes": "no"}, "load: keep_notes"),
        ({"undo_steps": "few"}, "load: undo_steps"),
        ({"memory": 3}, "load: memory"),
    ],
)
def test_arguments_of_load_are_named(monkeypatch, settings, message):
    monkeypatch.setattr(api, "load_backbone", None)
    with pytest.raises(ConfigError, match=message):
        load(**{"adapter": None, "backbone": "tiny", **settings})


@pytest.mark.parametrize("path", [None, 5, "", "m\0", ["m"]])
def test_what_is_no_path_is_refused(path):
    memory = tiny()
    for call in (memory.load_memory, memory.save_memory, memory.merge):
        with pytest.raises(MemoryFileError, match="is no path of a memory file; give a str or a Path"):
            call(path)
    assert memory.state.written == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": "1"}, {"seed": -1}, {"seed": True}, {"seed": 2**64}, {"max_new_tokens": "9"}, {"max_new_tokens": True},
        {"max_new_tokens": None}, {"do_sample": 1}, {"temperature": None}, {"temperature": "warm"}, {"top_k": 1.5},
        {"top_p": []}, {"min_p": "0.1"}, {"repetition_penalty": None}, {"no_repeat_ngram_size": "2"},
    ],
)  # fmt: skip
def test_settings_of_generate_are_named_at_once(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        tiny().generate("Where is Bern?", **settings)


@pytest.mark.parametrize(("request_", "answers"), [(None, ["a"]), ("Where?", [None]), ("Where?", ["a", ""])])
def test_what_is_no_text_is_not_scored(request_, answers):
    with pytest.raises(GNMError, match="the (request|answer) is"):
        tiny().score(request_, answers)


def test_a_memory_is_not_merged_with_itself(files):
    memory = tiny()
    memory.load_memory(files / "m")
    with pytest.raises(MemoryFileError, match="holds this memory itself"):
        memory.merge(files / "m")
    memory.write(DOCUMENT, INSTRUCTION)
    memory.merge(files / "m")  # another memory by now
    assert len(memory.documents) == 3


def test_a_loaded_memory_is_given_along(files):
    for given in (files / "m", str(files / "m"), read_memory(files / "m")):
        memory = tiny(memory=given)
        assert [each.instruction for each in memory.documents] == [INSTRUCTION]
        memory.save_memory(files / "m")  # it knows which file it is from
    with pytest.raises(MemoryFileError, match="was written by the model"):
        tiny(memory=files / "qwen")
    with pytest.raises(MemoryFileError, match="there is no memory file"):
        tiny(memory=files / "absent")


def test_a_model_that_begins_with_a_saved_memory_makes_no_new_one(files, monkeypatch):
    monkeypatch.setattr(MemoryLM, "initial", None)
    memory = tiny(memory=files / "m")
    assert same(memory.state, read_memory(files / "m").state) and memory.ask("Where is Bern?") is not None
    with pytest.raises(MemoryFileError, match="nothing to undo"):
        memory.undo()


def test_the_shell_has_every_kind_of_eviction(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(api, "load", lambda *_, **settings: given.append(settings) or tiny())
    kinds = get_args(PoolSettings.model_fields["eviction"].annotation)
    for kind in kinds:
        cli.main(["write", str(tmp_path / "m"), "a", "--instruction", "b", "--capacity", "90", "--eviction", kind])
        (tmp_path / "m").unlink()
    assert [(each["capacity"], each["eviction"]) for each in given] == [(90, kind) for kind in kinds]
    with pytest.raises(SystemExit, match="2"):
        cli.main(["ask", "m", "a", "--eviction", "newest"])


@pytest.mark.parametrize("seconds", ["soon", "-1", "inf", "nan"])
def test_a_timeout_is_a_number_of_seconds(capsys, seconds):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["forget", "m", "0", f"--timeout={seconds}"])
    assert f"{seconds} is no number of seconds; give 0 or more" in capsys.readouterr().err


def test_an_unknown_dtype_or_backbone_is_named():
    for settings in ({"dtype": "int8"}, {"backbone": "tinny"}):
        with pytest.raises(BackboneError, match="unknown"):
            load(**{"adapter": None, "backbone": "tiny", "device": "cpu", **settings})


def test_a_text_may_begin_with_an_at_sign(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api, "load", functools.partial(load, dtype="float32", device="cpu"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ann").write_text("Of a file.")
    given = ["m", "@@ann is in Bern.", "@ann", "a @ b", "@@@ann", "--instruction", "All.", "--backbone", "tiny"]
    cli.main(["write", *given])
    beginnings = [written.beginning for written in tiny(memory=tmp_path / "m").documents]
    assert beginnings == ["@ann is in Bern.", "Of a file.", "a @ b", "@@ann"]


@pytest.mark.parametrize("name", ["adapter", "memory"])
def test_a_path_of_another_type_is_told_in_words(name):
    with pytest.raises(ConfigError, match=rf"{name}.str: .*; {name}: Input should be an instance of Path") as told:
        load(**{name: 3})
    assert "lax-or-strict" not in str(told.value)
