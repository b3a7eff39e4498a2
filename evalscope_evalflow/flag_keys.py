"""The names of flags as keys of the section: `eval_max_model_length: 8192` in a YAML file means what the flag does.

What is not said has the section's defaults, not those of the command.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from evalscope_evalflow import globs
from evalscope_evalflow.config import FlowConfig
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.flags import FLAGS, add_judge, add_models, has_patterns, put

SECTION = "evalflow"
_FLAGS = {flag.name: flag for flag in FLAGS if flag.kind != "flag" and flag.name not in FlowConfig.model_fields}
_MODELS = ("eval_model_name", "eval_model_path", "remote_api_url", "eval_api_key", "deploy_backend")


def expand(section: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Put what stands under the names of flags where it belongs, and a model for each match of a pattern.

    Args:
        section: as it was written, with dashes or underscores.

    Returns:
        The section without such keys, and stock fields of a task, such as `datasets`.

    Raises:
        ConfigError: something is said twice, or incompletely; a pattern matches nothing, or no checkpoints.
    """
    plain = {str(key).replace("-", "_"): value for key, value in section.items()}
    if isinstance(plain.get("models"), (list, tuple)):
        models = [{"path": item} if isinstance(item, str) else item for item in plain["models"]]
        plain["models"] = globs.expand(models, f"{SECTION}.models")
    given = {name: _value(name, plain.pop(name)) for name in list(plain) if name in _FLAGS}
    if not given:
        return plain, {}
    deploy = plain.get("deploy")
    engine = deploy.get("engine") if isinstance(deploy, Mapping) else None
    problems = list(_said_twice(plain, given))
    task: dict[str, Any] = {SECTION: {}}
    for name, value in given.items():
        if _FLAGS[name].target:
            put(task, _FLAGS[name].target, value)
    found: list[Problem] = []
    if "eval_model_name" in given or has_patterns(given):
        found += add_models(task, {"deploy_backend": engine, **given} if engine else given)
    else:
        found += [
            Problem(f"--{name}", "needs --eval_model_name beside it")
            for name in ("eval_model_path", "remote_api_url")
            if name in given
        ]
        for name, key in (("deploy_backend", "engine"), ("eval_api_key", "api_key")):
            if name in given:
                put(task, f"{SECTION}.deploy.{key}", given[name])
    found += add_judge(task, given)
    problems += [
        Problem(f"{SECTION}.{item.where.strip('-')}", item.what, item.todo.replace("--", "")) for item in found
    ]
    if problems:
        raise ConfigError(*problems)
    ours = task.pop(SECTION)
    if "deploy" in ours:
        ours["deploy"] = {**ours["deploy"], **(deploy if isinstance(deploy, Mapping) else {})}
    return {**plain, **ours}, task


def merged(data: Mapping[str, Any], stock: Mapping[str, Any]) -> dict[str, Any]:
    """A task with stock fields that its section had.

    Raises:
        ConfigError: a field is in both.
    """
    result, problems = dict(data), []
    for name, value in stock.items():
        before = result.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and not set(before) & set(value):
            result[name] = {**before, **value}
        elif before in (None, value):
            result[name] = value
        else:
            problems.append(Problem(f"{SECTION}.{name}", "is said in the section and outside of it", "Say it once."))
    if problems:
        raise ConfigError(*problems)
    return result


def _value(name: str, value: Any) -> Any:
    """As the flag would have it."""
    flag = _FLAGS[name]
    if flag.several and isinstance(value, str):
        return [value]
    return shlex.split(value) if flag.kind is shlex.split and isinstance(value, str) else value


def _said_twice(section: Mapping[str, Any], given: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for name in given:
        target = _FLAGS[name].target.removeprefix(f"{SECTION}.")
        if name in _MODELS:
            target = {"deploy_backend": "deploy.engine", "eval_api_key": "deploy.api_key"}.get(name, "models")
        node: Any = section
        for step in target.split("."):
            node = node.get(step.replace("_", "-"), node.get(step)) if isinstance(node, Mapping) else None
        if node not in (None, []):
            problems.append(Problem(f"{SECTION}.{name}", f"`{target}` says the same", "Keep one of them."))
    return problems
