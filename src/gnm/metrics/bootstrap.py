"""The bootstrap over sequences."""

import math

import numpy as np

from gnm.errors import DataError
from gnm.metrics.samples import Samples


def bootstrap_mean(
    value: np.ndarray,
    sequence: np.ndarray,
    generator: np.random.Generator | None = None,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Mean of samples [N], and the ends of its interval from a bootstrap over their sequences [N] (any whole numbers).

    Defaults, and what fewer than two sequences give, as in `metrics_of_records`. Raises DataError without samples.
    """
    if not len(value):
        raise DataError("there are no samples to take a mean of")
    generator = np.random.default_rng(0) if generator is None else generator
    sequences, nowhere = np.unique(sequence), np.zeros(len(value), dtype=np.int64)
    samples = Samples(np.asarray(value, dtype=float), np.asarray(sequence), nowhere, nowhere)
    values = resampled(samples, sequences, sequence_weights(len(sequences), generator, resamples))
    return float(values[0]), *interval(values, len(sequences), level)


def sequence_weights(total: int, generator: np.random.Generator, resamples: int) -> np.ndarray:
    """Rows of weights of `total` sequences: all of them once, then one row a resample; [1 + resamples, total]."""
    draws = generator.multinomial(total, np.full(total, 1 / total), size=resamples)
    return np.vstack([np.ones((1, total)), draws])


def interval(values: np.ndarray, seen: int, level: float) -> tuple[float, float]:
    """Percentile interval of what the resamples gave (all of `values` but the first); NaN for fewer than two seen."""
    known, tail = values[1:][~np.isnan(values[1:])], 100 * (1 - level) / 2
    if seen < 2 or not len(known):
        return math.nan, math.nan
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)


def resampled(
    samples: Samples, sequences: np.ndarray, weights: np.ndarray, cell: np.ndarray | None = None
) -> np.ndarray:
    """Mean over cells of each cell's mean, under every row of sequence weights; [R, S] weights give [R].

    Cells that a resample leaves empty are passed over; a resample without any sample gives NaN.
    """
    row = np.searchsorted(sequences, samples.sequence)
    names, column = np.unique(np.zeros_like(row) if cell is None else cell, return_inverse=True)
    sums, counts = (np.zeros((len(sequences), len(names))) for _ in range(2))
    np.add.at(sums, (row, column), samples.value)
    np.add.at(counts, (row, column), 1)
    weighted_sums, weighted_counts = weights @ sums, weights @ counts
    filled = weighted_counts > 0
    means = np.where(filled, weighted_sums / np.where(filled, weighted_counts, 1), 0)
    with np.errstate(invalid="ignore"):
        return means.sum(axis=1) / filled.sum(axis=1)
