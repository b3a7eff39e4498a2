"""A whole task: its models as jobs, on disjoint devices, several at once where there are enough."""

from evalscope_evalflow.sweep.runner import run

__all__ = ["run"]
