"""What learners are asked and what they answer."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from gnm.data.types import Query


@dataclass(frozen=True)
class Question:
    """A phrase to continue, the expected object, the other object of the fact, and what is to be said word for word.

    said: None where that is the expected object alone; in a format it stands between other words.
    """

    phrase: str
    target: str
    other: str
    said: str | None = None

    @classmethod
    def of(cls, query: Query) -> "Question":
        """What a learner is asked for a query of a sequence."""
        said = query.formatted_target if query.format else None
        return cls(query.input, query.target_output, query.non_target_output, said)


@dataclass(frozen=True)
class Answer:
    """What a learner says: its greedy answer; scores of target and other where they first differ; the loss.

    The scores are those at the first token of the answer's content, which is its first token of all unless it begins
    with the opening of a format; where both objects begin alike, at their first differing token, the common ones given.
    nll: sum of -log p (nats) over the `tokens` tokens of what is to be said and its end
    of turn.
    """

    text: str
    target_score: float
    other_score: float
    nll: float
    tokens: int


class AnswerLoss(NamedTuple):
    """The loss of a batch of questions.

    total: sum of the cross-entropy (nats) over all answers' tokens, with gradient; tokens: how many these are.
    right: for every question of every row, whether the target's first token scores above the other object's, at the
    place in what is to be said where its content begins.
    """

    total: Tensor
    tokens: int
    right: list[list[bool]]
