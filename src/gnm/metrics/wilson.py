"""Wilson's interval of a share (Wilson 1927): what a summary with counts allows where there are no records."""

import math

from gnm.errors import DataError

_NORMAL = 1.959964  # of 95 %
_ROUNDING = 1e-9


def wilson(share: float, samples: float, normal: float = _NORMAL) -> tuple[float, float]:
    """Wilson's interval, by default of 95 %, of a share of `samples` independent ones; NaN for none.

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
