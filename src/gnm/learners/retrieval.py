"""Retrieval: all documents are kept as text; the few nearest to a question stand in its context.

- Retrieved pairs stand in the order in which they came, so that a later document can correct an earlier one, and
  questions with the same pairs share one context.
- Two retrievers: the paper's mean of input embeddings, and BM25 (Robertson & Zaragoza 2009) from bm25s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gnm.extras import optional_imports
from gnm.inference.prompts import Order, block
from gnm.inference.questions import Answer, Question
from gnm.inference.reader import Reader
from gnm.learners.base import Cost, Learner
from gnm.learners.in_context import prefix_token_bytes
from gnm.models.prefix import Prefix

RetrieverName = Literal["mean_embedding", "bm25"]
CONTEXTS_AT_ONCE = 16


@dataclass(frozen=True)
class Library:
    """The texts of each sequence, oldest first, and each text's mean input embedding [E]."""

    texts: tuple[tuple[str, ...], ...]
    embeddings: tuple[tuple[Tensor, ...], ...]


class RetrievalLearner(Learner):
    """Answers each question in the context of its `top_k` nearest document-instruction pairs."""

    same_passes = False  # as many as there are different contexts

    def __init__(self, reader: Reader, retriever: RetrieverName, top_k: int, order: Order = "document_first"):
        super().__init__()
        self.reader, self.retriever, self.top_k, self.order = reader, retriever, top_k, order
        self.decoder = reader.decoder
        self._known: dict[tuple, Answer] = {}

    def reset(self, seeds: Sequence[int]) -> Library:
        self._known.clear()
        return Library(tuple(() for _ in seeds), tuple(() for _ in seeds))

    def write(self, state: Library, documents: Sequence[str], instructions: Sequence[str]) -> Library:
        blocks = [block(d, i, self.order) for d, i in zip(documents, instructions, strict=True)]
        texts = tuple((*old, new) for old, new in zip(state.texts, blocks, strict=True))
        embeddings = tuple((*old, self._embed(new)) for old, new in zip(state.embeddings, blocks, strict=True))
        return Library(texts, embeddings)

    def answer(self, state, questions, max_new_tokens):
        """As the contract says. A question whose pairs are the same as before gets the answer it got then."""
        wanted: dict[tuple[str, ...], dict[tuple, Question]] = {}
        keys = []
        for row, asked in enumerate(questions):
            keys.append([])
            for question in asked:
                context = self.retrieve(state, row, question.phrase)
                key = (context, question, max_new_tokens)
                keys[-1].append(key)
                if key not in self._known:
                    wanted.setdefault(context, {})[key] = question
        contexts = sorted(wanted)  # side by side what begins with the same texts
        for start in range(0, len(contexts), CONTEXTS_AT_ONCE):
            some = contexts[start : start + CONTEXTS_AT_ONCE]
            asked = [list(wanted[context].values()) for context in some]
            answered = self.reader.answer(self._prefix(some), asked, max_new_tokens)
            for context, answers in zip(some, answered, strict=True):
                self._known.update(zip(wanted[context], answers, strict=True))
        return [[self._known[key] for key in row] for row in keys]

    def loss(self, state, questions):
        grouped: dict[tuple[int, tuple[str, ...]], list[tuple[int, Question]]] = {}
        for row, asked in enumerate(questions):
            for place, question in enumerate(asked):
                grouped.setdefault((row, self.retrieve(state, row, question.phrase)), []).append((place, question))
        prefix = self._prefix([context for _, context in grouped])
        loss = self.reader.loss(prefix, [[question for _, question in group] for group in grouped.values()])
        right = [[False] * len(asked) for asked in questions]
        for ((row, _), group), verdicts in zip(grouped.items(), loss.right, strict=True):
            for (place, _), verdict in zip(group, verdicts, strict=True):
                right[row][place] = verdict
        return loss._replace(right=right)

    def detach(self, state: Library) -> Library:
        return state

    def cost(self, state: Library, row: int, asked: Question) -> Cost:
        """Kept: tokens of all texts. A question pays for reading its retrieved pairs."""
        kept = sum(len(self.reader.chat.encode(text)) for text in state.texts[row])
        context = self.retrieve(state, row, asked.phrase)
        read = len(self.reader.chat.preamble) + sum(len(self.reader.chat.encode(text)) for text in context)
        flops = self.reader.query_flops(asked, read) + self.reader.prefill_flops(read)
        return Cost(kept, kept * prefix_token_bytes(self.decoder.empty_prefix(1)), flops)

    def retrieve(self, state: Library, row: int, phrase: str) -> tuple[str, ...]:
        """The texts nearest to `phrase`, at most top_k, in the order in which they were written."""
        texts = state.texts[row]
        if len(texts) <= self.top_k:
            return texts
        scores = bm25_scores(texts, phrase) if self.retriever == "bm25" else self._cosine(state, row, phrase)
        nearest = sorted(range(len(texts)), key=lambda index: (-scores[index], index))[: self.top_k]
        return tuple(texts[index] for index in sorted(nearest))

    def _cosine(self, state: Library, row: int, phrase: str) -> list[float]:
        documents = torch.stack(state.embeddings[row])
        return torch.nn.functional.cosine_similarity(documents, self._embed(phrase)[None], dim=-1).tolist()

    @torch.no_grad()
    def _embed(self, text: str) -> Tensor:
        embeddings = self.decoder.model.get_input_embeddings()
        ids = torch.tensor(self.reader.chat.encode(text), dtype=torch.long, device=self.decoder.device)
        if not len(ids):
            return torch.zeros(embeddings.weight.shape[1], device=ids.device)
        return embeddings(ids).float().mean(0)

    def _prefix(self, contexts: Sequence[tuple[str, ...]]) -> Prefix:
        """One prefix per context; what several begin with is read once, each text tokenised by itself as everywhere."""
        begun, prefix = [()], self.reader.preamble(1)
        for depth in range(max(map(len, contexts), default=0)):
            longer = list(dict.fromkeys(context[: depth + 1] for context in contexts))
            before = torch.tensor([begun.index(texts[:depth]) for texts in longer])
            added = self.reader.encode(["".join(texts[depth:]) for texts in longer])
            begun, prefix = longer, self.decoder.extend(prefix.rows(before), added.ids, added.mask)
        return prefix.rows(torch.tensor([begun.index(context) for context in contexts], dtype=torch.long))


def bm25_scores(texts: Sequence[str], phrase: str) -> list[float]:
    """BM25 of each of `texts` for the words of `phrase`. Raises ConfigError without the package bm25s."""
    with optional_imports():
        import bm25s

    known = bm25s.tokenize(list(texts), stopwords=[], show_progress=False)
    words = bm25s.tokenize([phrase], stopwords=[], show_progress=False, return_ids=False)[0]
    if not words or not known.vocab:
        return [0.0] * len(texts)
    index = bm25s.BM25()
    index.index(known, show_progress=False)
    return index.get_scores(words).tolist()
