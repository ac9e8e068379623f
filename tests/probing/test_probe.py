"""Memory probes: they find what slots hold and nothing else, whatever the batch; the program and its files."""

import random
from dataclasses import replace

import pandas as pd
import pytest
import torch
import yaml

from gnm.config import validate
from gnm.data.counterfact import categorise
from gnm.data.documents import make_documents, write_documents
from gnm.data.sources import read_records
from gnm.data.taxonomy import load_taxonomy
from gnm.errors import CheckpointError, ConfigError, DataError
from gnm.learners import LearnerSettings, build_learner
from gnm.probing import probe as program
from gnm.probing.facts import Case, Objects, draw_cases, others_of, probed_facts
from gnm.probing.inputs import last_states, write_alone
from gnm.probing.probes import Examples, ProbeTraining, draw_candidates, fit, picked

CPU = torch.device("cpu")
SIZE, OBJECTS = 24, 12
TRAINING = ProbeTraining(size=24, epochs=12, documents_per_step=4, learning_rate=3e-3)


@pytest.fixture(scope="module")
def documents():
    """Documents of three or more facts of the embedded table, without a fact in common."""
    facts = categorise(read_records("embedded"))
    return make_documents(facts.train + facts.test, random.Random(5), load_taxonomy().subcategories, 40, 2)


@pytest.fixture(scope="module")
def settings(documents, tmp_path_factory):
    """Settings of a probe of untrained memories, as params.yaml would hold them."""
    folder = tmp_path_factory.mktemp("probe")
    write_documents(folder / "train.json", documents[:28])
    write_documents(folder / "test.json", documents[28:])
    return {
        "seeds": [0],
        "backbone": {"name": "tiny", "dtype": "float32", "device": "cpu"},
        "methods": {"memoryllm": {"method": "memoryllm"}},
        "data": {"train": [str(folder / "train.json")], "test": [str(folder / "test.json")]},
        "targets": {"target_types": ["fact_subcategories"], "groups": "all"},
        "documents": {"train": 28, "test": 12, "at_once": 5},
        "others": 3,
        "probe": {"size": 48, "epochs": 6, "documents_per_step": 4, "learning_rate": 0.002},
        "title": "A test",
        "output": str(folder / "probe"),
    }


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


def learner_of(backbone, **settings):
    return build_learner(LearnerSettings(**{"method": "gnm"} | settings), backbone, training=True).eval()


# --- the probe


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


# --- what is asked


def test_candidates_are_stated_objects_of_the_subcategory_without_the_true_one(documents):
    objects = Objects(documents)
    cases = [Case(d.text, "", probed_facts(d, "all")) for d in documents]
    facts = [fact for case in cases for fact in case.facts]
    stated, weights = objects.stated_in(cases)
    candidates, there = draw_candidates(stated, weights, 4, torch.Generator().manual_seed(0))
    assert there.all() and candidates.shape == (len(facts), 5)
    for fact, row in zip(facts, candidates.tolist(), strict=True):
        names = [objects.names[number] for number in row]
        assert names[0] == (fact.subcategory, fact.stated) and len(set(names)) == 5
        assert {group for group, _ in names} == {fact.subcategory}
        assert (fact.subcategory, fact.true) not in names[1:]
    common = max(range(len(facts)), key=lambda number: weights[number].max())
    assert weights[common].max() >= 1 > 0 < weights[common][weights[common] > 0].min() < 1e-3


def test_a_fact_has_fewer_candidates_where_its_group_has_fewer():
    weights = torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0, 2.0]])
    candidates, there = draw_candidates(torch.tensor([0, 1]), weights, 9, torch.Generator().manual_seed(0))
    assert there.sum(1).tolist() == [3, 5] and candidates[:, 0].tolist() == [0, 1]
    assert set(candidates[0, there[0]].tolist()) == {0, 1, 2}


def test_facts_have_the_kind_that_the_target_gives_them_and_their_own_line_as_phrase(documents):
    document = documents[0]
    group = document.pairs[0].subcategory
    for target, kinds in ((group, ("learn", "ignore")), (f"{group}_refusal", ("refuse", "learn"))):
        facts = probed_facts(document, target)
        assert [fact.fact_id for fact in facts] == list(document.fact_ids)
        for fact in facts:
            assert fact.kind == kinds[fact.subcategory != group]
            assert f"{fact.phrase} {fact.stated}" in document.text.split("\n")


def test_a_document_whose_lines_cannot_be_told_is_asked_by_its_questions(documents):
    plain = replace(documents[0], text="All of it at once: " + documents[0].text.replace("\n", "; "))
    inputs = {pair.input for pair in plain.pairs if pair.type == "paraphrase"}
    assert {fact.phrase for fact in probed_facts(plain, "all")} <= inputs


def test_trained_and_tested_on_documents_have_no_fact_in_common(documents, settings):
    drawn = validate(settings, program.ProbeParams, "test").sequences()
    trained, tested = draw_cases((documents, documents), drawn, (20, 10), 0)
    assert len(trained) == 20 and len(tested) == 10
    assert not {i for case in trained for i in case.fact_ids} & {i for case in tested for i in case.fact_ids}
    assert draw_cases((documents, documents), drawn, (20, 10), 0) == (trained, tested)
    assert draw_cases((documents, documents), drawn, (20, 10), 1) != (trained, tested)
    with pytest.raises(DataError, match="test on fewer documents"):
        draw_cases((documents, documents), drawn, (20, len(documents)), 0)


def test_the_control_is_a_memory_without_the_facts(documents):
    cases = [Case(d.text, "", probed_facts(d, "all")) for d in documents[:3]]
    assert others_of([cases[0], cases[0], cases[1]]) == [2, 2, 0]
    with pytest.raises(DataError, match="test on more documents"):
        others_of([cases[0], cases[0]])


# --- memories


def test_slots_are_those_that_the_document_wrote_whatever_the_batch(tiny, documents):
    cases = [Case(d.text, "Memorize all.", probed_facts(d, "all")) for d in documents[:5]]
    learner = learner_of(tiny)
    alone, together = (write_alone(learner, cases, [0, 2], at_once) for at_once in (1, 3))
    for case, *both in zip(cases, alone, together, strict=True):
        assert both[0].facts == both[1].facts == (True,) * len(case.facts)
        one, many = (each.slots for each in both)
        state = learner.write(learner.reset([0]), [case.document], [case.instruction]).state
        assert one.shape == (2, state.documents()[0], state.slots.shape[3])
        torch.testing.assert_close(one, many, atol=1e-4, rtol=1e-4)


def test_a_phrase_is_read_as_it_would_be_at_the_start_of_a_conversation(tiny):
    learner = learner_of(tiny)
    texts = ["* Ada lives in", "It is", "* Ada lives in"]
    states = last_states(learner, texts, [0, 2], 2)
    assert states.shape == (3, 2, tiny.model.config.hidden_size) and torch.equal(states[0], states[2])
    ids = torch.tensor([learner.reader.chat.preamble + learner.reader.chat.encode(texts[0])])
    hidden = tiny.model(ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[0], torch.stack((hidden[0][0, -1], hidden[2][0, -1])), atol=1e-4, rtol=1e-4)


def test_documents_that_leave_nothing_in_memory_leave_no_slots(tiny, documents):
    learner = learner_of(tiny, write={"gates": {"threshold": 0.5}})
    with torch.no_grad():
        learner.lm.gating.gate.bias.fill_(-9.0)
    cases = [Case(d.text, "Memorize nothing.", probed_facts(d, "all")) for d in documents[:3]]
    for written, case in zip(write_alone(learner, cases, [1], 2), cases, strict=True):
        assert written.slots.shape[1] == 0 and written.facts == (False,) * len(case.facts)


def test_a_fact_is_stored_where_its_own_line_is(tiny, documents):
    """One segment in three is drawn; a fact counts as stored if its line's tokens are in the memory."""
    learner = learner_of(tiny, write={"gates": {"by": "random", "threshold": 0.0, "share": 0.3}})
    cases = [Case(d.text, "Memorize all.", probed_facts(d, "all")) for d in documents[:6]]
    verdicts = []
    for number, (case, written) in enumerate(zip(cases, write_alone(learner, cases, [1], len(cases)), strict=True)):
        memory = learner.write(learner.reset([number]), [case.document], [case.instruction])
        segments = learner.segments(memory, 0, case.document, case.instruction)
        stored = {each.text.strip() for each in segments if each.stored}
        assert written.facts == tuple(fact.line.strip() in stored for fact in case.facts)
        verdicts += written.facts
    assert 0 < sum(verdicts) < len(verdicts)


# --- the program


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
