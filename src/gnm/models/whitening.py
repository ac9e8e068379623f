"""What all texts have in common, taken out of search keys: whitening (Su et al. 2021, arXiv:2103.15316).

Hidden states share a few large directions, so that the means of any two texts are alike. How much oftener a paraphrase
finds its line with whitened keys, `gnm.probing.recall` measures.

Shape letters: N tokens, E hidden size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_SHRINKAGE = 0.1  # of the mean variance, added to that of every direction


@dataclass(frozen=True)
class Whitening:
    """Subtracts `mean` [E] and multiplies by the symmetric `matrix` [E, E], float32."""

    mean: Tensor
    matrix: Tensor

    @classmethod
    def fit(cls, hidden: Tensor) -> "Whitening":
        """The whitening of hidden states [N, E], on their device; the same on every machine up to rounding."""
        own = hidden.detach().cpu().double()
        mean = own.mean(0)
        variance, directions = torch.linalg.eigh((own - mean).T @ (own - mean) / len(own))
        scale = (variance + _SHRINKAGE * variance.mean()).rsqrt()
        matrix = (directions * scale) @ directions.T
        return cls(mean.float().to(hidden.device), matrix.float().to(hidden.device))

    def __call__(self, hidden: Tensor) -> Tensor:
        """Search keys of hidden states or means of them [..., E]: whitened, of length 1, float32."""
        return nn.functional.normalize((hidden.float() - self.mean) @ self.matrix, dim=-1)
