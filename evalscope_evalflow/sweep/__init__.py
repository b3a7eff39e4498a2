"""Many models: a task's models as jobs, their order, and the executors that run them."""

from evalscope_evalflow.sweep.runner import run

__all__ = ["run"]
