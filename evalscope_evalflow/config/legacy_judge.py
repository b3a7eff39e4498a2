"""EvalScope's old form of the judge, `judge_strategy` and `judge_model_args`, as `judge`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evalscope_evalflow.errors import ConfigError, Problem

OLD = ("judge_strategy", "judge_model_args")
# Of judge_model_args: what EvalScope's TaskConfig moves into the contract.
_CONTRACT = ("system_prompt", "prompt_template", "score_mapping", "score_type")
NOTE = "judge_strategy and judge_model_args are EvalScope's old form of `judge`, and are read as that"


def translate_judge(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A task's fields with `judge` in place of the old form, as EvalScope's TaskConfig translates it.

    Args:
        data: fields of a task file.

    Returns:
        The fields, and what the user should know of it.

    Raises:
        ConfigError: both forms are given, or the old one is no mapping or has what `judge` has no place for.
    """
    found = {name: value for name, value in data.items() if name not in OLD}
    given = {name: data[name] for name in OLD if data.get(name)}
    if not given:
        return found, []
    if data.get("judge"):
        raise ConfigError(Problem(", ".join(given), "has no place beside `judge`", "Keep `judge`."))
    arguments = given.get("judge_model_args") or {}
    if not isinstance(arguments, Mapping):
        raise ConfigError(Problem("judge_model_args", "is no mapping", "Use judge: {models: [{model_id: …}]}."))
    if "score_pattern" in arguments:
        what = "EvalScope's judges reply with JSON, which has no pattern"
        raise ConfigError(Problem("judge_model_args.score_pattern", what, "Use judge.contract.score_mapping."))
    model = {name: value for name, value in arguments.items() if name not in _CONTRACT}
    judge = {
        "strategy": given.get("judge_strategy", "auto"),
        "models": [model] if model else [],
        "contract": {name: arguments[name] for name in _CONTRACT if name in arguments},
    }
    return {**found, "judge": {name: value for name, value in judge.items() if value}}, [NOTE]
