"""The average of the weights that training validates and saves."""

import torch
from torch import nn

from gnm.training.moving_average import MovingAverage


def _parts(value: float) -> dict[str, dict[str, nn.Parameter]]:
    return {
        "default": {"a": nn.Parameter(torch.full((2,), value))},
        "memory_module": {"b": nn.Parameter(torch.ones(1))},
    }


def test_a_step_back_weighs_the_less_the_longer_it_is_gone():
    parts = _parts(8.0)
    average = MovingAverage(parts, 0.75)
    for value in (4.0, 0.0):
        parts["default"]["a"].data.fill_(value)
        average.update()
    # 0.75^2 of the start, 0.75 * 0.25 of the first step, 0.25 of the second
    torch.testing.assert_close(average.weights["default"]["a"], torch.full((2,), 0.5625 * 8 + 0.1875 * 4))
    assert average.weights["memory_module"]["b"].item() == 1


def test_without_a_decay_it_is_the_weights_themselves():
    parts = _parts(0.3)
    average = MovingAverage(parts, 0.0)
    parts["default"]["a"].data.fill_(0.7)
    average.update()
    assert torch.equal(average.weights["default"]["a"], parts["default"]["a"].detach())


def test_it_takes_the_weights_place_for_a_while_even_if_that_fails():
    parts = _parts(8.0)
    average = MovingAverage(parts, 0.5)
    parts["default"]["a"].data.fill_(0.0)
    average.update()
    try:
        with average.in_place() as averaged:
            assert torch.equal(parts["default"]["a"].detach(), torch.full((2,), 4.0))
            assert torch.equal(averaged["default"]["a"], torch.full((2,), 4.0))
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(parts["default"]["a"].detach(), torch.zeros(2))
    assert torch.equal(averaged["default"]["a"], torch.full((2,), 4.0)), "a copy, which later steps leave as it is"
