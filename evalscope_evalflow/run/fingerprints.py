"""What answers and verdicts depend on: saved ones are reused only where it is the same.

Predictions depend on the checkpoint, the engine and its settings, the dataset, the prompt and the generation settings;
verdicts on those, and on the judge. EvalScope's own identity mixes the two, and would refuse to judge today what was
predicted yesterday. Which setting counts for which stands in `config/setting_effects.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evalscope_evalflow.config import AUTO, REMOTE, DeployConfig, ModelConfig, catalog
from evalscope_evalflow.config.benchmark_defaults import benchmark_defaults
from evalscope_evalflow.config.own_judge import judge_deploy
from evalscope_evalflow.config.setting_effects import (
    DATASET,
    GENERATION,
    JUDGE,
    JUDGE_CONTRACT,
    JUDGE_MODEL,
    SANDBOX,
    STOCK,
    Effect,
    Setting,
    settings_with,
    without_defaults,
)
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.engines import Engine, default_engine, resolve_engine
from evalscope_evalflow.engines.options.answer_options import answer_options, answer_variables
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.run import fact_values
from evalscope_evalflow.run.fact_differences import OTHERS, Compared, compare
from evalscope_evalflow.run.fact_values import UNKNOWN

SCHEMA = "facts"  # the name under which facts say by which version of this module they were made
VERSION = 2
# What EvalFlow 0.1 did not write down: it counts as unknown.
NOT_IN_0_1 = ("deploy.extra_args", "deploy.env_vars", "deploy.max_model_len", "api_url")
# Fields of the stock task that are facts under their own names. The others are handled one by one.
_OF_TASK = tuple(
    name
    for name in settings_with(Effect.ANSWERS, STOCK)
    if name not in ("model", "model_id", "api_url", "eval_backend", "use_sandbox", "sandbox_type",
                    "sandbox_manager_config")
)  # fmt: skip
# EvalScope's defaults where the task has no `generation_config` at all.
_NO_GENERATION = {"Native": {"temperature": 0.0}}
# What VLMEvalKit takes for each key that is not set, for the model as for its judge.
_VLMEVALKIT_DEFAULTS = {"temperature": 0, "max_tokens": 2048}
_NO_JUDGE_GENERATION = {"temperature": 0.0, "max_tokens": 4096}
# Variables by which EvalScope's judge takes what `judge.contract` does not say.
_JUDGE_VARIABLES = {"system_prompt": "JUDGE_SYSTEM_PROMPT", "prompt_template": "JUDGE_PROMPT_TEMPLATE"}
_OLD_NAMES = {"server": "openai_api"}


def predictions(task: Task, model: ModelConfig, dataset: str) -> dict[str, Any]:
    """What a model's answers on a dataset depend on, as JSON has it; no key is in it."""
    return predictions_on(task, model, [dataset])[dataset]


def predictions_on(task: Task, model: ModelConfig, datasets: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The same for several datasets, with one look at the checkpoint."""
    deploy = task.flow.deploy_for(model)
    stock = task.stock
    found: dict[str, Any] = {
        SCHEMA: VERSION,
        "backend": task.flow.backend,
        "model": model.served_name,
        "checkpoint": fact_values.checkpoint(model.path) if model.path else None,
        "adapter": fact_values.checkpoint(model.adapter) if model.adapter else None,
        **_of_engine(model, deploy, shell=task.flow.mode != "judge"),
        **without_defaults({name: stock.get(name) for name in _OF_TASK}, STOCK),
        "sandbox": _sandbox(stock),
        "dataset_dir": _dataset_dir(stock.get("dataset_dir")),
        **_generation(task.generation_config(model), task.flow.backend),
    }
    repeats = found.pop("generation_config.n", None)
    if repeats and "repeats" not in found:
        found["repeats"] = repeats
    common = fact_values.plain(found)
    return {
        dataset: dict(sorted((common | fact_values.plain({"dataset_args": args})).items()))
        for dataset in datasets
        for args in (_dataset_args(_settings(task, dataset), dataset_defaults(task, dataset)),)
    }


def verdicts(task: Task, dataset: str | None = None) -> dict[str, Any]:
    """What verdicts depend on beside the answers: the judge, wherever it is served, and how scores are made.

    Args:
        task: the task.
        dataset: whose scoring it is; None: of what all datasets share.
    """
    judge = dict(task.stock.get("judge") or {})
    judge.setdefault("strategy", task.stock.get("judge_strategy"))
    models = judge.get("models") or []
    models = [models] if isinstance(models, Mapping) else models
    found = without_defaults(
        {name: value for name, value in judge.items() if name not in ("models", "contract")}, JUDGE
    )
    contract = dict(judge.get("contract") or {})
    if models:
        found["models"] = [_judge_model(item, task.flow.backend) for item in models]
        for name, variable in _JUDGE_VARIABLES.items():
            contract[name] = contract.get(name) or os.environ.get(variable)
    found["contract"] = without_defaults(contract, JUDGE_CONTRACT)
    if task.flow.judge is not None:
        found["deployed"] = _own_judge(task)
    if dataset is not None:
        args = _settings(task, dataset)
        found["dataset_args"] = _dataset_args(args, dataset_defaults(task, dataset), (Effect.SCORING,))
    return fact_values.plain({SCHEMA: VERSION, **found})


def _own_judge(task: Task) -> dict[str, Any]:
    """What the verdicts of a judge that is deployed here depend on: its checkpoint, its engine and their settings."""
    model, deploy = task.flow.judge, judge_deploy(task.flow)
    assert model is not None
    named = {"checkpoint": model.path, "adapter": model.adapter}
    files = {name: fact_values.checkpoint(path) if path else None for name, path in named.items()}
    return {**files, **_of_engine(model, deploy, shell=True)}


def same_verdicts(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    answers: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> bool:
    """Whether verdicts that depend on `before` are those that a task would get now.

    Args:
        before: as `verdicts` has made it, or EvalFlow 0.1, which wrote defaults out.
        now: as it makes it now.
        answers: what the answers depend on, as the cell has it: 0.1 had all of the benchmark's settings there.
        defaults: of the benchmark's settings.
    """
    if SCHEMA in before:
        return dict(before) == dict(now)
    older = {**before, "models": [_judge_model(item, "") for item in before.get("models") or ()]}
    older[SCHEMA] = VERSION
    settings = (answers or {}).get("dataset_args")
    older["dataset_args"] = _dataset_args(settings, defaults or {}, (Effect.SCORING,))
    older["contract"] = without_defaults(before.get("contract") or {}, JUDGE_CONTRACT)
    return fact_values.plain(without_defaults(older, JUDGE)) == dict(now)


def compare_predictions(
    before: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> Compared:
    """What has changed since answers were saved, whichever version of EvalFlow saved them.

    Args:
        before: what the cell has, as `predictions` has made it.
        now: what `predictions` makes now.
        defaults: of the benchmark's settings, which 0.1 wrote down where they were given.
    """
    facts = {name: value for name, value in now.items() if name != SCHEMA}
    if SCHEMA in before:
        return compare({name: value for name, value in before.items() if name != SCHEMA}, facts)
    return compare(_as_of_today(before, defaults or {}), facts, NOT_IN_0_1)


def completed(
    before: Mapping[str, Any], now: Mapping[str, Any], unknown: Iterable[str], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The facts of saved answers, with today's in place of those that are unknown.

    Args:
        before: what the cell has.
        now: what `predictions` makes now.
        unknown: their names, as `Compared.unknown` has them.
        defaults: of the benchmark's settings.
    """
    found = dict(before) if SCHEMA in before else {**_as_of_today(before, defaults), SCHEMA: VERSION}
    for name in unknown:
        whole, _, part = name.partition(".")
        whole = f"deploy.{whole}" if f"deploy.{whole}" in now or f"deploy.{whole}" in found else whole
        value = now.get(whole)
        if not part:
            if value not in (None, UNKNOWN):
                found[whole] = value
        elif isinstance(value, Mapping) and value.get(part) not in (None, UNKNOWN):
            found[whole] = {**(found.get(whole) or {}), part: value[part]}
    for name in ("checkpoint", "adapter"):
        if name in unknown and fact_values.HUB in (now.get(name) or {}):
            found[name] = before.get(name)  # it is not here to be looked at
    return dict(sorted(found.items()))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed, in words, such as "limit was 4 and is 8"."""
    return [item.text for item in compare_predictions(before, now).differences]


def _as_of_today(before: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of EvalFlow 0.1, which wrote defaults out, without them."""
    found = without_defaults(before, STOCK)
    if found.get("engine") == REMOTE:
        found.pop("deploy.chat_template", None)  # an API that runs elsewhere has its own
    found["sandbox"] = _sandbox(before)
    found["dataset_dir"] = _dataset_dir(before.get("dataset_dir"))
    found["dataset_args"] = _dataset_args(before.get("dataset_args"), defaults)
    backend = str(before.get("backend"))
    generation = {
        name.removeprefix("generation_config."): found.pop(name)
        for name in list(found)
        if name.startswith("generation_config.")
    }
    return fact_values.plain({**found, **_generation(generation, backend)})


def _of_engine(model: ModelConfig, deploy: DeployConfig, shell: bool) -> dict[str, Any]:
    """The engine and its settings, or the API's address; `shell` as of `_variables`."""
    try:
        engine = resolve_engine(model, deploy)
    except ConfigError:  # another check reports it
        name = default_engine(model.path, model.api_url) if deploy.engine == AUTO else deploy.engine
        return {"engine": name}
    if not engine.local:
        return {"engine": engine.name, "api_url": fact_values.endpoint(model.api_url or "")}
    options = answer_options(engine, deploy.extra_args)
    return {
        "engine": engine.name,
        "deploy.extra_args": {name: [*map(fact_values.argument, values)] for name, values in options.items()},
        "deploy.env_vars": _variables(engine, deploy, shell),
        "deploy.max_model_len": engine.context_length(model, deploy) or UNKNOWN,
        "deploy.chat_template": fact_values.template(deploy.chat_template),
    }


def _variables(engine: Engine, deploy: DeployConfig, shell: bool) -> dict[str, str]:
    """The engine's environment variables, as far as they may affect answers.

    Args:
        engine: the engine.
        deploy: its settings.
        shell: whether this machine's shell is the one that the engine is, or was, started from.
    """
    found = answer_variables(engine, deploy.env_vars, os.environ if shell else {})
    hashed = {name: fact_values.variable(name, value) for name, value in found.items()}
    return hashed if shell else {**hashed, OTHERS: UNKNOWN}


def _generation(given: Any, backend: str) -> dict[str, Any]:
    """The generation settings that count, by names such as `generation_config.temperature`."""
    if not isinstance(given or {}, Mapping):
        return {"generation_config": given}  # EvalScope parses it
    settings = {str(name): value for name, value in (given or {}).items() if value is not None}
    kept = _without_vlmevalkits(_counting(settings or _NO_GENERATION.get(backend, {}), GENERATION), backend)
    return {f"generation_config.{name}": value for name, value in kept.items()}


def _without_vlmevalkits(settings: Mapping[str, Any], backend: str) -> dict[str, Any]:
    defaults = _VLMEVALKIT_DEFAULTS if backend == "VLMEvalKit" else {}
    return {name: value for name, value in settings.items() if name not in defaults or value != defaults[name]}


def _counting(settings: Mapping[str, Any], lines: Mapping[str, Setting]) -> dict[str, Any]:
    """The settings that say something, but for those that have no effect."""
    nothing = settings_with(Effect.NEITHER, lines)
    return {name: value for name, value in without_defaults(settings, lines).items() if name not in nothing}


def _sandbox(stock: Mapping[str, Any]) -> dict[str, Any]:
    """The sandbox, in whichever form it is given."""
    given = stock.get("sandbox")
    old_form = {
        "enabled": stock.get("use_sandbox"),
        "engine": stock.get("sandbox_type"),
        "manager_config": stock.get("sandbox_manager_config"),
    }
    return _counting(given if isinstance(given, Mapping) else old_form, SANDBOX)


def _dataset_args(
    settings: Any, defaults: Mapping[str, Any], effects: Sequence[Effect] = (Effect.ANSWERS,)
) -> dict[str, Any]:
    """What of a benchmark's settings has an effect, but for those that are set to the benchmark's default.

    Args:
        settings: `dataset_args.NAME`.
        defaults: the benchmark's.
        effects: what counts; a setting that the table does not know counts as changing answers.
    """
    if not isinstance(settings, Mapping):
        return {}
    found = {}
    for name, value in settings.items():
        effect = DATASET[name].effect if name in DATASET else Effect.ANSWERS
        if value is None or effect not in effects or (name in defaults and value == defaults[name]):
            continue
        found[str(name)] = _absolute(value) if name == "local_path" else value
    return found


def _settings(task: Task, dataset: str) -> Any:
    return (task.stock.get("dataset_args") or {}).get(dataset)


def dataset_defaults(task: Task, dataset: str) -> dict[str, Any]:
    """The benchmark's defaults in the worker's EvalScope, as far as its source tells them."""
    try:
        return benchmark_defaults(catalog.evalscope_folder(task.flow.worker_env), dataset)
    except ConfigError:  # another check reports that there is no EvalScope
        return {}


def _judge_model(given: Any, backend: str) -> Any:
    """One judge, without where it is served and how patiently it is asked."""
    if not isinstance(given, Mapping):
        return given
    found = dict(given)
    found["eval_type"] = _OLD_NAMES.get(str(found.get("eval_type")), found.get("eval_type"))
    if found.get("judge_id") == found.get("model_id"):
        found.pop("judge_id", None)
    generation = found.get("generation_config")
    if isinstance(generation, Mapping):
        generation = _without_vlmevalkits(_counting(generation, GENERATION), backend)
        found["generation_config"] = {} if backend == "Native" and generation == _NO_JUDGE_GENERATION else generation
    patience = ("timeout", "retries", "retry_interval", "max_retries")  # 0.1 knew them here
    return {name: value for name, value in _counting(found, JUDGE_MODEL).items() if name not in patience}


def _dataset_dir(path: Any) -> Any:
    """Where datasets are kept, unless it is EvalScope's default."""
    default = os.path.join(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope/hub", "datasets")
    return None if _absolute(path) == _absolute(default) else _absolute(path)


def _absolute(path: Any) -> Any:
    return os.path.abspath(os.path.expanduser(path)) if isinstance(path, str) else path
