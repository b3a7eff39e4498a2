"""Statistics of scores: intervals, paired comparisons, corrections for many of them, and what data can show.

Arrays in, frozen dataclasses out. NumPy and SciPy are imported when a function is called.
"""

from evalscope_evalflow.results.statistics.effective_size import FEW_GROUPS, TOO_FEW_GROUPS, effective_groups
from evalscope_evalflow.results.statistics.holm import holm
from evalscope_evalflow.results.statistics.intervals import Interval, IntervalMethod, interval
from evalscope_evalflow.results.statistics.paired import Paired, PairedMethod, paired
from evalscope_evalflow.results.statistics.pass_at_k import pass_at_k
from evalscope_evalflow.results.statistics.power import power, smallest_difference

__all__ = [
    "FEW_GROUPS",
    "TOO_FEW_GROUPS",
    "Interval",
    "IntervalMethod",
    "Paired",
    "PairedMethod",
    "effective_groups",
    "holm",
    "interval",
    "paired",
    "pass_at_k",
    "power",
    "smallest_difference",
]
