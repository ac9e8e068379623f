"""Wilson's interval of a share (Wilson 1927).

It needs only the share and the number of samples. So it serves evaluations of which a summary with counts is left, but
no records of single answers, which the bootstrap needs (`bootstrap.py`).
"""

import math

from gnm.errors import DataError

_NORMAL = 1.959964  # of 95 %
_ROUNDING = 1e-9


def wilson(share: float, samples: float, normal: float = _NORMAL) -> tuple[float, float]:
    """Wilson's interval (low, high) of a `share` in [0, 1] of independent `samples`; NaN for both without samples.

    normal: quantile of the standard normal distribution, by default that of a 95 % interval.
    Raises DataError for what is no share.
    """
    if not samples:
        return math.nan, math.nan
    if share < -_ROUNDING or share > 1 + _ROUNDING:
        raise DataError(f"a share of {share:g} is not from 0 to 1; evaluate again to replace it")
    centre = share + normal**2 / (2 * samples)
    half = normal * math.sqrt(share * (1 - share) / samples + (normal / (2 * samples)) ** 2)
    scale = 1 + normal**2 / samples
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)
