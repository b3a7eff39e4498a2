"""EvalScope's `eval_type`, which says by which interface a model is asked: EvalFlow knows one of them."""

from __future__ import annotations

from typing import Any

from evalscope_evalflow.errors import Problem

ASKED_BY = ("openai_api", "server")  # chat completions; the second is its old name
_LOADED = ("llm_ckpt", "checkpoint", "custom")


def eval_type_problem(value: Any, where: str = "eval_type") -> Problem | None:
    """Why a model cannot be asked so; None: it can, or nothing is said.

    Args:
        value: what the task says.
        where: the place in the task.
    """
    if value is None or str(value) in ASKED_BY:
        return None
    if str(value) in _LOADED:
        what = f"is {value!r}: EvalScope would load the model itself, but EvalFlow serves it with an engine"
        return Problem(where, what, "Leave it out; `deploy.engine` says which engine.")
    return Problem(
        where,
        f"is {value!r}, but EvalFlow asks every model for chat completions (openai_api)",
        "Leave it out if the API has /chat/completions, too; else run the task with stock EvalScope.",
    )
