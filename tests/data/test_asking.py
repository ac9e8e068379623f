"""What is asked after each document of an episode."""

import random
from collections import Counter

import pytest
from drawn_from import SEEN, formatted
from made_up_facts import settings

from gnm.data.asking import asked, format_in_force
from gnm.data.sequences import (
    draw_sequence,
)
from gnm.data.types import PARAPHRASE
from gnm.errors import DataError


def test_evaluation_asks_every_query_of_the_documents_so_far():
    sequence = draw_sequence(SEEN, settings(split="test"), 0, 0)
    for t in range(3):
        expected = [(q, query) for q in range(t + 1) for query in sequence.steps[q].queries]
        assert asked(sequence, t, settings(split="test")) == expected


def test_the_appended_document_asks_in_place_of_the_first():
    sequence = draw_sequence(SEEN, settings(unlearning=True, split="test"), 0, 0)
    assert {q for q, _ in asked(sequence, 2, settings(split="test"))} == {0, 1, 2}
    assert {q for q, _ in asked(sequence, 3, settings(split="test"))} == {1, 2, 3}
    assert {q for q, _ in asked(sequence, 3, settings(), random.Random(0))} == {1, 2, 3}


def test_training_asks_earlier_ones_again_and_later_ones_ahead():
    sequence = draw_sequence(SEEN, settings(unlearning=True), 0, 0)
    questions = asked(
        sequence, 0, settings(sampling={"num_in_future_to_pull_back_future_paraphrase": 1}), random.Random(0)
    )
    own = [query for q, query in questions if q == 0]
    ahead = [query for q, query in questions if q == 1]
    assert len(own) + len(ahead) == len(questions)
    assert Counter(own) == Counter(sequence.steps[0].queries)
    learned = [query for query in sequence.steps[1].queries if query.learn and query.type == PARAPHRASE]
    assert Counter(query.input for query in ahead) == Counter(query.input for query in learned) and ahead
    for query in ahead:
        assert query.type == "future_paraphrase" and not query.should_refuse
        assert (query.target_output, query.non_target_output) == (query.true_output, query.false_output)
    later = asked(sequence, 2, settings(), random.Random(0))
    assert {q for q, _ in later} == {0, 1, 2} and all(query.type != "future_paraphrase" for _, query in later)


def test_a_refused_fact_asked_ahead_is_not_refused_yet():
    given = settings(target_types=["refusal_subcategories"])
    questions = asked(draw_sequence(SEEN, given, 0, 0), 0, given, random.Random(0))
    refused = [query for q, query in questions if q > 0 and query.refuse]
    assert refused
    for query in refused:
        assert query.target_output == query.true_output and not query.should_refuse


def test_nothing_is_asked_ahead_at_reach_zero():
    sequence = draw_sequence(SEEN, settings(), 0, 0)
    none = settings(sampling={"num_in_future_to_pull_back_future_paraphrase": 0})
    assert {q for q, _ in asked(sequence, 0, none, random.Random(0))} == {0}


def test_retention_reaches_back_as_far_as_the_counts_say():
    given = settings(target_types=["fact_subcategories"], sequence_length=4)
    drawn = (draw_sequence(SEEN, given, 0, index) for index in range(99))
    sequence = next(sequence for sequence in drawn if all(step.target != "all" for step in sequence.steps))
    limits = {"num_in_past_to_pull_forward_true_output_neighbor": 1,
              "num_in_past_to_pull_forward_paraphrase_not_target_to_learn": 0}  # fmt: skip
    questions = asked(sequence, 3, settings(sequence_length=4, sampling=limits), random.Random(0))
    reached = {}
    for q, query in questions:
        reached.setdefault((query.type, query.learn), set()).add(q)
    assert reached["paraphrase", True] == {0, 1, 2, 3}
    assert min(reached["true_output_neighbor", True]) == 2
    assert reached["paraphrase", False] == {3}
    everything = asked(sequence, 3, settings(sequence_length=4), random.Random(0))
    assert len(everything) == sum(len(step.queries) for step in sequence.steps)


def test_the_order_of_training_queries_is_drawn_from_the_generator():
    sequence = draw_sequence(SEEN, settings(), 0, 0)
    first, again, other = (asked(sequence, 2, settings(), random.Random(seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert Counter(first) == Counter(other)


def test_the_format_holds_from_its_document_on_for_every_query():
    for index in range(30):
        sequence = draw_sequence(SEEN, formatted(unlearning=True), 0, index)
        setter = next(place for place, step in enumerate(sequence.steps) if step.target == "format")
        for t, _ in enumerate(sequence.steps):
            expected = None if t < setter else sequence.steps[setter].format
            assert format_in_force(sequence, t) == expected
            assert {query.format for _, query in asked(sequence, t, formatted(), random.Random(0))} == {expected}


@pytest.mark.parametrize("t", [-1, 3])
def test_asking_about_a_document_that_is_not_there_is_an_error(t):
    with pytest.raises(DataError, match="sequence has 3"):
        asked(draw_sequence(SEEN, settings(), 0, 0), t, settings())
