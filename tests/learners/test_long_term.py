"""A long-term store beside the pool: what a question finds there is read as if it had never left."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from gnm.errors import ConfigError, MemoryFileError
from gnm.inference.questions import Question
from gnm.learners import LearnerSettings, build_learner
from gnm.memory import load_memory, merge, save_memory, search

DOCUMENTS = (
    "Oslo is a big town\nThe horse is red\n",
    "Seven green birds fly\nIce: two\n",
    "Ada speaks English\nQuartz: six\n",
    "Zed lives in Peru\n",
)
ASKED = [[Question("Oslo is a", "town", "car"), Question("Quartz:", "six", "ten"), Question("Ice:", "two", "one")]]
ALL = {"k": 100, "layer": 1}
BORDER = 0.95


def learner_of(tiny, gates=None, **memory):
    """A memory that stores everything; with `revise` it drops what a new document repeats."""
    gates = gates or {"threshold": 0.0, "by": "random"}
    settings = LearnerSettings(method="gnm", memory=memory, write={"gates": gates})
    learner = build_learner(settings, tiny, training=True).eval()
    if gates.get("revise"):
        keep = learner.lm.gating.keep_gate
        with torch.no_grad():
            keep.weight.copy_(torch.randn(keep.weight.shape, generator=torch.Generator().manual_seed(0)))
            keep.sharpness.fill_(60.0)
            keep.bias.fill_(60.0 * BORDER)
    return learner


@torch.no_grad()
def written(learner, *documents, seeds=(3,)):
    state = learner.reset(list(seeds))
    for document in documents:
        state = learner.write(state, [document] * len(seeds), ["Learn it."] * len(seeds))
    return state


def assert_same_prefix(ours, theirs, equal=torch.equal):
    ours, theirs = ([*prefix.keys, *prefix.values, prefix.bias, prefix.next_position] for prefix in (ours, theirs))
    for mine, other in zip(ours, theirs, strict=True):
        assert equal(mine, other)


def nearly(mine, other):
    return torch.allclose(mine, other, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "memory",
    [
        {"capacity": 70, "eviction": "oldest"},
        {"capacity": 70, "eviction": "random"},
        {"capacity": 70, "eviction": "weakest"},
        {"capacity": 5, "eviction": "oldest"},  # less than any document stores
        {"capacity": 90, "eviction": "oldest", "positions": "shared"},
        {"store": {**ALL, "takes": "written"}},
    ],
)
def test_with_everything_found_the_memory_is_one_without_a_limit_to_the_bit(tiny, memory):
    full = learner_of(tiny, positions=memory.get("positions", "in_order"))
    small = learner_of(tiny, **{"store": ALL, **memory})
    whole, parted = written(full, *DOCUMENTS), written(small, *DOCUMENTS)
    assert len(parted.state.store[0]) > 3 and parted.state.used() <= memory.get("capacity", 0)
    assert parted.state.documents() == whole.state.documents()
    assert parted.state.segments(0) == whole.state.segments(0)
    assert_same_prefix(small.prefix(parted, ["Oslo is a"]), full.lm.prefix(whole))
    assert small.answer(parted, ASKED, 3) == full.answer(whole, ASKED, 3)
    assert small.cost(parted, 0, ASKED[0][0]).kept == full.cost(whole, 0, ASKED[0][0]).kept
    assert torch.equal(small.loss(parted, ASKED).total, full.loss(whole, ASKED).total)


@torch.no_grad()
def test_a_question_reads_its_segments_alone_whatever_is_asked_beside_it(tiny):
    learner = learner_of(tiny, capacity=70, store={"k": 1, "layer": 1})
    state = written(learner, *DOCUMENTS, seeds=(3, 4))
    asked = [ASKED[0], ASKED[0][:1]]
    found = learner.find(state, [[question.phrase for question in row] for row in asked])
    assert all(len(own) == 1 for row in found for own in row) and len(set(found[0])) > 1
    together = learner.answer(state, asked, 3)
    for row, own in enumerate(asked):
        for place, question in enumerate(own):
            rows = [[] if other != row else [question] for other in range(2)]
            alone = learner.answer(state, rows, 3)[row][0]
            assert alone.text == together[row][place].text
            assert alone.target_score == pytest.approx(together[row][place].target_score, abs=1e-4)


@torch.no_grad()
def test_the_segment_that_the_question_repeats_is_found_first(tiny):
    learner = learner_of(tiny, store={"k": 1, "layer": 0, "takes": "written"})
    state = written(learner, *DOCUMENTS)
    store = state.state.store[0]
    ((found,),) = learner.find(state, [["Seven green birds fly"]])
    assert int(store.source[found[0]]) == 1


@torch.no_grad()
def test_strength_enters_the_score(tiny):
    learner = learner_of(tiny, store={"k": 1, "layer": 1, "strength_weight": 100.0, "takes": "written"})
    state = written(learner, *DOCUMENTS)
    store = state.state.store[0]
    strength = torch.full_like(store.strength, 0.5)
    strength[2] = 1.0
    state = replace(state, state=replace(state.state, store=(replace(store, strength=strength),)))
    assert learner.find(state, [["Oslo", "Quartz"]]) == [[(2,), (2,)]]


@torch.no_grad()
def test_no_more_is_read_than_the_decoder_attends_over(tiny):
    learner = learner_of(tiny, capacity=70, store=ALL)
    tiny.model.config.max_position_embeddings = 320
    state = written(learner, *DOCUMENTS)
    ((found,),) = learner.find(state, [["Oslo"]])
    read = learner.prefix(state, ["Oslo"]).next_position
    assert 0 < len(found) < len(state.state.store[0]) and int(read) + 80 <= 320


@torch.no_grad()
def test_forgotten_documents_are_not_in_the_store_nor_in_its_file(tiny, tmp_path):
    full, small = learner_of(tiny), learner_of(tiny, capacity=70, store=ALL)
    whole, parted = written(full, *DOCUMENTS), written(small, *DOCUMENTS)
    gone = parted.state.store[0].entries[1]  # the one before is the instruction, which others have too
    assert int(parted.state.store[0].source[1]) == 0
    left = small.forget(parted, 0)
    assert_same_prefix(small.prefix(left, ["Oslo"]), full.lm.prefix(full.forget(whole, 0)), nearly)
    assert 0 not in left.state.documents() and 0 in parted.state.documents()
    with pytest.raises(KeyError, match=r"document 0 has no slots in this memory; it holds \[1, 2, 3\]"):
        left.state.forget(0)
    for state, there in ((parted.state, True), (left.state, False)):
        save_memory(tmp_path / "m", state, "tiny")
        assert (gone.numpy().tobytes() in (tmp_path / "m").read_bytes()) == there


@torch.no_grad()
def test_keep_gates_replace_what_is_stored_as_they_do_in_the_pool(tiny):
    gates = {"threshold": 0.0, "revise": True}
    full, small = learner_of(tiny, gates), learner_of(tiny, gates, capacity=70, store=ALL)
    texts = (*DOCUMENTS, DOCUMENTS[0])
    whole, parted = written(full, *texts), written(small, *texts)
    before = written(small, *DOCUMENTS)
    assert 1 in before.state.store[0].segment[before.state.store[0].source == 0]
    assert before.state.segments(0).keys() == {1, 2} and not parted.state.segments(0) and not whole.state.segments(0)
    assert parted.state.documents() == whole.state.documents()
    assert_same_prefix(small.prefix(parted, ["Oslo"]), full.lm.prefix(whole), nearly)


@torch.no_grad()
def test_what_words_take_back_is_taken_from_the_store_too(tiny):
    gates = {"threshold": 0.0, "revise": True}
    learners = learner_of(tiny, gates), learner_of(tiny, gates, capacity=70, store=ALL)
    states = []
    for learner in learners:
        state = written(learner, *DOCUMENTS)
        gating = learner.lm.gating
        gating.about_gate.weight.copy_(torch.linspace(-9, 9, gating.about_gate.weight.shape[0]))
        if learner is learners[0]:
            with learner.lm._selecting(1) as (_, preamble):
                told = learner._encode_instructions(["Forget the horse."])
                about = gating.about(learner.lm.decoder, preamble, state.state, told)[0]
            middle = about[state.state.source[0] >= 0].median()
        gating.about_gate.bias.sub_(middle)
        states.append(learner.revoke(state, ["Forget the horse."]))
    whole, parted = states
    held = [{document: state.state.segments(document).keys() for document in range(4)} for state in states]
    assert held[0] == held[1] and 0 < len(parted.state.store[0]) < 7
    assert_same_prefix(learners[1].prefix(parted, ["Oslo"]), learners[0].lm.prefix(whole), nearly)


@torch.no_grad()
def test_phrases_are_grouped_by_what_they_find(tiny):
    learner = learner_of(tiny, capacity=70, store={**ALL, "k": 1})
    state, phrases = written(learner, *DOCUMENTS), ["Oslo is a", "Zed", "Oslo is a", "Ada"]
    groups = learner.contexts(state, phrases)
    assert 1 < len(groups) < len(phrases) and sorted(place for _, places in groups for place in places) == [0, 1, 2, 3]
    for prefix, places in groups:
        for place in places:
            assert_same_prefix(prefix, learner.prefix(state, [phrases[place]]))


@torch.no_grad()
def test_merged_memories_are_those_of_one_that_was_given_all(tiny):
    small = learner_of(tiny, capacity=70, eviction="oldest", store=ALL)
    first, second = written(small, *DOCUMENTS[:2]), written(small, *DOCUMENTS[2:])
    merged = small.lm.attach(merge(first.state, second.state, small.lm.pool))
    assert int(merged.state.used()) <= 70
    assert merged.state.documents() == written(small, *DOCUMENTS).state.documents()
    assert_same_prefix(small.prefix(merged, ["Oslo"]), small.prefix(written(small, *DOCUMENTS), "Oslo"), nearly)


@torch.no_grad()
@pytest.mark.parametrize("seeds", [(3,), (3, 4)])
def test_a_saved_store_is_read_as_it_was(tiny, tmp_path, seeds):
    learner = learner_of(tiny, capacity=70, store=ALL)
    state = learner.counted(written(learner, *DOCUMENTS, seeds=seeds), [["Oslo"]] * len(seeds))
    save_memory(tmp_path / "m", state.state, "tiny")
    loaded, _ = load_memory(tmp_path / "m", "tiny", like=learner.reset(list(seeds)).state)
    for ours, theirs in zip(loaded.store, state.state.store, strict=True):
        assert ours.search_key == theirs.search_key and int(ours.retrieved.sum()) == len(theirs)
        for name, tensor in ours.tensors().items():
            assert torch.equal(tensor, theirs.tensors()[name])
    before, after = (learner.answer(learner.lm.attach(each), ASKED * len(seeds), 3) for each in (state.state, loaded))
    assert before == after


@torch.no_grad()
def test_a_line_is_found_by_its_tokens_where_its_meaning_misleads(tiny):
    """The keys of meaning are made opposite, so that only the tokens in common can find the line."""
    lexical, asked = {"layer": 1, "k": 1, "takes": "written"}, ["Quartz: six", "Zed lives in Peru"]
    found = {}
    for share in (0.0, 0.9):
        learner = learner_of(tiny, capacity=70, store={**lexical, "lexical": share})
        own = learner.lm.keys._whitened
        learner.lm.keys._whitened = lambda hidden, own=own: own(hidden) * (1 if len(hidden) == len(asked) else -1)
        state = written(learner, *DOCUMENTS)
        found[share] = [state.state.store[0].words[list(places)].tolist() for places in learner.find(state, [asked])[0]]
        lines = learner.lm.keys.of_questions(learner.reader.encode(["Quartz: six\n", "Zed lives in Peru\n"]))
        assert lines.shape[1] == 48 + (512 if share else 0)
    assert found[0.0] != found[0.9]


@torch.no_grad()
def test_stores_that_cannot_be_searched_or_are_damaged_are_refused(tiny, tmp_path):
    learner = learner_of(tiny, capacity=70, store=ALL)
    state = written(learner, *DOCUMENTS).state
    save_memory(tmp_path / "m", state, "tiny")
    with pytest.raises(MemoryFileError, match="loaded without one; load it with a capacity"):
        load_memory(tmp_path / "m", "tiny", like=learner_of(tiny).reset([0]).state)
    other = learner_of(tiny, capacity=70, store={"layer": 0}).reset([0]).state
    with pytest.raises(MemoryFileError, match="are .the mean input of layer 1, whitened, and .*., this .* layer 0"):
        load_memory(tmp_path / "m", "tiny", like=other)
    old = (tmp_path / "m").read_bytes()
    store = state.store[0]
    for spoiled in (
        replace(store, strength=store.strength * 0),
        replace(store, source=store.source + 9),
        replace(store, keys=store.keys * float("nan")),
        replace(store, segment=store.segment[:-1]),
    ):
        with pytest.raises(MemoryFileError, match="not saved"):
            save_memory(tmp_path / "m", replace(state, store=(spoiled,)), "tiny")
    assert (tmp_path / "m").read_bytes() == old
    for size in (len(old) - 1, len(old) // 2):
        (tmp_path / "cut").write_bytes(old[:size])
        with pytest.raises(MemoryFileError, match="damaged or no memory file.*restore it"):
            load_memory(tmp_path / "cut", "tiny")


def test_settings_that_make_no_sense_are_refused(tiny):
    for memory, words in (
        ({"capacity": 70, "store": {"k": 0}}, "greater than 0"),
        ({"store": {}}, "without memory.capacity evicts nothing"),
        ({"capacity": 70, "per_layer": True, "store": {}}, "whole segments"),
    ):
        with pytest.raises(ValidationError, match=words):
            learner_of(tiny, **memory)
    with pytest.raises(ValidationError, match="set write.gates"):
        LearnerSettings(method="gnm", memory={"capacity": 70, "store": {}})
    with pytest.raises(ConfigError, match="memory.store.layer: 40 is none of the decoder's layers"):
        learner_of(tiny, capacity=70, store={"layer": 40})


@torch.no_grad()
def test_a_large_store_is_searched_by_an_index_that_forgets(tiny, monkeypatch):
    monkeypatch.setattr(search, "_OF_ALL", 1)
    settings = {"k": 1, "layer": 0, "takes": "written"}
    exact, learner = learner_of(tiny, store=settings), learner_of(tiny, store={**settings, "index_from": 4})
    state, phrases = written(learner, *DOCUMENTS), [["Seven green birds fly", "Ada speaks English"]]
    store = state.state.store[0]
    assert written(exact, *DOCUMENTS).state.store[0].index is None and store.index.covered > 4
    assert learner.find(state, phrases) == exact.find(state, phrases)
    assert learner.lm.find_flops(store, 5) != exact.lm.find_flops(replace(store, index=None), 5)
    left = learner.forget(state, 1)
    index = left.state.store[0].index
    assert index.inner.ntotal == index.covered < store.index.covered
    ((one, other),) = learner.find(left, phrases)
    sources = left.state.store[0].source
    assert int(sources[one[0]]) != 1 and int(sources[other[0]]) == 2
    saved = replace(state.state, store=(replace(store, index=None),))
    assert learner.lm.attach(saved).state.store[0].index.covered == len(store)
