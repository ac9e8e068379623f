"""What a probe asks, and the slots of the memories that it looks into."""

from dataclasses import replace

import pytest
import torch

from gnm.config import validate
from gnm.errors import DataError
from gnm.learners import LearnerSettings, build_learner
from gnm.probing import probe as program
from gnm.probing.facts import Case, Objects, draw_cases, others_of, probed_facts
from gnm.probing.inputs import last_states, write_alone
from gnm.probing.probes import draw_candidates


def learner_of(backbone, **settings):
    return build_learner(LearnerSettings(**{"method": "gnm"} | settings), backbone, training=True).eval()


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
