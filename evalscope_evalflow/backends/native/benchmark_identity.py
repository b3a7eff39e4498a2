"""Whether saved answers are those of the same benchmark: EvalScope's own check, without the judge in it.

EvalScope counts the judge to what answers depend on, and so would refuse to judge today what was predicted
yesterday with another judge, or none. What the parent can tell without EvalScope (model, limit, generation settings)
it has checked by then; here it is the benchmark as EvalScope resolves it: data, prompts, few-shot examples, version.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from evalscope_evalflow.events import any_json
from evalscope_evalflow.events.schema import SCHEMA
from evalscope_evalflow.events.whole_files import write_whole

# What changes scores and no answers: such answers are scored anew, which the parent sees to.
SCORING = ("filters", "metric_list", "aggregation", "primary_metric")


def check_benchmarks(file: Path, answered: Collection[str]) -> None:
    """Put our check in the place of EvalScope's.

    Args:
        file: where a run folder keeps its benchmarks.
        answered: benchmarks with saved answers; the others have nothing that could be another version's.
    """
    from evalscope import run

    build, validate = run.build_evaluation_identity, run.validate_cached_evaluation_identity
    specs: dict[str, dict[str, Any]] = {}

    def build_and_keep(resolved: Any, versions: Any, task_config: Any) -> Any:
        for name, spec in resolved.items():
            specs[name] = {**spec.model_dump(mode="json"), "evaluation_version": versions[name]}
        return build(resolved, versions, task_config)

    def check(previous: Any, current: Any, rerun_review: bool) -> Any:
        known = _read(file)
        for name in specs.keys() & known.keys() & set(answered):
            _compare(name, known[name], specs[name])
        foreign = {name: current.benchmarks[name] for name in specs if name not in known and name in answered}
        if not foreign:
            return {}
        # Answers that EvalScope has saved by itself.
        return validate(previous, current.model_copy(update={"benchmarks": foreign}), rerun_review)

    def dump_and_write(*args: Any, **options: Any) -> Any:
        _write(file, {**_read(file), **specs})  # it is found to be the same, or there was nothing
        return metadata(*args, **options)

    metadata = run.build_generated_evaluation_metadata
    run.build_evaluation_identity = build_and_keep
    run.validate_cached_evaluation_identity = check
    run.build_generated_evaluation_metadata = dump_and_write


def _compare(name: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    local = os.path.exists(str(now.get("dataset_id")))
    before, now = _answering(before, local), _answering(now, local)
    if _digest(before) == _digest(now):
        return
    changed = sorted(key for key in before.keys() | now.keys() if _digest(before.get(key)) != _digest(now.get(key)))
    raise ValueError(
        f"the answers on {name} that are saved here are those of another version of it ({', '.join(changed)} changed); "
        "set `reuse: false` to archive them and start again, or `reuse: {accept: [dataset_args]}` to go on with them"
    )


def _answering(spec: dict[str, Any], local: bool) -> dict[str, Any]:
    """What of a benchmark its answers depend on; where local data lies is not in it."""
    left_out = (*SCORING, "dataset_id") if local else SCORING
    return {name: value for name, value in spec.items() if name not in left_out}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        data = any_json.load_file(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # another OSError: it is there
        return {}
    if not isinstance(data, dict):
        return {}
    return data.get("benchmarks") or {} if isinstance(data.get("schema"), int) else data  # 0.1 wrote them alone


def _write(file: Path, data: dict[str, dict[str, Any]]) -> None:
    whole = {"schema": SCHEMA, "benchmarks": data}
    write_whole(file, json.dumps(whole, sort_keys=True, default=str))
