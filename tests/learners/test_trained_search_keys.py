"""A long-term store that is searched by a trained retriever."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from gnm.errors import CheckpointError, ConfigError, MemoryFileError
from gnm.inference.questions import Question
from gnm.learners import LearnerSettings, build_learner
from gnm.memory import load_memory, save_memory, search
from gnm.memory.retriever_file import ABOUT
from gnm.models.retriever import Retriever
from gnm.weights.retrievers import inputs_digest

DOCUMENTS = ("Oslo is a big town\nThe horse is red\n", "Seven green birds fly\nIce: two\n", "Ada speaks English\n")
ASKED = [[Question("Oslo is a", "town", "car"), Question("Ice:", "two", "one")]]
NAME = "the mean input of layer 1, whitened, by the retriever "


@pytest.fixture
def folder(tiny, tmp_path):
    """The folder of a retriever with random weights."""
    return saved(tiny, tmp_path / "retriever")


def saved(tiny, path, seed=5, layer=1):
    own = Retriever.new((tiny.model.config.hidden_size, 20, 12), layer, True, seed)
    replace(own, model=inputs_digest(tiny, layer), adapter="models/a").save(path, {})
    return path


def learner_of(tiny, store=None):
    memory = {"capacity": 70, "eviction": "oldest", "store": {"layer": 1, "lexical": 0.0, **store}} if store else {}
    gates = {"threshold": 0.0, "by": "random"}
    return build_learner(
        LearnerSettings(method="gnm", memory=memory, write={"gates": gates}), tiny, training=True
    ).eval()


def trained(tiny, folder, **store):
    return learner_of(tiny, {"by": "trained", "retriever": folder, "k": 100, **store})


@torch.no_grad()
def written(learner, *documents):
    state = learner.reset([3])
    for document in documents:
        state = learner.write(state, [document], ["Learn it."])
    return state


@torch.no_grad()
def test_with_everything_found_the_memory_is_one_without_a_limit_to_the_bit(tiny, folder):
    small, full = trained(tiny, folder), learner_of(tiny)
    parted, whole = written(small, *DOCUMENTS), written(full, *DOCUMENTS)
    store = parted.state.store[0]
    assert len(store) > 3 and store.keys.shape[1] == 12 + 48
    ours, theirs = small.prefix(parted, ["Oslo is a"]), full.lm.prefix(whole)
    for mine, other in zip((*ours.keys, *ours.values), (*theirs.keys, *theirs.values), strict=True):
        assert torch.equal(mine, other)
    assert small.answer(parted, ASKED, 3) == full.answer(whole, ASKED, 3)
    assert torch.equal(store.words, written(learner_of(tiny, {"k": 1}), *DOCUMENTS).state.store[0].words)


@torch.no_grad()
def test_questions_and_segments_pass_through_their_own_sides(tiny, folder):
    own = Retriever.load(folder)
    replace(own, question=(-own.question[0], own.question[1])).save(folder, {})
    retriever = Retriever.load(folder)
    plain, small = learner_of(tiny, {"k": 1}), trained(tiny, folder, k=1)
    stores = [written(learner, *DOCUMENTS).state.store[0] for learner in (plain, small)]
    assert torch.allclose(stores[1].keys, retriever("segment", stores[0].keys), atol=1e-6)
    tokens = small.reader.encode([" Oslo is a", " Ice:"])
    own, other = (learner.lm.keys.of_questions(tokens) for learner in (small, plain))
    assert torch.allclose(own, retriever("question", other), atol=1e-6)
    assert not torch.allclose(own, retriever("segment", other), atol=1e-4)
    more = retriever.flops + 2 * len(stores[0]) * 12
    assert small.lm.find_flops(stores[1], 4) == plain.lm.find_flops(stores[0], 4) + more


@torch.no_grad()
def test_forgotten_documents_are_never_found(tiny, folder):
    learner = trained(tiny, folder)
    left = learner.forget(written(learner, *DOCUMENTS), 0)
    ((found,),) = learner.find(left, [["Oslo is a big town"]])
    assert found and 0 not in left.state.store[0].source[list(found)].tolist()


@torch.no_grad()
def test_an_index_finds_what_exact_search_finds_and_forgets_too(tiny, folder, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(search, "_OF_ALL", 1)
    settings = {"k": 2, "takes": "written"}
    exact, learner = trained(tiny, folder, **settings, index_from=None), trained(tiny, folder, **settings, index_from=4)
    states = [written(each, *DOCUMENTS) for each in (exact, learner)]
    stores = [state.state.store[0] for state in states]
    assert stores[0].index is None and 4 < stores[1].index.covered < len(stores[1])
    assert stores[1].index.inner.d == 12 + 48
    left = [each.forget(state, 1) for each, state in zip((exact, learner), states, strict=True)]
    assert left[1].state.store[0].index.inner.ntotal < stores[1].index.covered
    for two in (states, left):
        ours, theirs = (read(each, state) for each, state in zip((exact, learner), two, strict=True))
        assert ours == theirs and len({*map(tuple, ours)}) > 1


def read(learner, state):
    """The words that each question reads of the store: the instruction's stand there once for each document."""
    ((*found,),) = learner.find(state, [["Oslo is a", "Ice:", "Seven green birds fly"]])
    return [sorted(state.state.store[0].words[list(places)].tolist()) for places in found]


@torch.no_grad()
def test_a_saved_memory_is_searched_by_the_same_retriever_alone(tiny, folder, tmp_path):
    learner = trained(tiny, folder, k=1)
    state = written(learner, *DOCUMENTS)
    name = state.state.store[0].search_key
    assert name.startswith(NAME) and len(name) == len(NAME) + 8
    save_memory(tmp_path / "m", state.state, "tiny", pool=learner.lm.pool.model_dump(mode="json"))
    loaded, _ = load_memory(tmp_path / "m", "tiny", like=learner.reset([3]).state)
    assert loaded.store[0].equals(state.state.store[0])
    before, after = (learner.answer(learner.lm.attach(each), ASKED, 3) for each in (state.state, loaded))
    assert before == after
    for other in (trained(tiny, saved(tiny, tmp_path / "other", seed=6)), learner_of(tiny, {"k": 1})):
        with pytest.raises(MemoryFileError, match=f"are '{name}', this model .*store.retriever"):
            load_memory(tmp_path / "m", "tiny", like=other.reset([3]).state)


def test_retrievers_that_do_not_fit_are_refused(tiny, folder, tmp_path):
    with pytest.raises(CheckpointError, match="no retriever of this project"):
        trained(tiny, tmp_path / "nothing")
    with pytest.raises(ConfigError, match="memory.store.layer: 0, but the retriever .* was trained with 1"):
        trained(tiny, folder, layer=0)
    with pytest.raises(ConfigError, match="memory.store.whiten: False, but"):
        trained(tiny, folder, whiten=False)
    for store in ({"by": "trained"}, {"retriever": folder}):
        with pytest.raises(ValidationError, match="give both or neither"):
            learner_of(tiny, store)
    (folder / ABOUT).write_text("{}")
    with pytest.raises(CheckpointError, match="is damaged"):
        trained(tiny, folder)
