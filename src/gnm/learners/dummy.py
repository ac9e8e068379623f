"""A learner without a model: believes every document it was given. For tests of what stands around learners."""

from collections.abc import Sequence

import torch
from torch import nn

from gnm.inference.questions import AnswerLoss
from gnm.learners.base import Answer, Cost, Learner, Question


class DummyLearner(Learner):
    """Answers with whichever of target and other object occurs in its documents; the target if none or both do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def reset(self, seeds: Sequence[int]) -> tuple[tuple[str, ...], ...]:
        return tuple(() for _ in seeds)

    def write(self, state, documents, instructions):
        return tuple((*old, new) for old, new in zip(state, documents, strict=True))

    def answer(self, state, questions, max_new_tokens):
        return [
            [self._answer(" ".join(texts), question) for question in asked]
            for texts, asked in zip(state, questions, strict=True)
        ]

    def loss(self, state, questions) -> AnswerLoss:
        right = [
            [answer.text == q.target for answer, q in zip(answers, row, strict=True)]
            for answers, row in zip(self.answer(state, questions, 1), questions, strict=True)
        ]
        tokens = sum(map(len, questions))
        return AnswerLoss((self.weight**2) * tokens, tokens, right)

    def detach(self, state):
        return state

    def cost(self, state, row: int, asked: Question) -> Cost:
        kept = sum(len(text) for text in state[row])
        return Cost(kept, kept, 0.0)

    @staticmethod
    def _answer(text: str, question: Question) -> Answer:
        believes_other = question.other in text and question.target not in text
        said = question.other if believes_other else question.target
        return Answer(said, float(not believes_other), float(believes_other), float(believes_other), 1)
