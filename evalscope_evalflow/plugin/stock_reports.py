"""Between EvalScope's objects and ours. Imported only when EvalFlow runs a task; EvalScope is there by then."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from evalscope.config import TaskConfig
from evalscope.report import Report
from pydantic import SecretStr

from evalscope_evalflow.backends import DatasetResult
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.notebook.result_table import ResultTable
from evalscope_evalflow.plugin.scored_report import ScoredReport
from evalscope_evalflow.results.outcome import FlowResult, ModelResult
from evalscope_evalflow.results.score_rows import ScoreRow, score_rows

_STOCK_BATCH_SIZES = (1, 8)  # what EvalScope puts where the user said nothing


def to_stock(outcome: FlowResult) -> dict[str, Any]:
    """What stock `run_task` returns: `{dataset: Report}`, or that for each model if several can be.

    They are dicts that show themselves as a table in a notebook, and have `to_frame()`.
    Every dataset has a report, whose `score` is the table's; one without a score may have no metrics.
    """
    rows = list(score_rows(outcome))
    if not outcome.task.multi_model:
        return _reports(outcome.models[0], rows)
    of_models = {result.model.name: _reports(result, rows) for result in outcome.models if result.error is None}
    return ResultTable(of_models, rows)


def _reports(result: ModelResult, rows: Sequence[ScoreRow]) -> dict[str, Report]:
    reports = {item.dataset: _report(result.model.name, item) for item in result.datasets}
    return ResultTable(reports, [row for row in rows if row.model == result.model.name])


def _report(model: str, result: DatasetResult) -> Report:
    if result.report is not None:
        found = Report.from_json(str(result.report))
    else:
        name = f"{model}@{result.dataset}"
        found = Report(name=name, dataset_name=result.dataset, dataset_pretty_name=result.dataset, model_name=model)
    return ScoredReport.of(found, result.score)


def _unmasked(plain: Any, value: Any) -> Any:
    """What EvalScope writes of a field, with the keys themselves, still as SecretStr, in place of their masks."""
    if isinstance(value, SecretStr):
        return value
    if isinstance(plain, Mapping) and isinstance(value, Mapping):
        return {name: _unmasked(item, value.get(name)) for name, item in plain.items()}
    if isinstance(plain, list) and isinstance(value, (list, tuple)) and len(plain) == len(value):
        return [_unmasked(item, other) for item, other in zip(plain, value, strict=True)]
    return plain


def stock_values(task_config: TaskConfig, given: set[str]) -> dict[str, Any]:
    """The fields of a TaskConfig that say something, as a user would write them; keys stay SecretStr.

    Args:
        task_config: a validated task.
        given: the fields that the user set when it was made.

    Raises:
        ConfigError: it holds bytes that are no text.
    """
    try:
        plain = task_config.to_dict()
    except ValueError as error:  # EvalScope could not write its record of the task either
        raise ConfigError(Problem("task", f"cannot be written as text: {error}", "Give text, not bytes.")) from error
    if task_config.use_cache and os.path.realpath(task_config.use_cache) == os.path.realpath(task_config.work_dir):
        plain.update(use_cache=None, rerun_review=False)  # how `evalscope service` resumes; so do we, by `reuse`
    values: dict[str, Any] = {}
    for name, field in type(task_config).model_fields.items():
        value = getattr(task_config, name)
        if value is None or plain.get(name, value) is None or name in ("eval_config", "evalscope_version"):
            continue
        if name not in given and value == field.get_default(call_default_factory=True):
            continue
        values[name] = _unmasked(plain[name], value)
    values["model"] = task_config.model if "model" in given or isinstance(task_config.model, str) else None
    if "model" not in given and values["model"] == task_config.model_task:
        values.pop("model")  # EvalScope's stand-in for "no model"
    if "model_id" not in given:
        values.pop("model_id", None)
    if "judge" in values:
        values["judge"] = task_config.judge.model_dump(exclude_unset=True)
    values["api_key"] = task_config.api_key  # not its mask, which `plain` has; `EMPTY`, EvalScope's default, is none
    if "eval_batch_size" not in given and task_config.eval_batch_size in _STOCK_BATCH_SIZES:
        values.pop("eval_batch_size", None)
    generation = dict(plain["generation_config"] or {})
    generation.pop("batch_size", None)  # a copy of eval_batch_size
    values["generation_config"] = generation
    values.pop("eval_type", None)  # looked at when the task was made; EvalScope sets mock_llm where `model` is not set
    for name in ("timeout", "stream", "sandbox", "use_sandbox", "sandbox_type", "sandbox_manager_config"):
        if name not in given:
            values.pop(name, None)
    return values
