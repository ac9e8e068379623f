"""A store in which segments of the same words are one."""

from dataclasses import replace

import pytest
import torch

from gnm.inference.questions import Question
from gnm.learners import LearnerSettings, build_learner
from gnm.memory import load_memory, merge, save_memory
from gnm.memory.consolidation import Duplicates, merged

FACTS = ("Oslo is a big town\n", "The horse is red\n")
OTHERS = ("Oslo is a big port\n", "Bern is a big town\n", "The house is red\n", "the horse is red\n")
ASKED = [[Question("Oslo is a big", "town", "port")]]


def learner_of(tiny, gates=None, **settings):
    store = {"k": 100, "layer": 1, "takes": "written", "consolidate": True, **settings}
    gates = gates or {"threshold": 0.0, "by": "random"}
    settings = LearnerSettings(method="gnm", memory={"store": store}, write={"gates": gates, "reads": "nothing"})
    return build_learner(settings, tiny, training=True).eval()


@torch.no_grad()
def written(learner, documents):
    state = learner.reset([3])
    for document in documents:
        state = learner.write(state, [document], ["Learn it."])
    return state


def texts(learner, store):
    """The segments of a store as text: the tokens whose embeddings its slots begin with."""
    table = learner.lm.decoder.model.get_input_embeddings().weight
    inputs = [entry[:, -table.shape[1] :] for entry in store.entries]
    ids = [(own[:, None] == table[None]).all(-1).float().argmax(-1).tolist() for own in inputs]
    return [learner.reader.tokenizer.decode(own) for own in ids]


@torch.no_grad()
def test_bytes_stay_the_same_however_often_a_fact_is_told(tiny):
    learner, apart = learner_of(tiny), learner_of(tiny, consolidate=False)
    one = written(learner, ["".join(FACTS)]).state.store[0]
    for times in (2, 4, 8):
        state = written(learner, ["".join(FACTS)] * times)
        store = state.state.store[0]
        assert store.bytes == one.bytes and set(store.source.tolist()) == {times - 1}
        assert store.duplicates.times(len(store)).tolist() == [times] * len(store)
        assert written(apart, ["".join(FACTS)] * times).state.store[0].bytes == times * one.bytes
        assert texts(learner, store) == texts(learner, one)
        ours, theirs = learner.answer(state, ASKED, 3), learner.answer(written(learner, ["".join(FACTS)]), ASKED, 3)
        assert ours[0][0].text == theirs[0][0].text


@torch.no_grad()
@pytest.mark.parametrize("other", OTHERS)
def test_another_subject_or_object_is_never_merged(tiny, other):
    learner = learner_of(tiny)
    store = written(learner, [*FACTS, other, "".join(FACTS)]).state.store[0]
    alone = written(learner, [other]).state.store[0]
    assert other.strip() in "".join(texts(learner, store)) and other.strip() in "".join(texts(learner, alone))
    counts = dict(zip(texts(learner, store), store.duplicates.times(len(store)).tolist(), strict=True))
    for text in set(texts(learner, alone)) - set(texts(learner, written(learner, FACTS).state.store[0])):
        assert counts[text] == 1


@torch.no_grad()
def test_a_forgotten_document_leaves_no_trace_in_what_others_told(tiny):
    learner = learner_of(tiny)
    state = written(learner, [FACTS[0], FACTS[1], FACTS[0]])
    store = learner.forget(state, 0).state.store[0]
    assert store.equals(state.state.store[0]) and 0 not in {*store.source.tolist(), *store.duplicates.source.tolist()}
    gone = learner.forget(state, 2).state.store[0]  # it told it last, and what is stored is its own
    assert "Oslo" not in "".join(texts(learner, gone)) and "horse" in "".join(texts(learner, gone))


@torch.no_grad()
def test_what_was_told_is_saved_renumbered_and_merged(tiny, tmp_path):
    learner = learner_of(tiny)
    state = written(learner, [FACTS[0], FACTS[0]]).state
    save_memory(tmp_path / "m", state, "a")
    loaded = load_memory(tmp_path / "m", "a", like=learner.reset([3]).state)[0]
    assert torch.equal(loaded.store[0].duplicates.source, state.store[0].duplicates.source)
    joined = learner.lm.attach(merge(written(learner, [FACTS[0], FACTS[1]]).state, loaded, learner.lm.pool)).state
    store = joined.store[0]
    oslo = next(place for place, text in enumerate(texts(learner, store)) if "Oslo" in text)
    assert int(store.source[oslo]) == 3 and store.duplicates.source[store.duplicates.place == oslo].tolist() == [0, 2]
    later = store.renumbered(2, 3)  # as a part of what it is merged into
    assert later.duplicates.source[later.duplicates.place == oslo].tolist() == [0]


@torch.no_grad()
def test_with_keep_gates_a_correction_replaces_and_a_repetition_counts(tiny):
    learner = learner_of(tiny, {"threshold": 0.0, "revise": True})
    gate = learner.lm.gating.keep_gate
    gate.sharpness.fill_(0.0)
    gate.bias.fill_(-9.0)  # whatever is new replaces all
    again, corrected = (written(learner, [FACTS[0], text]).state.store[0] for text in (FACTS[0], OTHERS[0]))
    assert again.duplicates.times(len(again)).tolist() == [2] * len(again)
    assert "town" not in "".join(texts(learner, corrected)) and "port" in "".join(texts(learner, corrected))
    assert "town" in "".join(texts(learner, again)) and set(corrected.source.tolist()) == {1}


def test_equal_numbers_are_not_enough(tiny):
    store = written(learner_of(tiny, consolidate=False), [FACTS[0], FACTS[1]]).state.store[0]
    same = replace(store, words=torch.zeros_like(store.words)).consolidated()
    inputs = {entry[:, -store.keys.shape[1] :].numpy().tobytes() for entry in store.entries}
    assert len(same) >= len(inputs)
    assert store.select(torch.zeros(len(store), dtype=torch.bool)).consolidated().bytes == 0


def test_the_last_in_the_order_is_what_equals_become():
    words, order = torch.tensor([5, 9, 5, 5]), torch.tensor([3, 1, 2, 0])
    assert merged(words, order).tolist() == [0, 1, 0, 0]
    duplicates = Duplicates(torch.tensor([0, 2]), torch.tensor([7, 8])).moved(torch.tensor([1, 0, 1, -1]))
    assert duplicates.add(Duplicates(torch.tensor([1]), torch.tensor([7]))).times(2).tolist() == [1, 3]
