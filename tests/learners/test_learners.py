"""The contract of every registered method, and what is particular to each."""

import copy
import dataclasses
import math

import pytest
import torch

from gnm.config import validate
from gnm.data.labels import label_writes
from gnm.data.segments import split_segments
from gnm.data.types import Step
from gnm.errors import ConfigError, MemoryFileError
from gnm.inference.chat import ChatFormat
from gnm.inference.prompts import NOTE_REQUEST, block, note
from gnm.inference.questions import Question
from gnm.learners import _BUILDERS, LearnerSettings, build_learner
from gnm.learners.memory import gated_parts, in_block
from gnm.models.lora import LoraSettings, add_lora
from gnm.weights.backbones import load_backbone
from stock import DOCUMENTS, INSTRUCTIONS, QUESTIONS, another, assert_same_answers, prompt_ids, stock_nll

METHODS = sorted(_BUILDERS)
FIXED_SIZE = ("latent_bank", "recurrent_memory")
WITH_DOCUMENTS = [m for m in METHODS if m not in ("no_memory", "dummy", "text_notes", *FIXED_SIZE)]
INSTRUCTION_FIRST = ("gnm", "gnm_ablation", "memoryllm", "compressed", "block_retrieval")
TURNS = [(list(DOCUMENTS[:2]), list(INSTRUCTIONS[:2])), ([DOCUMENTS[2], "Later text."], ["", "Take nothing"])]
ASKED = [list(QUESTIONS), [QUESTIONS[1]]]


def learner_of(method, backbone, **settings):
    return build_learner(LearnerSettings(method=method, max_note_tokens=6, **settings), backbone, training=True)


def written(learner, turns=TURNS, seeds=(3, 4)):
    state = learner.reset(list(seeds))
    for documents, instructions in turns:
        state = learner.write(state, documents, instructions)
    return state


def row_of(turns, row):
    return [([documents[row]], [instructions[row]]) for documents, instructions in turns]


def parts(state):
    """The leaves of a state: tensors, texts and numbers."""
    if dataclasses.is_dataclass(state):
        return parts([getattr(state, field.name) for field in dataclasses.fields(state)])
    if isinstance(state, (list, tuple)):
        return [leaf for item in state for leaf in parts(item)]
    return [state]


def same(state, other):
    mine, theirs = parts(state), parts(other)
    return len(mine) == len(theirs) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(mine, theirs, strict=True)
    )


# --- the contract


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_a_write_gives_a_new_state_and_leaves_the_old(tiny, method):
    learner = learner_of(method, tiny)
    states = [learner.reset([3, 4])]
    for documents, instructions in TURNS:
        before = copy.deepcopy(states[-1])
        states.append(learner.write(states[-1], documents, instructions))
        learner.answer(states[-1], ASKED, 3)
        assert same(states[-2], before)
        assert same(states[-1], learner.write(states[-2], documents, instructions))
        assert same(states[-1], states[-2]) == (method == "no_memory")


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_every_sequence_is_answered_as_if_alone(tiny, method):
    learner = learner_of(method, tiny)
    together = learner.answer(written(learner), ASKED, 3)
    assert [len(row) for row in together] == [4, 1]
    for row in range(2):
        alone = written(learner, row_of(TURNS, row), seeds=[3 + row])
        assert_same_answers(together[row], learner.answer(alone, ASKED[row : row + 1], 3)[0])
        cost, lone = (learner.cost(s, r, QUESTIONS[0]) for s, r in ((written(learner), row), (alone, 0)))
        assert cost == lone


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_before_any_document_there_are_answers_too(tiny, method):
    learner = learner_of(method, tiny)
    state = learner.reset([0, 1])
    answers = learner.answer(state, ASKED, 3)
    assert [len(row) for row in answers] == [4, 1]
    if method != "dummy":
        chat, stock = ChatFormat.of(tiny.tokenizer), another(tiny)
        expected = [float(stock_nll(stock, chat, [], question)) for question in ASKED[0]]
        assert [a.nll for a in answers[0]] == pytest.approx(expected, abs=5e-4)
    assert learner.cost(state, 0, QUESTIONS[0]).kept >= 0


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_is_the_answers_and_has_a_gradient(tiny, method):
    parameters = add_lora(tiny.model, LoraSettings(r=2, alpha=4), seed=0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    learner = learner_of(method, tiny)
    parameters = parameters + list(learner.own_parameters().values()) if method != "dummy" else [learner.weight]
    assert {id(p) for p in learner.parameters() if p.requires_grad} == {id(p) for p in parameters}
    state = written(learner)
    total, tokens, right = learner.loss(state, ASKED)
    total.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in parameters)
    if method != "dummy":
        answers = [answer for row in learner.answer(state, ASKED, 1) for answer in row]
        assert tokens == sum(answer.tokens for answer in answers)
        assert total.item() == pytest.approx(sum(answer.nll for answer in answers), abs=1e-3)
    assert [len(row) for row in right] == [len(row) for row in ASKED]


@pytest.mark.parametrize("method", METHODS)
def test_a_cut_state_is_the_same_without_its_graph(tiny, method):
    add_lora(tiny.model, LoraSettings(r=2, alpha=4), seed=0)
    learner = learner_of(method, tiny)
    state = written(learner)
    cut = learner.detach(state)
    for ours, theirs in zip(learner.answer(cut, ASKED, 3), learner.answer(state, ASKED, 3), strict=True):
        assert_same_answers(ours, theirs)
    assert learner.cost(cut, 0, QUESTIONS[0]) == learner.cost(state, 0, QUESTIONS[0])
    slots = cut.state.slots if method in ("gnm", "gnm_ablation", "memoryllm") else None
    tensors = [slots] if slots is not None else [leaf for leaf in parts(cut) if isinstance(leaf, torch.Tensor)]
    assert not any(tensor.requires_grad for tensor in tensors)


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_no_questions_are_no_error(tiny, method):
    learner = learner_of(method, tiny)
    state = written(learner)
    assert learner.answer(state, [[], []], 3) == [[], []]
    loss = learner.loss(state, [[], []])
    assert (float(loss.total), loss.tokens, loss.right) == (0.0, 0, [[], []])


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_the_cost_grows_with_what_is_kept(tiny, method):
    """What has a fixed size keeps as much whatever it was given."""
    learner = learner_of(method, tiny, top_k=2)
    first = learner.reset([3, 4])
    states = [first, *(written(learner, (TURNS * 2)[:count]) for count in (1, 2, 4))]
    costs = [learner.cost(state, 0, QUESTIONS[0]) for state in states]
    assert all(math.isfinite(c.kept) and math.isfinite(c.bytes) and c.query_flops >= 0 for c in costs)
    grows = method not in ("no_memory", *FIXED_SIZE)
    assert (costs[0].kept < costs[1].kept < costs[2].kept < costs[3].kept) == grows
    assert (costs[0].bytes < costs[1].bytes < costs[2].bytes < costs[3].bytes) == grows
    if method != "dummy":
        assert (costs[1].query_flops < costs[2].query_flops) == grows
    if method.startswith("retrieval"):  # two pairs are read however many there are
        assert costs[3].query_flops < 1.5 * costs[2].query_flops


# --- the registry


@pytest.mark.parametrize(
    ("wrong", "hint"), [("gmn", "did you mean 'gnm'"), ("in_contxt", "did you mean 'in_context'"), ("%%", "known: gnm")]
)
def test_an_unknown_method_is_refused_with_the_nearest_name(tiny, wrong, hint):
    with pytest.raises(ConfigError, match=f"unknown method '{wrong}'.*{hint}"):
        learner_of(wrong, tiny)


@pytest.mark.parametrize(
    "wrong", [{"retriever": "bm52"}, {"top_k": 0}, {"order": "document_last"}, {"memory": {"capacty": 3}}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        validate({"method": "gnm"} | wrong, LearnerSettings, "params.yaml")


def test_the_ablation_alone_writes_without_gradient(tiny):
    through = {m: learner_of(m, tiny).lm.gradient_through_writing for m in ("gnm", "gnm_ablation", "memoryllm")}
    assert through == {"gnm": True, "gnm_ablation": False, "memoryllm": True}


# --- each against the stock model with its text in context


def expected_texts(method, order):
    own = "instruction_first" if method in INSTRUCTION_FIRST else "document_first"
    return [[block(d[row], i[row], order or own) for d, i in TURNS] for row in range(2)]


@torch.no_grad()
@pytest.mark.parametrize("order", [None, "instruction_first", "document_first"])
@pytest.mark.parametrize("method", WITH_DOCUMENTS)
def test_with_everything_in_reach_a_method_is_the_text_in_context(tiny, method, order):
    """Memory that reads all, retrieval and compression to all: the stock model with preamble, pairs, question."""
    everything = {"top_k": 2, "compression": {"share": 1.0}, "blocks": {"tokens": 1000}}
    learner = learner_of(method, tiny, order=order, write={"reads": "all"}, **everything)
    answers = learner.answer(written(learner), ASKED, 1)
    chat, stock = ChatFormat.of(tiny.tokenizer), another(tiny)
    for row, texts, asked in zip(answers, expected_texts(method, order), ASKED, strict=True):
        for answer, question in zip(row, asked, strict=True):
            assert answer.nll == pytest.approx(float(stock_nll(stock, chat, texts, question)), abs=5e-4)


@torch.no_grad()
@pytest.mark.parametrize("retriever", ["mean_embedding", "bm25"])
def test_retrieval_of_all_is_in_context(tiny_family, retriever):
    turns = TURNS * 2
    retrieval = learner_of("retrieval", tiny_family, retriever=retriever, top_k=4)
    in_context = learner_of("in_context", tiny_family)
    ours, theirs = (learner.answer(written(learner, turns), ASKED, 4) for learner in (retrieval, in_context))
    for row, other in zip(ours, theirs, strict=True):
        assert_same_answers(row, other)


@torch.no_grad()
def test_without_memory_no_document_is_read(tiny):
    learner = learner_of("no_memory", tiny)
    answers = learner.answer(written(learner), ASKED, 3)
    assert answers == learner.answer(learner.reset([3, 4]), ASKED, 3)
    stock = learner_of("in_context", tiny)
    for row, expected in zip(answers, stock.answer(stock.reset([3, 4]), ASKED, 3), strict=True):
        assert_same_answers(row, expected)


@torch.no_grad()
def test_without_memory_a_question_is_read_once(tiny, monkeypatch):
    learner = learner_of("no_memory", tiny)
    state, read = learner.reset([3, 4]), []
    answer = learner.reader.answer
    monkeypatch.setattr(learner.reader, "answer", lambda p, asked, n: read.append(asked) or answer(p, asked, n))
    once, again = learner.answer(state, ASKED, 3), learner.answer(state, [ASKED[1], ASKED[0]], 3)
    assert again == [once[1], once[0]]
    assert read == [[list(dict.fromkeys(q for row in ASKED for q in row))], [[]]]


@torch.no_grad()
def test_text_notes_put_what_the_backbone_noted_into_the_context(tiny_family):
    learner = learner_of("text_notes", tiny_family)
    chat, stock = ChatFormat.of(tiny_family.tokenizer), another(tiny_family)
    texts = [[], []]
    for documents, instructions in TURNS:
        notes = learner.notes(documents, instructions)
        for row, (document, instruction) in enumerate(zip(documents, instructions, strict=True)):
            request = chat.encode(block(document, instruction, "instruction_first") + NOTE_REQUEST)
            ids = torch.tensor([chat.prompt(request)])
            said = stock.generate(ids, max_new_tokens=6, do_sample=False, attention_mask=torch.ones_like(ids))
            spoken = tiny_family.tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True).strip()
            assert notes[row] == spoken
            texts[row].append(note(spoken))
    answers = learner.answer(written(learner), ASKED, 1)
    for row, own, asked in zip(answers, texts, ASKED, strict=True):
        for answer, question in zip(row, asked, strict=True):
            assert answer.nll == pytest.approx(float(stock_nll(stock, chat, own, question)), abs=5e-4)


@torch.no_grad()
@pytest.mark.parametrize("method", ["in_context", "retrieval", "memoryllm", "text_notes", "no_memory"])
def test_continuations_are_the_stock_models_over_plain_text(tiny, method):
    """Of every untrained method, with documents and with nothing written; notes are taken in the chat form."""
    write = {"reads": "all"}  # then a memory is what the same text is in context
    learner = learner_of(method, tiny, prompt="continuation", order="document_first", write=write)
    stock, encode = another(tiny), ChatFormat.of(tiny.tokenizer).encode
    texts = [[], []]
    for documents, instructions in TURNS if method != "no_memory" else []:
        noted = learner.notes(documents, instructions) if method == "text_notes" else None
        assert noted is None or noted == learner_of(method, tiny).notes(documents, instructions)
        for row, (document, instruction) in enumerate(zip(documents, instructions, strict=True)):
            texts[row].append(note(noted[row]) if noted else block(document, instruction, "document_first"))
    for state, context in ((written(learner), texts), (learner.reset([3, 4]), [[], []])):
        for answers, before, asked in zip(learner.answer(state, ASKED, 2), context, ASKED, strict=True):
            for answer, question in zip(answers, asked, strict=True):
                prompt = [token for text in before for token in encode(text)] + encode(question.phrase)
                said = encode(f" {question.target}.")
                scores = stock(torch.tensor([prompt + said])).logits[0, len(prompt) - 1 : -1]
                nll = torch.nn.functional.cross_entropy(scores, torch.tensor(said), reduction="sum")
                assert answer.nll == pytest.approx(float(nll), abs=5e-4)


def test_the_dummy_believes_its_documents(tiny):
    learner, question = learner_of("dummy", tiny), Question("Oslo lies in", "Norway", "Peru")
    said = []
    for text in ("nothing", "Oslo lies in Peru.", "Oslo lies in Norway.", "Norway, not Peru"):
        answer = learner.answer(learner.write(learner.reset([0]), [text], ["all"]), [[question]], 3)[0][0]
        said.append((answer.text, answer.target_score > answer.other_score))
    assert said == [("Norway", True), ("Peru", False), ("Norway", True), ("Norway", True)]


# --- memory


@torch.no_grad()
def test_a_pool_of_a_third_holds_a_third_and_answers(tiny_family):
    turns = TURNS * 3
    sizes = written(learner_of("gnm", tiny_family), turns).state.used()
    capacity = max(int(sizes.max()) // 3, 110)
    for eviction in ("random", "oldest"):
        learner = learner_of("gnm", tiny_family, memory={"capacity": capacity, "eviction": eviction})
        state = written(learner, turns)
        assert state.state.used().tolist() == [capacity, capacity]
        preamble = len(ChatFormat.of(tiny_family.tokenizer).preamble)
        assert learner.cost(state, 1, QUESTIONS[0]).kept == capacity + preamble
        answers = learner.answer(state, ASKED, 3)
        for row in range(2):
            alone = written(learner, row_of(turns, row), seeds=[3 + row])
            assert_same_answers(answers[row], learner.answer(alone, ASKED[row : row + 1], 3)[0])


@pytest.mark.parametrize("method", METHODS)
def test_what_can_never_be_written_is_told_before_any_work(tiny, method):
    """Only a memory has a pool that a document may not fit into."""
    learner = learner_of(method, tiny, memory={"capacity": 60})
    short, long = ("ab", "all"), ("a document that is longer than the pool", "all of it")
    learner.check([short[0]], [short[1]])
    if method in ("gnm", "gnm_ablation", "memoryllm"):
        with pytest.raises(MemoryFileError, match="the pool holds 60"):
            learner.check([short[0], long[0]], [short[1], long[1]])
    else:
        learner.check([long[0]], [long[1]])


@torch.no_grad()
def test_a_document_longer_than_the_window_is_told_before_any_work(tiny):
    with pytest.raises(MemoryFileError, match="9011 tokens; 8062 of the 8192 .* split the document"):
        learner_of("gnm", tiny).check(["a" * 8982], ["all"])


def test_memory_costs_are_the_slots_and_the_question(tiny):
    learner = learner_of("memoryllm", tiny)
    cost = learner.cost(written(learner), 0, QUESTIONS[0])
    chat = ChatFormat.of(tiny.tokenizer)
    tokens = len(prompt_ids(chat, expected_texts("memoryllm", None)[0], QUESTIONS[0]))
    question = len(prompt_ids(chat, [], QUESTIONS[0])) - len(chat.preamble)
    assert cost.kept == tokens - question
    assert cost.bytes == cost.kept * 3 * 48 * 4  # layers, width, bytes of a float


def test_a_learner_in_bfloat16_answers(tiny):
    backbone = load_backbone("tiny", dtype="bfloat16")
    for method in METHODS:
        learner, reference = learner_of(method, backbone), learner_of(method, tiny)
        with torch.no_grad():
            low, high = (one.answer(written(one), ASKED, 1)[0][0] for one in (learner, reference))
        if method != "text_notes":  # notes may differ in a letter
            assert low.nll == pytest.approx(high.nll, rel=0.05)


@torch.no_grad()
@pytest.mark.parametrize("order", ["instruction_first", "document_first"])
def test_a_reread_document_is_the_document_without_the_lines_that_were_left_out(tiny, order):
    lines = [f"* {word} is {word[::-1]}" for word in ("red", "tin", "old", "wet", "new", "hot")]
    document, instruction = "\n".join(lines), "Learn some. Leave out the rest."
    room = 3 * len(lines[0] + "\n") + (order == "instruction_first")  # a byte is a token; an empty line ends the block
    gates = {"by": "random", "threshold": 0.0, "slots": room, "reread": True}
    learner = learner_of("gnm", tiny, order=order, write={"gates": gates})
    for seed in range(50):
        state = learner.write(learner.reset([seed]), [document], [instruction])
        segments = learner.segments(state, 0, document, instruction)
        own = [part for part in segments if part.of_document]
        if own[-1].stored and all(part.stored in (0, part.tokens) for part in segments):
            break
    else:
        pytest.fail("no seed stores whole lines and the last of them")
    kept = "\n".join(part.text.strip() for part in own if part.stored)
    assert kept != document
    plain = learner_of("gnm", tiny, order=order)
    whole = plain.write(plain.reset([0]), [kept], [instruction]).state
    stored = [part.stored > 0 for part in segments if part.stored or not part.of_document for _ in range(part.tokens)]
    expected = whole.slots[:, :, whole.source[0] == 0][:, :, torch.tensor(stored)]
    torch.testing.assert_close(state.state.slots[:, :, state.state.source[0] == 0], expected)


@pytest.mark.parametrize("order", ["instruction_first", "document_first"])
@pytest.mark.parametrize("document", ["Ann is from Oslo, and Ben is from Rome.\n\n* Cars are red", "One", ""])
def test_gates_decide_on_the_clauses_of_a_document_and_on_its_instruction_as_a_whole(document, order):
    told = "Learn all of it, please, and say sorry about cars. Or not"
    parts = gated_parts(document, told, order)
    assert "".join(text for text, _ in parts) == block(document, told, order)
    assert "".join(text for text, of_document in parts if of_document).strip() == document
    assert sum(told in text for text, of_document in parts if not of_document) == 1
    assert len([text for text, of_document in parts if of_document]) == (3 if "," in document else bool(document))
    assert in_block([True] * len(split_segments(document)), False, order) == [of_document for _, of_document in parts]


def test_the_gate_of_an_instruction_learns_to_keep_rules_alone(tiny):
    """The instruction's own gate is to be open for a rule, shut otherwise, whatever the words of the document."""
    settings = LearnerSettings(method="gnm", write={"gates": {"threshold": 0.0}})
    gates = {}
    for is_rule in (True, False):
        learner = build_learner(settings, tiny, training=True)
        step = Step("Oslo is big", "Oslo is big", "all", "facts", None, (), frozenset({"Oslo is big"}), is_rule=is_rule)
        optimizer = torch.optim.SGD([*learner.own_parameters().values()], lr=3.0)
        for _ in range(30):
            state = learner.write(learner.reset([0]), [step.document], [step.instruction])
            optimizer.zero_grad()
            learner.write_loss(state, label_writes([step])).backward()
            optimizer.step()
        gates[is_rule] = state.decisions.logits[0].sigmoid().tolist()
    assert gates[True][0] > 0.8 and gates[False][0] < 0.2 and min(gates[True][1], gates[False][1]) > 0.6
