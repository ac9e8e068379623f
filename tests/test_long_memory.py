"""A long-term store in a program and from the shell, on a tiny untrained backbone with gates."""

import functools

import pytest
import torch

from gnm import api, cli
from gnm.api import load
from gnm.errors import ConfigError, MemoryFileError
from gnm.learners.long_documents import write_parts
from gnm.memory import save_memory
from gnm.memory.mapped import Mapped
from gnm.memory.parts import parts_folder
from gnm.shell import described
from gnm.weights.adapters import read_about

INSTRUCTION = "Learn it."
TEXTS = ("Oslo is a big town\nThe horse is red\n", "Seven green birds fly\nIce: two\n", "Zed lives in Peru\n")


def small(open_gates, **settings):
    return load(open_gates, dtype="float32", device="cpu", **{"capacity": 80, "eviction": "oldest", **settings})


def filled(open_gates, **settings):
    memory = small(open_gates, **{"store": {"k": 2, "layer": 1}, **settings})
    for text in TEXTS:
        memory.write(text, INSTRUCTION)
    return memory


def test_what_the_pool_evicts_is_known_counted_and_forgotten(open_gates):
    lossy, memory = filled(open_gates, store=None), filled(open_gates)
    store = memory.state.store[0]
    assert lossy.documents[0].slots == 0 and lossy.documents[0].beginning == ""
    assert memory.documents[0].beginning == " ".join(TEXTS[0].split()) and memory.documents[0].slots > 0
    assert all(part.stored == part.tokens for part in memory.documents[0].segments)
    memory.ask_all(["Oslo is a", "Ice:"])
    assert int(memory.state.store[0].retrieved.sum()) == 4 and int(store.retrieved.sum()) == 0
    assert described(memory, "m").startswith(f"m: {sum(each.slots for each in memory.documents)} slots of 3")
    list(memory.generate("Where is Oslo?", max_new_tokens=2))
    answer = memory.ask("Oslo is a")
    memory.forget(0)
    assert 0 not in memory.state.store[0].source and [each.number for each in memory.documents] == [1, 2]
    memory.undo()
    assert memory.ask("Oslo is a") == answer and memory.documents[0].slots > 0


@torch.no_grad()
@pytest.mark.parametrize("store", [{"takes": "written", "layer": 1}, {"layer": 1}])
def test_a_document_in_parts_is_one_document_of_the_store(open_gates, store):
    learner = small(open_gates, store=store)._learner
    memory, segments, slots = write_parts(learner, learner.reset([0]), TEXTS[:2], INSTRUCTION)
    state = learner.write(memory, TEXTS[2:], [INSTRUCTION]).state
    held = state.store[0]
    own = held.segment[held.source == 0].tolist()
    assert set(held.source.tolist()) <= {0, 1} and own == sorted(set(own)) and max(own) > 3
    assert state.documents()[0] == slots == sum(part.tokens for part in segments)


def test_merging_takes_stores_in(open_gates, tmp_path):
    filled(open_gates).save_memory(tmp_path / "a")
    memory = filled(open_gates)
    with pytest.raises(MemoryFileError, match="holds this memory itself"):
        memory.merge(tmp_path / "a")
    memory.ask("Oslo is a")
    memory.undo()
    memory.write(TEXTS[2][::-1], INSTRUCTION)
    memory.merge(tmp_path / "a")
    assert {0, 1, 3, 4} <= set(memory.state.store[0].source.tolist())
    assert [each.beginning for each in memory.documents[:2]] == [each.beginning for each in memory.documents[3:5]]
    without = small(open_gates)
    without.write(TEXTS[0], INSTRUCTION)
    without.save_memory(tmp_path / "b")
    memory.merge(tmp_path / "b")
    assert len(memory.documents) == 7 and all(each.slots for each in memory.documents)


def test_a_memory_without_a_store_drops_no_other_memorys_store(open_gates, tmp_path, monkeypatch):
    stored = filled(open_gates, store={"k": 2})
    stored.save_memory(tmp_path / "stored")
    plain = load(open_gates, dtype="float32", device="cpu")
    plain.write("Bern is old.", INSTRUCTION)
    plain.save_memory(tmp_path / "plain")
    with pytest.raises(MemoryFileError, match="stored has a long-term store"):
        plain.merge(tmp_path / "stored")
    monkeypatch.setattr(api, "load", functools.partial(load, dtype="float32", device="cpu"))
    merged = ["merge", str(tmp_path / "plain"), str(tmp_path / "stored"), "--adapter", str(open_gates)]
    with monkeypatch.context() as unloaded:
        unloaded.setattr(api, "load_backbone", None)
        with pytest.raises(SystemExit, match="stored has a long-term store.*--capacity SLOTS --store SEGMENTS"):
            cli.main(merged)
    cli.main([*merged, "--capacity", "80", "--store", "2"])
    together = load(open_gates, dtype="float32", device="cpu", memory=tmp_path / "plain")
    slots = [each.slots for each in (*plain.documents, *stored.documents)]
    assert [each.slots for each in together.documents] == slots


def test_the_shell_keeps_and_shows_a_store(open_gates, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api, "load", functools.partial(load, dtype="float32", device="cpu", eviction="oldest"))
    given = [str(tmp_path / "m"), "--adapter", str(open_gates), "--capacity", "80", "--store", "2"]
    cli.main(["write", *given, *TEXTS, "--instruction", INSTRUCTION])
    cli.main(["ask", *given, "Oslo is a"])
    capsys.readouterr()
    cli.main(["inspect", *given, "--stats"])
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in shown[1:4]] == [["0", "2"], ["1", "1"], ["2", "0"]]
    assert int(shown[1][3]) > 0 and shown[3][3] == "0" and shown[5][:2] == ["long-term", "store:"]
    for wrong in ("0", "-1", "many"):
        with pytest.raises(SystemExit):
            cli.main(["ask", *given[:-1], wrong, "Oslo is a"])


def test_a_file_tells_the_settings_of_its_store(open_gates, tmp_path, monkeypatch, capsys):
    memory = filled(open_gates)
    memory.save_memory(tmp_path / "m")
    monkeypatch.setattr(api, "load", functools.partial(load, dtype="float32", device="cpu"))
    own = [str(tmp_path / "m"), "--adapter", str(open_gates)]
    cli.main(["inspect", *own])
    held = memory.state.store[0]
    told = f"long-term store: {len(held)} segments, {int(held.lengths.sum())} slots; a question reads 2 of them, found "
    told += (
        "by the mean input of layer 1, whitened, and the tokens in common by 0.4; pool: capacity 80, eviction oldest"
    )
    assert capsys.readouterr().out.splitlines()[1] == told
    cli.main(["inspect", *own, "--store", "1", "--capacity", "60"])
    assert "a question reads 1 of them, found by the mean input of layer 1" in capsys.readouterr().out
    cli.main(["ask", *own, "Oslo is a"])
    assert capsys.readouterr().out.strip() == memory.ask("Oslo is a")
    cli.main(["write", *own, "Bern is old.", "--instruction", INSTRUCTION])
    again = load(open_gates, dtype="float32", device="cpu", memory=tmp_path / "m")
    assert again.pool == memory.pool and len(again.documents) == 4


def test_a_file_from_before_there_were_lexical_keys_is_read_as_it_was_written(open_gates, tmp_path):
    memory = filled(open_gates, store={"k": 2, "layer": 1, "lexical": 0.0})
    settings = memory.pool.model_dump(mode="json")
    del settings["store"]["lexical"]
    save_memory(tmp_path / "m", memory.state, memory._digest, pool=settings)
    again = load(open_gates, dtype="float32", device="cpu", memory=tmp_path / "m")
    assert again.pool == memory.pool and again.ask("Oslo is a") == memory.ask("Oslo is a")


def test_a_file_that_does_not_tell_is_refused_before_the_model_is_loaded(open_gates, tmp_path, monkeypatch):
    memory = filled(open_gates)
    save_memory(tmp_path / "m", memory.state, memory._digest)
    monkeypatch.setattr(api, "load_backbone", None)
    with pytest.raises(SystemExit, match="has a long-term store.*--capacity SLOTS --store SEGMENTS"):
        cli.main(["ask", str(tmp_path / "m"), "--adapter", str(open_gates), "Oslo is a"])
    with pytest.raises(MemoryFileError, match="this model searches by the mean input of layer 2, whitened"):
        small(open_gates, store={"k": 2}, memory=tmp_path / "m")
    for wrong in ({"capacity": -1}, {"capacity": 80, "store": 5}, {"size": 80}):
        save_memory(tmp_path / "m", memory.state, memory._digest, {}, wrong)
        with pytest.raises(MemoryFileError, match="is damaged or no memory file .its pool: "):
            load(open_gates, device="cpu", memory=tmp_path / "m")


def test_a_store_on_disk_answers_as_one_in_memory_and_forgets(open_gates, tmp_path):
    memory, disk = filled(open_gates), filled(open_gates, store={"k": 2, "layer": 1, "on_disk": True})
    disk.save_memory(tmp_path / "m")
    assert {type(entry) for entry in disk.state.store[0].entries} == {Mapped}
    again = small(open_gates, store={"k": 1}, memory=tmp_path / "m")
    assert again.pool.store.on_disk and {type(entry) for entry in again.state.store[0].entries} == {Mapped}
    again = load(open_gates, dtype="float32", device="cpu", memory=tmp_path / "m")
    for own in (disk, again):
        assert own.ask("Oslo is a") == memory.ask("Oslo is a")
        own.write("Bern is old.", INSTRUCTION)
    memory.write("Bern is old.", INSTRUCTION)
    assert again.state.store[0].equals(memory.state.store[0])
    again.forget(0)
    again.save_memory(tmp_path / "m")
    assert 0 not in load(open_gates, dtype="float32", device="cpu", memory=tmp_path / "m").state.store[0].source
    held = sum(entry.nbytes for entry in again.state.store[0].entries)
    assert sum(each.stat().st_size for each in parts_folder(tmp_path / "m").iterdir()) < held + 1000
    again.undo()
    assert again.ask("Oslo is a") == disk.ask("Oslo is a") and again.documents[0].slots > 0
    again.save_pretrained(tmp_path / "model")
    assert sorted(each.name for each in (tmp_path / "model").glob("*.parts")) == []


def test_a_model_is_saved_with_its_store(open_gates, tmp_path):
    memory = filled(open_gates)
    memory.save_pretrained(tmp_path / "model")
    assert read_about(tmp_path / "model")["learner"]["memory"]["store"] == {"k": 2, "layer": 1}
    again = load(tmp_path / "model", dtype="float32", device="cpu")
    assert torch.equal(again.state.store[0].keys, memory.state.store[0].keys)
    assert again.ask("Oslo is a") == memory.ask("Oslo is a")


def test_stores_that_make_no_sense_are_refused(open_gates):
    with pytest.raises(ConfigError, match=r"store\.k"):
        small(open_gates, store={"k": 0})
    with pytest.raises(ConfigError, match="a pool without a capacity drops nothing; give its size too"):
        small(open_gates, store={}, capacity=None)
    with pytest.raises(ConfigError, match="set write.gates"):
        load(None, backbone="tiny", dtype="float32", device="cpu", capacity=80, store={})
    with pytest.raises(MemoryFileError, match="there is no memory file"):
        filled(open_gates).merge("nowhere")
