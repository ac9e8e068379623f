"""The memory learner on a backbone of the published form: the contract holds there too."""

from dataclasses import replace

import pytest
import torch

from gnm.errors import BackboneError, ConfigError
from gnm.inference.chat import ChatFormat
from gnm.inference.prompts import block
from gnm.learners import LearnerSettings, build_learner
from gnm.memory.state import MIXED
from gnm.models.lora import LoraSettings
from gnm.weights.backbones import REGISTRY, Random, load_backbone
from gnm.weights.memoryllm import MemoryShape
from stock import DOCUMENTS, INSTRUCTIONS, QUESTIONS, another, assert_same_answers, prompt_ids, stock_logits

TURNS = [(list(DOCUMENTS[:2]), list(INSTRUCTIONS[:2])), (["Short.", DOCUMENTS[2]], ["", "Learn all."])]
ASKED = [list(QUESTIONS), [QUESTIONS[1]]]
SLOTS, CAPACITY = 32, 128


@pytest.fixture
def backbone():
    return load_backbone("tiny-memoryllm", dtype="float32")


def learner_of(backbone, **settings):
    return build_learner(LearnerSettings(method="memoryllm", **settings), backbone)


def written(learner, rows=(0, 1)):
    state = learner.reset([3 + row for row in rows])
    for documents, instructions in TURNS:
        state = learner.write(state, [documents[r] for r in rows], [instructions[r] for r in rows])
    return state


@torch.no_grad()
def test_the_pool_starts_full_and_each_document_takes_its_slots_of_it(backbone):
    learner = learner_of(backbone)
    start, state = learner.reset([3, 4]).state, written(learner).state
    assert start.used().tolist() == state.used().tolist() == [CAPACITY, CAPACITY]
    assert (start.source == MIXED).all() and start.documents() == {}
    for row in range(2):
        assert state.documents(row)[1] == SLOTS and state.documents(row)[0] <= SLOTS
    assert not torch.equal(state.slots[0, :, :10], state.slots[1, :, :10])  # each sequence drops its own of the start


@torch.no_grad()
def test_every_sequence_is_answered_as_if_alone(backbone):
    learner = learner_of(backbone)
    together = learner.answer(written(learner), ASKED, 3)
    for row in range(2):
        alone = learner.answer(written(learner, [row]), ASKED[row : row + 1], 3)
        assert_same_answers(together[row], alone[0])


@torch.no_grad()
def test_with_nothing_in_memory_a_question_is_the_plain_decoders(backbone):
    learner = learner_of(replace(backbone, memory=replace(backbone.memory, start=None)))
    chat, stock = ChatFormat.of(backbone.tokenizer), another(load_backbone("tiny"))
    answer = learner.answer(learner.reset([0]), [[QUESTIONS[0]]], 1)[0][0]
    whole = replace(chat, preamble=chat.preamble_without_bos)
    assert len(whole.preamble) == len(chat.preamble) - 1
    scores = stock_logits(stock, prompt_ids(whole, [], QUESTIONS[0]))[-1]
    assert answer.target_score == pytest.approx(float(scores[chat.encode(QUESTIONS[0].target)[0]]), abs=1e-4)


def test_gradients_reach_the_memorys_own_parameters(backbone):
    learner = learner_of(backbone)
    learner.lm.bos_embedding.requires_grad_(True)
    learner.lm.new_memory_positional_emb.requires_grad_(True)
    learner.loss(written(learner), ASKED).total.backward()
    for parameter in (learner.lm.bos_embedding, learner.lm.new_memory_positional_emb):
        assert parameter.grad.abs().max() > 1e-4


@torch.no_grad()
def test_rules_of_the_pool_may_be_changed_but_not_how_it_writes(backbone):
    pool = learner_of(backbone, memory={"eviction": "oldest"}).lm.pool
    assert (pool.capacity, pool.eviction, pool.fill) == (CAPACITY, "oldest", True)
    with pytest.raises(ConfigError, match="writes in its own way; leave out `write`"):
        learner_of(backbone, write={"reads": "all"})
    with pytest.raises(ConfigError, match="tap: outputs needs a memory model"):
        learner_of(load_backbone("tiny"), write={"reads": 32, "tap": "outputs", "tokens": 32})


@torch.no_grad()
def test_a_document_of_any_length_takes_the_same_slots(backbone):
    learner = learner_of(backbone)
    documents, instructions = ["A", "many words " * 40], ["", ""]
    learner.check(documents, instructions)
    assert len(learner.reader.chat.encode(block(documents[0], "", "instruction_first"))) < SLOTS
    state = learner.write(learner.reset([0, 1]), documents, instructions).state
    assert [state.documents(row) for row in range(2)] == [{0: SLOTS}, {0: SLOTS}]


@torch.no_grad()
@pytest.mark.parametrize("per_layer", [False, True])
def test_each_layer_drops_slots_of_its_own_where_the_checkpoint_says_so(monkeypatch, per_layer):
    shape = MemoryShape(SLOTS, 4, per_layer=per_layer)
    monkeypatch.setitem(REGISTRY, "own", {"random": Random("llama", memory=shape)})
    learner = learner_of(load_backbone("own", dtype="float32"))
    start = learner.reset([3])
    after = learner.write(start, [DOCUMENTS[0]], [INSTRUCTIONS[0]]).state.slots[0, :, :-SLOTS]
    left = [(old[:, None] == new[None]).all(-1).any(1) for old, new in zip(start.state.slots[0], after, strict=True)]
    assert [int(layer.sum()) for layer in left] == [CAPACITY - SLOTS] * len(left)
    assert torch.equal(left[0], left[1]) != per_layer


@torch.no_grad()
@pytest.mark.usefixtures("as_asked")
def test_a_bfloat16_memory_with_two_adapters_writes_and_answers(monkeypatch):
    shape = MemoryShape(SLOTS, 4, per_layer=True, lora=LoraSettings(r=2, alpha=4), two_adapters=True)
    monkeypatch.setitem(REGISTRY, "two", {"random": Random("llama", memory=shape)})
    learner = learner_of(load_backbone("two", dtype="bfloat16"))
    state = written(learner)
    assert state.state.slots.dtype == state.keys[0].dtype == torch.bfloat16
    answers = learner.answer(state, ASKED, 3)
    single = learner_of(load_backbone("two", dtype="float32"))
    exact = single.answer(written(single), ASKED, 3)
    for rough, fine in zip(answers, exact, strict=True):
        assert [a.target_score for a in rough] == pytest.approx([a.target_score for a in fine], abs=0.5)


def test_a_checkpoint_that_was_not_fetched_is_named(tmp_path):
    with pytest.raises(BackboneError, match=r"gnm_all' is not in .*download_models.py --only gnm_all"):
        load_backbone("gnm_all", models_dir=tmp_path)
