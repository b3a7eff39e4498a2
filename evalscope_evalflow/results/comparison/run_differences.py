"""What is not the same in two runs: what they were told, what they ran with, and what they were asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

from evalscope_evalflow.config.secret_names import MASK
from evalscope_evalflow.config.setting_effects import JUDGE, JUDGE_CONTRACT, STOCK, without_defaults
from evalscope_evalflow.results.comparison.comparison_data import Difference, Kind
from evalscope_evalflow.state import keyed_hashes
from evalscope_evalflow.state.cells import Cell
from evalscope_evalflow.state.file_facts import same_file

UNKNOWN = "unknown"  # a fact that was not recorded, or cannot be told
NOT_SET = "not set"
_HUB = "hub"  # a checkpoint of which only its name on a hub is known
_SHOWN = 60  # characters of a value
_VERSION = "schema"  # of EvalFlow's facts, under "facts" in the cell
_FACTS = "facts"
# What EvalFlow 0.1 did not write down.
_NOT_IN_0_1 = ("deploy.extra_args", "deploy.env_vars", "deploy.max_model_len", "api_url")
_PROMPT = (
    "few_shot_num", "few_shot_mode", "few_shot_random", "train_split", "prompt_template", "few_shot_prompt_template",
    "system_prompt", "supports_choice", "choice_instructions", "query_template", "shuffle_choices", "output_types",
    "data_adapter", "extra_params", "max_image_bytes",
)  # fmt: skip
_METRIC = ("filters", "metric_list", "aggregation", "primary_metric", "evaluation_version")
# All other settings of a dataset say where its data comes from. What it is, the questions themselves show.
_ENGINE = ("engine", "api_url", "deploy.", "model_args")
_MODEL = ("checkpoint", "model_task")
_SKIPPED = ("model", _FACTS)  # the names of the models head the table


@dataclass(frozen=True)
class Side:
    """One run's part in a comparison on one dataset.

    Attributes:
        label: the run's label.
        cell: what its folder says of the dataset; None: nothing.
        metric: the headline metric's name; empty where nothing is scored.
        judged: whether the judge has had a say on any sample.
    """

    label: str
    cell: Cell | None
    metric: str
    judged: bool


def setting_differences(run: Side, baseline: Side, dataset: str, allowed: Set[Kind]) -> Iterator[Difference]:
    """What the folders say differs between two runs on a dataset; what either does not know differs from nothing.

    Args:
        run: one run.
        baseline: the one that it is compared with.
        dataset: the dataset.
        allowed: kinds that are compared all the same.
    """

    def made(kind: Kind, name: str, was: Any, now: Any) -> Difference:
        return Difference(kind, name, _short(was), _short(now), run.label, baseline.label, (dataset,), kind in allowed)

    if run.metric and baseline.metric and run.metric != baseline.metric:
        yield made(Kind.METRIC, "headline metric", baseline.metric, run.metric)
    if run.cell is None or baseline.cell is None:
        return
    for name, was, now in changed(_facts(baseline.cell), _facts(run.cell)):
        if name == "dataset_args.local_path":
            continue  # the same questions may lie elsewhere
        yield made(_kind(name), name.removeprefix("deploy."), was, now)
    if run.cell.verdicts is None or baseline.cell.verdicts is None:
        return  # nobody has written down how it was scored
    for name, was, now in changed(_scoring(baseline.cell), _scoring(run.cell)):
        if name.startswith("dataset_args."):
            yield made(Kind.METRIC, name, was, now)
        elif run.judged or baseline.judged:
            yield made(Kind.JUDGE, f"judge.{name}", was, now)


def merged(differences: Iterable[Difference]) -> tuple[Difference, ...]:
    """The same differences with their datasets joined, the refused kinds first."""
    found: dict[Difference, list[str]] = {}
    for item in differences:
        found.setdefault(replace(item, datasets=()), []).extend(item.datasets)
    joined = [replace(item, datasets=tuple(dict.fromkeys(datasets))) for item, datasets in found.items()]
    order = list(Kind)
    return tuple(sorted(joined, key=lambda item: order.index(item.kind)))


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Names and values of what differs; mappings are compared key by key."""
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if name == "checkpoint" and isinstance(old, dict) and isinstance(new, dict):
            yield from _checkpoints(old, new)
        elif isinstance(old or {}, dict) and isinstance(new or {}, dict) and (old or new):
            for key, was, is_now in changed(old or {}, new or {}):
                yield f"{name}.{key}", was, is_now
        elif not _same(old, new):
            yield name, old, new


def _checkpoints(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Other files, in one line: a checkpoint may have hundreds."""
    names = [name for name in sorted({*old, *new}) if not same_file(old.get(name), new.get(name))]
    if names == [_HUB]:
        yield "checkpoint", old.get(_HUB), new.get(_HUB)
    elif names:
        more = f" and {len(names) - 1} more files" if len(names) > 1 else ""
        yield "checkpoint", f"{names[0]}{more}", f"another {names[0]}{more}"


def _same(old: Any, new: Any) -> bool:
    if old == new or UNKNOWN in (old, new) or MASK in (old, new):
        return True
    both = keyed_hashes.is_keyed(old) and keyed_hashes.is_keyed(new)
    return both and not keyed_hashes.comparable(old, new)


def _facts(cell: Cell) -> dict[str, Any]:
    """What answers depend on, as today's version writes it down."""
    facts = dict(cell.predictions or {})
    if _FACTS not in facts and facts:
        facts = {**dict.fromkeys(_NOT_IN_0_1, UNKNOWN), **without_defaults(facts, STOCK)}
        args = facts.get("dataset_args") or {}
        facts["dataset_args"] = {name: value for name, value in args.items() if name not in _METRIC}
    return {name: value for name, value in facts.items() if name not in _SKIPPED}


def _scoring(cell: Cell) -> dict[str, Any]:
    """What verdicts and scores depend on."""
    facts = dict(cell.verdicts or {})
    if _FACTS not in facts:  # 0.1 had settings of the scoring among those of the answers
        facts = without_defaults(facts, JUDGE)
        facts["contract"] = without_defaults(facts.get("contract") or {}, JUDGE_CONTRACT)
        args = (cell.predictions or {}).get("dataset_args") or {}
        facts["dataset_args"] = {name: value for name, value in args.items() if name in _METRIC}
    models = facts.pop("models", None) or []
    for number, item in enumerate(models if isinstance(models, list) else [models]):
        facts[f"models[{number}]" if len(models) > 1 else "model"] = _judge(item)
    return {name: value for name, value in facts.items() if name != _FACTS and value not in (None, {}, [])}


def _judge(model: Any) -> Any:
    """A judge without how patiently it is asked."""
    if not isinstance(model, dict):
        return model
    generation = model.get("generation_config") or {}
    patience = ("timeout", "retries", "retry_interval", "max_retries")
    kept = {name: value for name, value in generation.items() if name not in patience}
    return {**{name: value for name, value in model.items() if name != "generation_config"}, **kept}


def _kind(name: str) -> Kind:
    if name == "backend":
        return Kind.BACKEND
    if name.startswith("dataset_args."):
        setting = name.split(".")[1]
        return Kind.PROMPT if setting in _PROMPT else Kind.METRIC if setting in _METRIC else Kind.SETTING
    if name.startswith(_ENGINE):
        return Kind.ENGINE
    return Kind.MODEL if name.startswith(_MODEL) else Kind.SETTING


def _short(value: Any) -> str:
    if value is None:
        return NOT_SET
    if keyed_hashes.is_keyed(value):
        return "a secret"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
