"""Memory probes: they find what slots hold and nothing else, whatever the batch; the program and its files."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
import yaml

from gnm.config import validate
from gnm.errors import CheckpointError, ConfigError, DataError
from gnm.probing import probe as program
from gnm.probing.inputs import last_states, write_alone
from gnm.probing.probes import Examples, ProbeTraining, draw_candidates, fit, picked

CPU = torch.device("cpu")


SIZE, OBJECTS = 24, 12


TRAINING = ProbeTraining(size=24, epochs=12, documents_per_step=4, learning_rate=3e-3)


def examples(seed, count, hold=True):
    """Two facts a document: with `hold` their objects stand in a slot that looks like the fact's phrase."""
    generator = torch.Generator().manual_seed(seed)
    objects = torch.randn(OBJECTS, SIZE, generator=torch.Generator().manual_seed(99))
    phrases = torch.randn(2 * count, SIZE, generator=generator)
    stated = torch.randint(OBJECTS, (2 * count,), generator=generator)
    slots = []
    for number in range(count):
        noise = torch.randn(3 + number % 4, SIZE, generator=generator)
        held = phrases[2 * number : 2 * number + 2] + objects[stated[2 * number : 2 * number + 2]]
        slots.append(torch.cat((noise, held) if hold else (noise,)).bfloat16())
    weights = torch.ones(2 * count, OBJECTS).scatter(1, stated[:, None], 0.0)
    document = torch.arange(count).repeat_interleave(2)
    return Examples(slots, phrases, document, stated, weights), objects


def accuracy(probe, some, objects):
    choice = draw_candidates(some.stated, some.weights, 3, torch.Generator().manual_seed(1))
    return picked(probe, some, objects, *choice, 4).float().mean()


def test_a_probe_finds_what_slots_hold_and_nothing_in_other_memories():
    some, objects = examples(0, 120)
    probe = fit(some, objects, 3, TRAINING, 0, CPU)
    fresh, _ = examples(1, 60)
    assert accuracy(probe, fresh, objects) > 0.9
    assert accuracy(probe, replace(fresh, slots=[*fresh.slots[1:], fresh.slots[0]]), objects) < 0.45
    assert accuracy(probe, examples(1, 60, hold=False)[0], objects) < 0.45
    assert accuracy(probe, replace(fresh, slots=[each[:0] for each in fresh.slots]), objects) < 0.45


def test_a_probe_can_be_trained_on_empty_memories():
    some, objects = examples(0, 20)
    empty = replace(some, slots=[each[:0] for each in some.slots])
    probe = fit(empty, objects, 3, TRAINING, 0, CPU)
    assert accuracy(probe, empty, objects) < 0.45
    assert all(parameter.isfinite().all() for parameter in probe.parameters())


def test_of_two_objects_in_memory_the_one_of_the_phrase_is_picked():
    some, objects = examples(0, 160)
    other = some.stated.view(-1, 2).flip(1).flatten()  # the only other candidate is stated for the other fact
    only = torch.zeros_like(some.weights).scatter(1, other[:, None], 1.0).scatter(1, some.stated[:, None], 0.0)
    told = only.sum(1) > 0
    some = replace(
        some, phrases=some.phrases[told], document=some.document[told], stated=some.stated[told], weights=only[told]
    )
    probe = fit(some, objects, 1, ProbeTraining(size=24, epochs=30, learning_rate=3e-3), 0, CPU)
    assert accuracy(probe, some, objects) > 0.8


def test_batches_and_padding_change_nothing():
    some, objects = examples(0, 12)
    probe = fit(some, objects, 3, TRAINING, 0, CPU)
    slots = torch.nn.utils.rnn.pad_sequence(some.slots, batch_first=True)
    valid = torch.arange(slots.shape[1]) < torch.tensor([len(each) for each in some.slots])[:, None]
    candidates = objects[draw_candidates(some.stated, some.weights, 3, torch.Generator().manual_seed(1))[0]]
    together = probe(slots.masked_fill(~valid[..., None], 7.0), valid, some.document, some.phrases, candidates)
    for number, own in enumerate(some.slots):
        rows = some.document == number
        there = torch.ones(1, len(own), dtype=torch.bool)
        alone = probe(own[None], there, torch.zeros(2, dtype=torch.long), some.phrases[rows], candidates[rows])
        torch.testing.assert_close(alone, together[rows], atol=1e-5, rtol=1e-5)


def test_training_is_a_function_of_the_seed_and_leaves_the_global_state_alone():
    some, objects = examples(0, 12)
    before = torch.get_rng_state()
    first, second, other = (fit(some, objects, 3, TRAINING, seed, CPU) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.null_key, other.null_key)


def test_a_tie_is_no_find():
    some, objects = examples(0, 6)
    probe = fit(some, objects, 3, TRAINING, 0, CPU)
    assert accuracy(probe, some, torch.ones_like(objects)) == 0


def test_what_a_memory_holds_is_found_and_what_it_does_not_hold_is_not(settings, tmp_path, monkeypatch):
    """One slot of each document is kept; for facts to learn, what their objects look like is put beside it."""

    def with_learned(learner, cases, layers, at_once, label=""):
        kept = write_alone(learner, cases, layers, at_once)
        for number, case in enumerate(cases):
            learned = [f" {fact.stated}" for fact in case.facts if fact.kind == "learn"]
            if learned:
                states = last_states(learner, learned, layers, at_once)
                beside = torch.cat((kept[number].slots, states.transpose(0, 1)), dim=1)
                kept[number] = replace(kept[number], slots=beside)
        return kept

    monkeypatch.setattr(program, "write_alone", with_learned)
    gates = {"by": "random", "threshold": 0.0, "slots": 1}
    changed = settings | {
        "methods": {"gnm": {"method": "gnm", "write": {"gates": gates}}},
        "layers": [1, 2],
        "seeds": [0, 1],
        "output": str(tmp_path / "probe"),
    }
    said = program.probe_memories(validate(changed, program.ProbeParams, "test"))
    table = pd.read_csv(tmp_path / "probe.csv").set_index("method")
    assert list(table.index) == ["gnm (layer 1)", "gnm (layer 2)"]
    assert (table["Chance, %"] == 25).all() and (table["Slots"] < 5).all()
    for kind in ("learn", "ignore", "ignore_not_stored"):
        assert (table[f"to_{kind}_samples"] == table[f"Facts to {kind.replace('_', ' ')}"]).all()
        assert (table[f"to_{kind}_low"] < table[f"to_{kind}_high"]).all()
        above = table[f"to_{kind}"] - table[f"to_{kind}_control"]
        pd.testing.assert_series_equal(table[f"to_{kind}_above_control"], above, check_names=False)
    gnm = table.loc["gnm (layer 1)"]
    assert gnm["to_learn"] > 0.8 and gnm["to_learn_above_control_low"] > 0.3
    assert gnm["to_ignore"] < 0.5 and gnm["to_ignore_above_control_low"] <= 0
    assert (table["Facts to ignore not stored"] < table["Facts to ignore"]).all()
    assert "To ignore control" in said and "GNM, layer 2" in said
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".md", ".png", ".svg"}
    assert (tmp_path / "probe.png").stat().st_size > 10_000


def test_the_program_reads_its_block_and_gives_the_same_twice(settings, tmp_path, capsys):
    small = settings | {"documents": {"train": 6, "test": 4, "at_once": 1}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"probe": small | {"output": str(tmp_path / "a")}}))
    for output, at_once in (("a", 2), ("b", 4)):
        arguments = ["--params", str(tmp_path / "params.yaml"), "--block", "probe", f"output={tmp_path / output}"]
        program.main([*arguments, f"documents.at_once={at_once}"])
    assert "Percent of facts" in capsys.readouterr().out
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"methods": {"rag": {"method": "retrieval"}}}, ConfigError, "methods.rag: 'retrieval' has no memory of slots"),
        ({"methods": {}}, ConfigError, "methods is empty"),
        ({"targets": {"target_types": ["formats"], "groups": "all"}}, ConfigError, "leave out formats"),
        ({"layers": [0, 3]}, ConfigError, "memoryllm has no layer 3; its layers are 0 to 2"),
        ({"methods": {"gnm": {"method": "gnm", "adapter": "absent"}}}, CheckpointError, "absent"),
        ({"data": {"train": ["absent.json"], "test": ["absent.json"]}}, DataError, "absent.json"),
    ],
)
def test_bad_settings_are_errors_before_any_work(settings, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        program.probe_memories(validate(settings | {"output": tmp_path / "out"} | change, program.ProbeParams, "test"))
    assert not list(tmp_path.iterdir())
