"""A judge of one's own (`judge` in the section): how it is served, and EvalScope's settings that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evalscope_evalflow.config.section import AUTO, REMOTE, DeployConfig, FlowConfig
from evalscope_evalflow.errors import ConfigError, Problem

_WHERE = "evalflow.judge"


def judge_deploy(flow: FlowConfig) -> DeployConfig:
    """How the section's judge is served: the common `deploy`, with what the judge sets for itself on top.

    The engine of models that are APIs (`remote`) is not the judge's: that is then chosen by its path.
    """
    assert flow.judge is not None
    deploy = flow.deploy_for(flow.judge)
    if deploy.engine == REMOTE and "engine" not in flow.judge.deploy:
        deploy = deploy.model_copy(update={"engine": AUTO})
    return deploy


def with_stock_judge(data: Mapping[str, Any], flow: FlowConfig) -> dict[str, Any]:
    """A task's fields with EvalScope's settings of the section's judge; its URL and key are known when it runs.

    Args:
        data: the stock fields.
        flow: the section.

    Raises:
        ConfigError: there is another judge, or the section's is none that can be deployed.
    """
    judge = flow.judge
    if judge is None:
        return dict(data)
    problems = []
    stock = data.get("judge") or {}
    if stock.get("models"):
        what = "the section has a judge of its own, and the task's `judge` names models, too"
        problems.append(Problem("judge.models", what, f"Keep `judge.models` or `{_WHERE}`."))
    if judge.api_url or judge.api_key or flow.deploy_for(judge).engine == REMOTE != flow.deploy.engine:
        what = "a judge of one's own is deployed here, and this one is an API"
        todo = "Name it beside the section: judge: {models: [{model_id: …, api_url: …, api_key: …}]}."
        problems.append(Problem(_WHERE, what, todo))
    elif not judge.path:
        problems.append(Problem(f"{_WHERE}.path", "none is given", "Name the judge's checkpoint folder or .gguf file."))
    if problems:
        raise ConfigError(*problems)
    model = {"model_id": judge.name}
    if judge.generation_config:
        model["generation_config"] = judge.generation_config  # type: ignore[assignment]
    return {**data, "judge": {**stock, "models": [model]}}


def as_written(stock: Mapping[str, Any], flow: FlowConfig) -> dict[str, Any]:
    """Stock fields without what follows from the section's judge."""
    if flow.judge is None:
        return dict(stock)
    judge = {name: value for name, value in (stock.get("judge") or {}).items() if name != "models"}
    rest = {name: value for name, value in stock.items() if name != "judge"}
    return {**rest, "judge": judge} if judge else rest
