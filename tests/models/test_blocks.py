"""Which blocks a question reads, on numbers small enough to count by hand."""

import pytest
import torch

from gnm.models.blocks import NO_BLOCK, likeness, relevance, representatives, scores_of_entries
from gnm.models.key_values import best


@pytest.mark.parametrize("window", [None, 3])
def test_representatives_are_what_later_tokens_attend_to_most(window):
    """Against a loop over tokens, with two heads that share keys, two rows of other lengths, blocks of other sizes."""
    queries, keys = torch.randn(2, 4, 9, 3), torch.randn(2, 2, 9, 3)
    block = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2], [4, 4, 5, 5, 5, 5, NO_BLOCK, NO_BLOCK, NO_BLOCK]])
    marks = representatives(queries, keys, block, 2, window)
    for row, length in enumerate((9, 6)):
        for head in range(2):
            query = queries[row, 2 * head : 2 * head + 2].mean(0)
            received = [
                float((query[t + 1 : min(length, t + (window or 9))] @ keys[row, head, t]).mean())
                if t < length - 1
                else -1e30
                for t in range(length)
            ]
            expected = set()
            for number in block[row, :length].unique().tolist():
                own = [t for t in range(length) if block[row, t] == number]
                expected |= set(sorted(own, key=lambda t: -received[t])[:2])
            assert set(marks[row, head].nonzero()[:, 0].tolist()) == expected


def test_a_block_is_as_relevant_as_its_representatives_are_alike():
    keys = torch.tensor([[[[1.0, 0.0], [9.0, 9.0], [0.0, 2.0], [0.0, 4.0], [5.0, 5.0]]]])
    represents = torch.tensor([[[True, False, True, True, False]]])
    block = torch.tensor([[0, 0, 1, 1, NO_BLOCK]])
    question = torch.tensor([[[1.0, 0.0], [3.0, 2.0]]])  # two heads: their mean is (2, 1)
    assert relevance(question, keys, represents, block).tolist() == [[2.0, 3.0]]


def test_a_block_is_as_relevant_as_its_mean_input_is_alike():
    inputs = torch.tensor([[[9.0, 9.0], [2.0, 0.0], [4.0, 0.0], [0.0, 1.0]]])
    block = torch.tensor([[NO_BLOCK, 0, 0, 1]])  # means (3, 0) and (0, 1), their centre (1.5, 0.5)
    found = likeness(torch.tensor([[4.5, -0.5]]), inputs, block)
    torch.testing.assert_close(found, torch.tensor([[1.0, -1.0]]))


BLOCK = torch.tensor([[NO_BLOCK, 0, 0, 1, 1, 2, 2, 3, 3, NO_BLOCK]])
RELEVANCE = torch.tensor([[0.1, 0.9, 0.2, 0.8]])


@pytest.mark.parametrize(
    ("count", "neighbours", "read"),
    [
        (2, 0.0, [3, 4]),
        (3, 0.0, [3, 4, 7]),  # the second best block, in part
        (4, 0.0, [3, 4, 7, 8]),
        (4, 0.5, [1, 2, 3, 4]),  # block 1, then what stands before and after it, equally near: the first of these
        (6, 0.6, [1, 2, 3, 4, 7, 8]),  # half of them for those found: blocks 1 and 3, which are then read whole
        (8, 0.5, [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_the_most_relevant_blocks_are_read_and_those_beside_them(count, neighbours, read):
    scores = scores_of_entries(RELEVANCE, BLOCK, torch.tensor([count]), neighbours)
    assert best(scores, torch.tensor([count]))[0].tolist() == [read]


def test_with_no_neighbours_left_the_next_most_relevant_are_read():
    block = torch.tensor([[0, 2, 4, 6]])
    alike = torch.tensor([[0.1, 0.0, 0.9, 0.0, 0.5, 0.0, 0.7]])
    scores = scores_of_entries(alike, block, torch.tensor([2]), 0.5)
    assert best(scores, torch.tensor([2]))[0].tolist() == [[1, 3]]
