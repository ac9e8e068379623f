"""Which documents retrieval finds, and what is answered in their context."""

import pytest
import torch

from gnm.inference.chat import ChatFormat
from gnm.inference.questions import Question
from gnm.learners import LearnerSettings, build_learner
from gnm.learners.retrieval import bm25_scores
from stock import another, assert_same_answers, stock_nll

LIBRARY = [
    "The harbour of Bergen was built by merchants.",
    "Marie Curie discovered radium in her laboratory.",
    "Penguins breed on the coast of the Antarctic.",
    "The violin concerto was written in Vienna.",
]
LOOKED_FOR = {
    "Marie Curie found the element": 1,
    "Who wrote the violin concerto? It was": 3,
    "Animals like penguins live near the": 2,
    "In Bergen, the merchants built a": 0,
}


def learner_of(backbone, retriever, top_k):
    return build_learner(LearnerSettings(method="retrieval", retriever=retriever, top_k=top_k), backbone)


def library(learner, texts=LIBRARY):
    state = learner.reset([0])
    for text in texts:
        state = learner.write(state, [text], ["Learn all facts"])
    return state


@pytest.mark.parametrize("retriever", ["bm25", "mean_embedding"])
def test_the_document_that_a_question_is_about_is_found(smollm2, retriever):
    learner = learner_of(smollm2, retriever, top_k=1)
    state = library(learner)
    for phrase, index in LOOKED_FOR.items():
        assert learner.retrieve(state, 0, phrase) == (state.texts[0][index],)


def test_retrieved_pairs_stand_in_the_order_in_which_they_came(tiny):
    learner = learner_of(tiny, "bm25", top_k=2)
    state = library(learner)
    for phrase in ("violin Bergen", "Bergen violin", "violin violin violin Bergen"):
        assert learner.retrieve(state, 0, phrase) == (state.texts[0][0], state.texts[0][3])


def test_the_nearest_documents_have_the_nearest_mean_embeddings(tiny):
    learner = learner_of(tiny, "mean_embedding", top_k=2)
    state, embed = library(learner), tiny.model.get_input_embeddings().weight
    chat = ChatFormat.of(tiny.tokenizer)
    for phrase in LOOKED_FOR:
        means = [embed[chat.encode(text)].mean(0) for text in (phrase, *state.texts[0])]
        cosines = [float(means[0] @ m / means[0].norm() / m.norm()) for m in means[1:]]
        nearest = sorted(sorted(range(4), key=lambda i: -cosines[i])[:2])
        assert learner.retrieve(state, 0, phrase) == tuple(state.texts[0][i] for i in nearest)


@pytest.mark.parametrize("phrase", ["zyx qwv", "?", "", "北京"])
@pytest.mark.parametrize("texts", [LIBRARY, LIBRARY[:1], ["—", "!"]])
def test_bm25_without_a_known_word_takes_the_first_documents(tiny, phrase, texts):
    learner = learner_of(tiny, "bm25", top_k=1)
    state = library(learner, texts)
    assert learner.retrieve(state, 0, phrase) == state.texts[0][:1]
    assert bm25_scores(texts, phrase) == [0.0] * len(texts)


@torch.no_grad()
def test_an_empty_phrase_is_no_error_for_the_mean_embedding(tiny):
    learner = learner_of(tiny, "mean_embedding", top_k=1)
    state = library(learner)
    assert learner.retrieve(state, 0, "") == state.texts[0][:1]


@torch.no_grad()
@pytest.mark.parametrize("retriever", ["bm25", "mean_embedding"])
@pytest.mark.parametrize("top_k", [1, 3])
def test_each_question_is_answered_in_the_context_of_its_own_pairs(tiny, retriever, top_k):
    learner = learner_of(tiny, retriever, top_k)
    state, chat, stock = library(learner), ChatFormat.of(tiny.tokenizer), another(tiny)
    questions = [Question(phrase, "yes", "no") for phrase in LOOKED_FOR]
    assert len({learner.retrieve(state, 0, q.phrase) for q in questions}) > 1
    for answer, question in zip(learner.answer(state, [questions], 1)[0], questions, strict=True):
        nearest = learner.retrieve(state, 0, question.phrase)
        assert answer.nll == pytest.approx(float(stock_nll(stock, chat, nearest, question)), abs=5e-4)
    total = learner.loss(state, [questions]).total
    assert total.item() == pytest.approx(sum(a.nll for a in learner.answer(state, [questions], 1)[0]), abs=1e-3)


@torch.no_grad()
def test_answers_are_remembered_for_equal_pairs_and_forgotten_at_a_reset(tiny, monkeypatch):
    learner = learner_of(tiny, "bm25", top_k=1)
    state, questions = library(learner), [[Question(phrase, "yes", "no") for phrase in LOOKED_FOR]]
    asked, answer = [], learner.reader.answer

    def counted(prefix, some, max_new_tokens):
        asked.extend(question for row in some for question in row)
        return answer(prefix, some, max_new_tokens)

    monkeypatch.setattr(learner.reader, "answer", counted)
    first = learner.answer(state, questions, 3)
    later = learner.write(state, ["Quite another thing."], ["Learn"])
    assert learner.answer(later, questions, 3) == first and len(asked) == 4
    learner.answer(later, questions, 2)  # other lengths are other answers
    assert len(asked) == 8
    learner.reset([0])
    assert learner.answer(later, questions, 3) == first and len(asked) == 12


@torch.no_grad()
def test_many_contexts_are_read_in_portions(tiny, monkeypatch):
    learner = learner_of(tiny, "bm25", top_k=1)
    state, questions = library(learner), [[Question(phrase, "yes", "no") for phrase in LOOKED_FOR]]
    whole = learner.answer(state, questions, 3)[0]
    monkeypatch.setattr("gnm.learners.retrieval.CONTEXTS_AT_ONCE", 1)
    learner.reset([0])
    assert_same_answers(learner.answer(state, questions, 3)[0], whole)


@torch.no_grad()
def test_what_contexts_begin_with_is_read_once(tiny, monkeypatch):
    learner = learner_of(tiny, "bm25", top_k=3)
    a, b, c, d = texts = library(learner).texts[0]
    read, extend = [], learner.decoder.extend

    def counted(prefix, ids, mask):
        read.append(int(mask.sum()))
        return extend(prefix, ids, mask)

    monkeypatch.setattr(learner.decoder, "extend", counted)
    contexts = [(a, b, c), (a, b, d), (b,), (a, b), (a, b, c)]
    prefix = learner._prefix(contexts)
    size = {text: len(learner.reader.chat.encode(text)) for text in texts}
    preamble = len(learner.reader.chat.preamble)
    assert read == [preamble, size[a] + size[b], size[b], size[c] + size[d]][preamble == 0 :]
    assert prefix.lengths.tolist() == [preamble + sum(size[text] for text in context) for context in contexts]
