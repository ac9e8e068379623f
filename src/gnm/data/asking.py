"""What is asked after each document of a sequence, and the format that answers shall have.

After the appended document of an unlearning sequence the first one's own queries are no longer asked: the appended one
asks the same questions, with the answers that hold now.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

from gnm.data.sampling import Sampling
from gnm.data.sequences import SequenceSettings
from gnm.data.targets import FORMATTING_TYPES
from gnm.data.types import FUTURE, NEIGHBOUR, PARAPHRASE, Episode, Query
from gnm.errors import DataError


def asked(
    sequence: Episode, t: int, settings: SequenceSettings, rng: random.Random | None = None
) -> list[tuple[int, Query]]:
    """What is asked after document `t` was written, as (index of the document that it is about, query).

    Evaluation (no `rng`): every query of documents 0..t, in order. Training (`rng`): those, as far back as
    `sampling.num_in_past_*` say, and paraphrases of the next documents' targeted facts, whose answer is
    still the true object; in random order, so that a caller with a limit may cut. Queries carry the format
    in force.
    """
    if not 0 <= t < len(sequence.steps):
        raise DataError(f"document {t} was asked about, the sequence has {len(sequence.steps)}")
    turned = sequence.unlearning and t == len(sequence.steps) - 1
    past = [(q, query) for q in range(1 if turned else 0, t + 1) for query in sequence.steps[q].queries]
    if rng:
        sampling = settings.sampling
        past = [(q, query) for q, query in past if _reaches(query, t - q, sampling)]
        past += _future(sequence, t, sampling.num_in_future_to_pull_back_future_paraphrase)
        rng.shuffle(past)
    wrapping = format_in_force(sequence, t)
    return [(q, replace(query, format=wrapping)) for q, query in past]


def format_age(sequence: Episode, t: int) -> int | None:
    """Documents written since the one that set the format of the answers after document `t`; None if none did."""
    ages = (age for age, step in enumerate(reversed(sequence.steps[: t + 1])) if step.target_type in FORMATTING_TYPES)
    return next(ages, None)


def format_in_force(sequence: Episode, t: int) -> str | None:
    """The format of answers after document `t`: that of the last document with a target for its format."""
    for step in reversed(sequence.steps[: t + 1]):
        if step.target_type in FORMATTING_TYPES:
            return step.format
    return None


def _reaches(query: Query, age: int, sampling: Sampling) -> bool:
    """Whether a query of the document written `age` documents ago is asked again in training."""
    if query.type == NEIGHBOUR:
        limit = sampling.num_in_past_to_pull_forward_true_output_neighbor
    elif query.type == PARAPHRASE and not (query.learn or query.refuse):
        limit = sampling.num_in_past_to_pull_forward_paraphrase_not_target_to_learn
    else:
        limit = None
    return limit is None or age <= limit


def _future(sequence: Episode, t: int, reach: int) -> Iterator[tuple[int, Query]]:
    """Paraphrases of targeted facts of the next `reach` documents (the appended one has no new facts)."""
    last = len(sequence.steps) - sequence.unlearning
    for q in range(t + 1, min(t + 1 + reach, last)):
        for query in sequence.steps[q].queries:
            if query.type == PARAPHRASE and (query.learn or query.refuse):
                yield (
                    q,
                    replace(
                        query,
                        type=FUTURE,
                        target_output=query.true_output,
                        non_target_output=query.false_output,
                        should_refuse=False,
                    ),
                )
