"""Wilson's interval of a share (Wilson 1927): what a summary with counts allows where there are no records."""

import math

_NORMAL = 1.959964  # of 95 %


def wilson(share: float, samples: float, normal: float = _NORMAL) -> tuple[float, float]:
    """Wilson's interval, by default of 95 %, of a share of `samples` independent ones; NaN for none."""
    if not samples:
        return math.nan, math.nan
    centre = share + normal**2 / (2 * samples)
    half = normal * math.sqrt(share * (1 - share) / samples + (normal / (2 * samples)) ** 2)
    scale = 1 + normal**2 / samples
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)
