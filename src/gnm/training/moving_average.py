"""The moving average of trained weights, which late in a training is better than the weights of any one step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gnm.weights.trained import Parameters, Weights, copied, put_weights


class MovingAverage:
    """An average of `parameters` over the steps so far, in which a step back weighs `decay` times as much.

    It begins with the weights that training starts from. decay: 0 to 1; 0 makes it the weights themselves.
    """

    def __init__(self, parameters: Parameters, decay: float):
        self.parameters, self.decay = parameters, decay
        self.weights = copied(parameters)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now, after one more step."""
        for part, named in self.parameters.items():
            for name, parameter in named.items():
                own = self.weights[part][name]
                own.lerp_(parameter.detach().to(own.device, own.dtype), 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[Weights]:
        """Within the block the parameters are the average; after it they are what they were."""
        now = copied(self.parameters)
        put_weights(self.weights, self.parameters)
        try:
            yield copied(self.parameters)
        finally:
            put_weights(now, self.parameters)
