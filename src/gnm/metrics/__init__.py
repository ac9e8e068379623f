"""What is measured: per-query records -> samples -> the benchmark's summary, and figures of merit with intervals."""

from gnm.metrics.bootstrap import bootstrap_mean
from gnm.metrics.merit import MERIT_COLUMNS, figures_of_merit, harmonic_mean, merit_of_summary
from gnm.metrics.samples import FACTS, GROUPS
from gnm.metrics.summary import Summary, join_epochs, summarise, write_summary

__all__ = [
    "FACTS",
    "GROUPS",
    "MERIT_COLUMNS",
    "Summary",
    "bootstrap_mean",
    "figures_of_merit",
    "harmonic_mean",
    "join_epochs",
    "merit_of_summary",
    "summarise",
    "write_summary",
]
