"""Compression, block retrieval and the recurrent memory as methods: what they read, keep, forget, cost and refuse."""

import pytest
import torch

from gnm.config import validate
from gnm.errors import CheckpointError, ConfigError, MemoryFileError
from gnm.evaluate import evaluate
from gnm.inference.chat import ChatFormat
from gnm.learners import LearnerSettings, build_learner
from gnm.metrics.records import read_records
from gnm.params import EvaluateParams, TrainParams
from gnm.train import Trainer
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import load_model
from small_runs import evaluate_settings, train_settings, write_small_documents
from stock import DOCUMENTS, INSTRUCTIONS, QUESTIONS, another, answer_ids, assert_same_answers, blocks, prompt_ids

COMPRESSED = [{"by": by, "share": 0.3} for by in ("knorm", "keydiff", "snapkv", "finch")]
ORACLE = {"guide": "question", "share": 0.3}
FEW = {"tokens": 40}
KINDS = [
    *({"method": "compressed", "compression": each} for each in COMPRESSED),
    {"method": "compressed", "compression": ORACLE},
    {"method": "block_retrieval", "blocks": FEW},
    {"method": "block_retrieval", "blocks": FEW | {"block": 16, "neighbours": 0.3}},
    {"method": "block_retrieval", "blocks": FEW | {"layer": 1}},
    {"method": "block_retrieval", "blocks": FEW | {"compare": "inputs", "layer": 1}},
]
TURNS = [(list(DOCUMENTS[:2]), list(INSTRUCTIONS[:2])), ([DOCUMENTS[2], "Later text."], ["", "Take nothing"])] * 2
ASKED = [list(QUESTIONS), [QUESTIONS[1]]]


def learner_of(backbone, kind, **more):
    return build_learner(LearnerSettings(**kind | more), backbone, training=True)


def written(learner, turns=TURNS, seeds=(3, 4)):
    state = learner.reset(list(seeds)[: len(turns[0][0])])
    for documents, instructions in turns:
        state = learner.write(state, documents, instructions)
    return state


def row_of(turns, row):
    return [([documents[row]], [instructions[row]]) for documents, instructions in turns]


# --- compression and block retrieval


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_sequence_and_question_is_answered_as_if_alone(tiny, kind):
    learner = learner_of(tiny, kind)
    together = learner.answer(written(learner), ASKED, 3)
    for row in range(2):
        alone = written(learner, row_of(TURNS, row))
        for answer, question in zip(together[row], ASKED[row], strict=True):
            assert_same_answers([answer], learner.answer(alone, [[question]], 3)[0])


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "block" not in kind.get("blocks", {})], ids=str)
def test_what_is_forgotten_is_as_if_it_had_never_been_written(tiny, kind):
    """Documents are read by themselves, so that nothing of one is in another; blocks of fixed size reach over two."""
    learner = learner_of(tiny, kind)
    turns = row_of(TURNS, 0)
    state, without = written(learner, turns), written(learner, [turns[0], turns[2], turns[3]])
    forgotten = learner.forget(state, 1)
    assert learner.answer(forgotten, ASKED[:1], 3) == learner.answer(without, ASKED[:1], 3)
    assert learner.cost(forgotten, 0, QUESTIONS[0]) == learner.cost(without, 0, QUESTIONS[0])
    again = [learner.write(each, ["New."], ["All"]) for each in (forgotten, without)]
    assert learner.answer(again[0], ASKED[:1], 3) == learner.answer(again[1], ASKED[:1], 3)


@torch.no_grad()
@pytest.mark.parametrize("block", ["segment", 16])
def test_to_read_every_block_is_the_whole_memory_to_the_bit(tiny, block):
    everything = written(learner_of(tiny, {"method": "compressed", "compression": {"by": "knorm", "share": 1.0}}))
    learner = learner_of(tiny, {"method": "block_retrieval", "blocks": {"block": block, "tokens": 10_000}})
    state = written(learner)
    ours, theirs = state.kept.prefix(learner.decoder), everything.prefix(learner.decoder)
    assert all(torch.equal(a, b) for a, b in zip(ours.keys + ours.values, theirs.keys + theirs.values, strict=True))
    full = learner_of(tiny, {"method": "compressed", "compression": {"by": "knorm", "share": 1.0}})
    assert learner.answer(state, ASKED, 3) == full.answer(everything, ASKED, 3)


@torch.no_grad()
@pytest.mark.parametrize("layer", [None, 1])
def test_a_question_reads_the_head_and_so_many_tokens_of_whole_blocks(tiny, layer):
    learner = learner_of(tiny, {"method": "block_retrieval", "blocks": FEW | {"layer": layer}})
    state = written(learner, row_of(TURNS[:2], 0))
    preamble = len(ChatFormat.of(tiny.tokenizer).preamble)
    prefix = learner.prefix_for(state, torch.tensor([0, 0]), QUESTIONS[:2])
    assert prefix.lengths.tolist() == [preamble + 40] * 2
    values = state.kept.values[1][0, 0]
    read = [int((values == entry).all(-1).nonzero()[0, 0]) for entry in prefix.values[1][0, 0]]
    assert read[:preamble] == list(range(preamble)) and read == sorted(read)
    found = state.block[0, read[preamble:]].unique(return_counts=True)
    whole = [int(count) == int((state.block[0] == number).sum()) for number, count in zip(*found, strict=True)]
    assert len(whole) > 1 and sum(whole) >= len(whole) - 1


@torch.no_grad()
def test_the_block_whose_words_are_the_questions_own_is_found(tiny):
    """At layer 0 an input is a token's embedding, so the same bytes are the same vectors."""
    settings = {"compare": "inputs", "layer": 0, "tokens": 20}
    learner = learner_of(tiny, {"method": "block_retrieval", "blocks": settings})
    line = "Oslo is a city of Norway\n"
    document = f"xyzzy xyzzy xyzzy\n{line}qqq qqq qqq"
    state = learner.write(learner.reset([0]), [document], ["All"])
    prefix = learner.prefix_for(state, torch.tensor([0]), QUESTIONS[:1])
    preamble, values = len(learner.reader.chat.preamble), state.kept.values[1][0, 0]
    read = [int((values == entry).all(-1).nonzero()[0, 0]) - preamble for entry in prefix.values[1][0, 0, preamble:]]
    first = learner.texts(document, "All")[0].index(line)  # a byte is a token
    assert read == list(range(first, first + 20))


@torch.no_grad()
def test_fixed_blocks_go_on_over_documents_and_after_forgetting(tiny):
    learner = learner_of(tiny, {"method": "block_retrieval", "blocks": {"block": 16}})
    state = written(learner, row_of(TURNS, 0))
    sizes = state.block[0][state.kept.documents[0]].bincount()
    assert sizes[:-1].tolist() == [16] * (len(sizes) - 1)
    later = learner.write(learner.forget(state, 0), ["New."], ["All"])
    assert 0 not in later.kept.source[0]
    new = later.block[0][later.kept.source[0] == 4]
    old = later.block[0][(later.kept.source[0] != 4) & later.kept.documents[0]]
    assert int(new.min()) >= int(old.max())


@torch.no_grad()
def test_a_share_costs_its_share_and_blocks_cost_what_a_question_reads(tiny):
    preamble = len(ChatFormat.of(tiny.tokenizer).preamble)
    everything = written(learner_of(tiny, {"method": "compressed", "compression": {"share": 1.0}}), row_of(TURNS, 0))
    sizes = [int((everything.source == number).sum()) for number in range(4)]
    token = 2 * sum(key.shape[1] * key.shape[3] * 4 for key in everything.keys)
    for kind in KINDS[:4]:
        learner = learner_of(tiny, kind)
        cost = learner.cost(written(learner, row_of(TURNS, 0)), 0, QUESTIONS[0])
        assert cost.kept == preamble + sum(-(-size * 3 // 10) for size in sizes)
        assert cost.bytes == cost.kept * token
        assert cost.query_flops == learner.reader.query_flops(QUESTIONS[0], int(cost.kept))
    learner = learner_of(tiny, {"method": "compressed", "compression": ORACLE})
    state = written(learner, row_of(TURNS, 0))
    assert learner.cost(state, 0, QUESTIONS[0]).kept == preamble + -(-sum(sizes) * 3 // 10)
    assert learner.prefix_for(state, torch.tensor([0]), QUESTIONS[:1]).lengths.tolist() == [
        learner.cost(state, 0, QUESTIONS[0]).kept
    ]
    learner = learner_of(tiny, {"method": "block_retrieval", "blocks": FEW})
    costs = [learner.cost(written(learner, row_of(TURNS * times, 0)), 0, QUESTIONS[0]) for times in (1, 3)]
    assert costs[0].kept == preamble + sum(sizes) and costs[1].kept == preamble + 3 * sum(sizes)
    assert costs[0].bytes == costs[0].kept * token
    read = learner.reader.query_flops(QUESTIONS[0], preamble + 40)
    assert read < costs[0].query_flops < costs[1].query_flops < 2.1 * read  # the question is read twice


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_document_longer_than_the_window_is_told_before_any_work(tiny, kind):
    with pytest.raises(MemoryFileError, match="8192 .* split the document"):
        learner_of(tiny, kind).check(["a" * 8190], ["all"])


@pytest.mark.parametrize("kind", [*KINDS[3:6], {"method": "recurrent_memory"}], ids=str)
def test_memory_models_and_settings_of_other_methods_are_refused(tiny, kind):
    with pytest.raises(ConfigError, match="needs a plain decoder"):
        learner_of(load_backbone("tiny-memoryllm", dtype="float32"), kind)
    if kind["method"] != "recurrent_memory":
        for write in ({"reads": 3}, {"gates": {"threshold": 0.5}}):
            with pytest.raises(ConfigError, match="write.reads: nothing or all"):
                learner_of(tiny, kind, write=write)


def test_a_layer_that_is_not_there_is_refused(tiny):
    with pytest.raises(ConfigError, match="blocks.layer: 9 is none"):
        learner_of(tiny, {"method": "block_retrieval", "blocks": {"layer": 9}})


# --- the recurrent memory

MEMORY = {"method": "recurrent_memory", "recurrent": {"tokens": 5}}


@torch.no_grad()
def test_memory_tokens_are_the_stock_models_last_states_behind_each_text(tiny_family):
    learner, stock = learner_of(tiny_family, MEMORY), another(tiny_family)
    chat, embed = learner.reader.chat, stock.get_input_embeddings()
    vectors = learner.memory.start.detach()
    for text in blocks(2):
        parts = [embed(torch.tensor(chat.preamble, dtype=torch.long)), vectors, embed(torch.tensor(chat.encode(text)))]
        hidden = stock.model(inputs_embeds=torch.cat([*parts, vectors])[None]).last_hidden_state
        vectors = hidden[0, -5:]
    turns = [([document], [instruction]) for document, instruction in zip(DOCUMENTS, INSTRUCTIONS, strict=True)]
    state = written(learner, turns[:2])
    torch.testing.assert_close(state.vectors[0], vectors, atol=2e-5, rtol=1e-4)
    prompt, answer = prompt_ids(chat, [], QUESTIONS[0])[len(chat.preamble) :], answer_ids(chat, QUESTIONS[0])
    rest = embed(torch.tensor(prompt + answer))
    whole = torch.cat((embed(torch.tensor(chat.preamble, dtype=torch.long)), vectors, rest))[None]
    logits = stock(inputs_embeds=whole).logits[0, -len(answer) - 1 : -1]
    nll = torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum")
    assert learner.answer(state, [[QUESTIONS[0]]], 1)[0][0].nll == pytest.approx(float(nll), abs=5e-4)


@torch.no_grad()
def test_memory_tokens_cost_the_same_whatever_was_written(tiny):
    learner = learner_of(tiny, MEMORY)
    costs = {learner.cost(written(learner, TURNS[:count]), 0, QUESTIONS[0]) for count in (1, 2, 4)}
    (cost,) = costs
    assert (cost.kept, cost.bytes) == (5, 5 * 48 * 4)


def test_a_memory_starts_as_spread_as_the_input_embeddings(tiny):
    start = learner_of(tiny, MEMORY | {"recurrent": {"tokens": 200}}).memory.start.detach()
    assert float(start.std()) == pytest.approx(float(tiny.model.get_input_embeddings().weight.std()), rel=0.05)


def test_gradients_reach_the_start_through_every_document(tiny):
    learner = learner_of(tiny, MEMORY)
    learner.loss(written(learner), ASKED).total.backward()
    assert float(learner.memory.start.grad.abs().max()) > 0
    learner.zero_grad()
    state = learner.write(learner.detach(written(learner, TURNS[:1])), *TURNS[1])
    assert not state.vectors.requires_grad  # without an adapter nothing else is trained


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_small_documents(tmp_path_factory.mktemp("documents"))


def test_a_recurrent_memory_trains_is_saved_and_evaluated_as_every_method(data, tmp_path, tiny):
    settings = train_settings(data, tmp_path) | {"methods": {"memory": MEMORY}}
    run = Trainer(validate(settings, TrainParams, "test"), "memory", "a test")
    assert list(run.parts) == ["default", "memory_module"]
    before = run.module.learner.memory.start.detach().clone()
    losses = [run.step(1)["loss"] for _ in range(6)]
    assert losses[-1] < losses[0] - 0.2
    run.fit()
    assert not torch.equal(run.module.learner.memory.start, before)
    about, backbone = load_model(run.output, tiny)
    loaded = build_learner(LearnerSettings(**about["learner"], adapter=run.output), backbone)
    assert torch.equal(loaded.memory.start, run.module.learner.memory.start)
    settings = evaluate_settings(data, tmp_path / "evals")
    settings |= {"methods": {"memory": MEMORY | {"adapter": str(run.output)}}}
    folder = evaluate(validate(settings, EvaluateParams, "test"), "memory", "a test")
    assert len(read_records(folder / "records.parquet")) > 0
    with pytest.raises(CheckpointError, match="recurrent_memory needs"):
        build_learner(LearnerSettings(**MEMORY), load_backbone("tiny", dtype="float32"))
