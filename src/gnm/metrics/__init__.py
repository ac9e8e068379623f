"""What is measured: per-query records -> samples -> the benchmark's summary, and metrics with intervals."""

from gnm.metrics.bootstrap import bootstrap_mean
from gnm.metrics.intervals import METRIC_COLUMNS, harmonic_mean, metrics_of_records, metrics_of_summary
from gnm.metrics.samples import FACTS, GROUPS
from gnm.metrics.summary import Summary, join_epochs, summarise, write_summary

__all__ = [
    "FACTS",
    "GROUPS",
    "METRIC_COLUMNS",
    "Summary",
    "bootstrap_mean",
    "metrics_of_records",
    "harmonic_mean",
    "join_epochs",
    "metrics_of_summary",
    "summarise",
    "write_summary",
]
