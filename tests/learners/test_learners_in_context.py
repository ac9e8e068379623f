"""Each method against the stock model with its text in the context."""

import pytest
import torch

from every_method import ASKED, FIXED_SIZE, METHODS, TURNS, expected_texts, learner_of, written
from gnm.inference.chat import ChatFormat
from gnm.inference.prompts import NOTE_REQUEST, block, note
from gnm.inference.questions import Question
from stock import another, assert_same_answers, stock_nll

WITH_DOCUMENTS = [m for m in METHODS if m not in ("no_memory", "dummy", "text_notes", *FIXED_SIZE)]


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
