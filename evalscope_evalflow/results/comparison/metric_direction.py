"""Whether less is better by a dataset's headline metric, such as a word error rate, as EvalScope's report says."""

from __future__ import annotations

import json
from typing import Any

from evalscope_evalflow.results.run_folders import RunFolder

LOWER = "lower_is_better"


def lower_is_better(run: RunFolder, dataset: str) -> bool:
    """Whether a lower score is the better one; no, where the report does not say.

    Args:
        run: a run folder.
        dataset: a dataset of its own.
    """
    path = run.folder / "reports" / run.model / f"{dataset}.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(_semantics(report).get("direction") == LOWER)


def _semantics(report: Any) -> dict[str, Any]:
    """What the report says of its headline metric: the one that it names, or else the first that grades anything."""
    if not isinstance(report, dict):
        return {}
    primary = report.get("primary_metric_identity")
    found: list[tuple[bool, bool, dict[str, Any]]] = []
    for item in report.get("metrics") or ():
        if isinstance(item, dict):
            said = item.get("semantics")
            semantics: dict[str, Any] = said if isinstance(said, dict) else {}
            other = primary is None or item.get("identity") != primary
            found.append((other, semantics.get("kind") == "diagnostic", semantics))
    return min(found, key=lambda item: item[:2])[2] if found else {}
