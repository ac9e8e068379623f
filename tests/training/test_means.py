"""Means of a step, from its sums."""

import torch

from gnm.training.loss import SUMS, means_of


def test_each_sum_is_divided_by_what_was_counted_of_it():
    sums = {"loss": 6.0, "tokens": 4.0, "writes": 10.0, "documents": 4.0}
    sums |= {"accuracy": 3.0, "accuracy asked": 4.0, "specificity": 0.0, "specificity asked": 5.0}
    found = means_of(torch.tensor([sums.get(name, 0.0) for name in SUMS]))
    assert found == {"loss": 1.5, "write_loss": 2.5, "accuracy": 0.75, "specificity": 0.0}  # selectivity: not asked
    nothing_asked = means_of(torch.tensor([{"writes": 3.0, "documents": 2.0}.get(name, 0.0) for name in SUMS]))
    assert nothing_asked == {"write_loss": 1.5}
