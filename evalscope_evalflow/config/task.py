"""A task: stock EvalScope fields, the `evalflow` section, and the models that follow from both."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from evalscope_evalflow.config import AUTO, REMOTE, DeployConfig, FlowConfig, ModelConfig, patterns
from evalscope_evalflow.config.api_url import public_url
from evalscope_evalflow.config.default_backend import backend_for, known_backends
from evalscope_evalflow.config.eval_types import eval_type_problem
from evalscope_evalflow.config.flag_hints import misplaced
from evalscope_evalflow.config.legacy_judge import translate_judge
from evalscope_evalflow.config.model_name import name_of
from evalscope_evalflow.config.own_judge import as_written, with_stock_judge
from evalscope_evalflow.config.stock_shapes import shape_problems
from evalscope_evalflow.config.task_file import read_mapping, with_data_beside, with_home
from evalscope_evalflow.errors import ConfigError, Problem, nearest

SECTION = "evalflow"
DEFAULT_WORK_DIR = "outputs"
# Of a task file, but not for the worker's stock task: they are expressed by the section, or set by us.
_OURS = (
    "model",
    "model_id",
    "api_url",
    "api_key",
    "work_dir",
    "eval_backend",
    "eval_config",
    "eval_type",
    "no_timestamp",
    "dry_run",
    "evalscope_version",
    SECTION,
)
_REFUSED = {
    "use_cache": "Results in work_dir are reused as they are: `reuse` in the section says whether.",
    "chat_template": "EvalScope uses it for models that it loads itself. Set `deploy.chat_template` in the section.",
    "rerun_review": "Missing reviews are made; to make all of them again, remove `reviews` from work_dir.",
}
_MOST_FILES = 5  # that a section may be read from, one naming the next
# Of `deploy`, what means something to an API that runs elsewhere.
_OF_APIS = {"engine", "max_num_seqs", "stall_timeout_s"}
# What EvalScope writes into its own configs/task_config.yaml beside the task.
_GENERATED = ("resolved_benchmarks", "evaluation_identity")


@dataclass(frozen=True)
class Task:
    """What is to be done.

    Attributes:
        flow: the section.
        stock: fields of the stock TaskConfig as the user gave them; keys in it may be SecretStr.
        models: the models to evaluate.
        multi_model: whether results go to a folder for each model (`models`), or to work_dir itself (`model`).
        work_dir: where results go.
        notes: what of the task was understood in a way that the user should know of.
        request_slots: folder and number of the slots that requests to the model's API share with those of other
            models of a sweep (worker.request_slots); None: there are no others.
        judge_slots: the same for requests to the judge.
        whole: digest of the files of each checkpoint that was found whole while training writes others, by the model's
            name (run.checkpoint_changes.digest_of); a run with other files asks nothing.
    """

    flow: FlowConfig
    stock: dict[str, Any] = field(repr=False)  # may hold keys
    models: tuple[ModelConfig, ...]
    multi_model: bool
    work_dir: Path
    notes: tuple[str, ...] = ()
    request_slots: tuple[str, int] | None = None
    judge_slots: tuple[str, int] | None = None
    whole: Mapping[str, str] = field(default_factory=dict)

    @property
    def datasets(self) -> list[str]:
        """Names of the benchmarks."""
        return list(self.stock.get("datasets") or [])

    def generation_config(self, model: ModelConfig) -> Any:
        """The stock `generation_config`, with what this model sets for itself on top, mappings in it included."""
        common = self.stock.get("generation_config")
        if not model.generation_config or not isinstance(common or {}, Mapping):
            return common
        return _merged(common or {}, model.generation_config)

    def folder(self, model: ModelConfig) -> Path:
        """The run folder of a model."""
        return self.work_dir / safe_name(model.name) if self.multi_model else self.work_dir

    def part(self, model: ModelConfig) -> dict[str, Any]:
        """A model's part of the task, as its record has it: the other models of a sweep are not in it."""
        section = self.flow.model_dump(mode="json", exclude_unset=True, exclude={"models"})
        if self.multi_model:
            section["models"] = [model.model_dump(mode="json", exclude_unset=True)]
        return {**as_written(self.stock, self.flow), SECTION: section}

    @property
    def outputs(self) -> Path:
        """The folder that `evalscope service` shows: one above the run folders."""
        return self.work_dir if self.multi_model else self.work_dir.parent

    def without_keep_alive(self) -> Task:
        """The same for a process that ends with it: no engine is kept."""
        if not any(self.flow.deploy_for(model).keep_alive_s for model in self.models):
            return self
        note = "keep_alive_s: without effect, as this command ends with the run; Python and notebooks keep engines"
        models = [
            model.model_copy(update={"deploy": {**model.deploy, "keep_alive_s": 0.0}})
            if model.deploy.get("keep_alive_s")
            else model
            for model in self.models
        ]
        deploy = self.flow.deploy
        if deploy.keep_alive_s:
            deploy = deploy.model_copy(update={"keep_alive_s": 0.0})
        flow = self.flow.model_copy(update={"deploy": deploy, **({"models": models} if self.multi_model else {})})
        return replace(self, flow=flow, models=tuple(models), notes=(*self.notes, note))

    @classmethod
    def parse(cls, data: Mapping[str, Any], section: Mapping[str, Any] | FlowConfig | None = None) -> Task:
        """Make a task of a mapping as a YAML file holds it.

        Args:
            data: stock fields, and the section under `evalflow`.
            section: the section, where it is not in `data`.

        Raises:
            ConfigError: with every problem found.
        """
        problems: list[Problem] = []
        if section is None and SECTION not in data:
            for name in get_close_matches(SECTION, map(str, data), cutoff=0.75):
                raise ConfigError(Problem(name, "unknown key", f"Did you mean {SECTION!r}?"))
        section = data.get(SECTION, {}) if section is None else section
        if data.get(SECTION) is not None and data.get("eval_config"):
            problems.append(Problem(SECTION, "both `evalflow` and `eval_config` are given", "Keep one of them."))
        problems += misplaced(data, FlowConfig.model_fields)
        for name, hint in _REFUSED.items():
            if data.get(name):
                problems.append(Problem(name, "has no place beside `evalflow`", hint))
        problems += filter(None, [eval_type_problem(data.get("eval_type"))])
        try:
            section = expand_models(read_section(section))
            section = with_backend(section, data.get("eval_backend"))
            flow = FlowConfig.parse(section, SECTION)
        except ConfigError as error:
            raise ConfigError(*problems, *error.problems) from None
        try:
            models = _models(data, flow)
        except ConfigError as error:
            problems += error.problems
            models = ()
        if isinstance(data.get("datasets"), str):
            data = {**data, "datasets": [name.strip() for name in data["datasets"].split(",") if name.strip()]}
        names = data.get("datasets")
        if not names:
            near = [f"Did you mean it by {name!r}?" for name in get_close_matches("datasets", map(str, data), 1, 0.75)]
            todo = " ".join(["Name at least one benchmark (--datasets).", *near])
            problems.append(Problem("datasets", "none is given", todo))
        elif not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            problems.append(Problem("datasets", "is no list of names", "Write it as datasets: [gsm8k, arc]."))
        else:
            data = {**data, "datasets": list(dict.fromkeys(names))}
        judge_notes: list[str] = []
        shapes = list(shape_problems(data))
        problems += shapes
        try:
            if not shapes:
                data, judge_notes = translate_judge(data)
                data = with_stock_judge(data, flow)
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(*problems)
        dropped = {*_OURS, *_REFUSED, *_GENERATED}
        stock = with_home({name: value for name, value in data.items() if name not in dropped and value is not None})
        work_dir = Path(os.path.expanduser(str(data.get("work_dir") or DEFAULT_WORK_DIR)))
        notes = judge_notes
        if data.get("api_url") and not any(model.api_url for model in models):
            notes.append(f"api_url {public_url(data['api_url'])} is not used: the model is deployed here")
        notes += _without_effect(flow, models)
        task = cls(flow, stock, models, bool(flow.models), Path(os.path.abspath(work_dir)), tuple(notes))
        return task if flow.backend != AUTO else task.with_default_backend()

    def with_default_backend(self) -> Task:
        """The same with the backend that has its datasets, or that has answered in its run folders.

        Raises:
            ConfigError: several backends have them, or none has.
        """
        folders = [self.folder(model) for model in self.models] if self.flow.reuse else []
        settings = self.stock.get("dataset_args") or {}
        backend = backend_for(self.datasets, settings, self.flow.worker_env, folders)
        return replace(self, flow=self.flow.model_copy(update={"backend": backend}))

    @classmethod
    def load(cls, path: str | Path) -> Task:
        """Read a task from a YAML or JSON file.

        Raises:
            ConfigError: it cannot be read, or cannot work.
        """
        return cls.parse(with_data_beside(read_mapping(path), path))


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(common)
    for name, value in own.items():
        both = isinstance(value, Mapping) and isinstance(found.get(name), Mapping)
        found[name] = _merged(found[name], value) if both else value
    return found


def with_backend(section: Mapping[str, Any], stock: Any) -> Mapping[str, Any]:
    """The section with the backend that the stock field `eval_backend` names, as in a task of stock EvalScope.

    Raises:
        ConfigError: the section names another, or there is no such backend.
    """
    if stock is None or str(stock).lower() == SECTION:
        return section
    known = {name.lower(): name for name in known_backends()}
    named = known.get(str(stock).lower())
    said = str(section.get("backend") or named)
    said = str(named) if said.lower() == AUTO else said
    if named is None:
        names = [SECTION, *known.values()]
        hint = f"{nearest(str(stock), names)} Known: {', '.join(names)}".strip()
        raise ConfigError(Problem("eval_backend", f"EvalFlow does not run {stock!r}", hint))
    if said.lower() != named.lower():
        what = f"is {stock!r}, but the section's backend is {said!r}"
        raise ConfigError(Problem("eval_backend", what, "Set it to evalflow."))
    return {**section, "backend": named}


def _without_effect(flow: FlowConfig, models: tuple[ModelConfig, ...]) -> list[str]:
    """What is set for engines, where all models are APIs that run elsewhere."""
    given = set(flow.deploy.model_fields_set)
    for model in models:
        if not model.api_url or flow.deploy_for(model).engine not in (AUTO, REMOTE):
            return []
        given |= set(model.deploy)
    names = [name for name in DeployConfig.model_fields if name in given - _OF_APIS]
    return [f"{', '.join(names)}: without effect, as nothing is deployed here"] if names and models else []


def read_section(section: Any, depth: int = 0) -> Mapping[str, Any]:
    """The section from any of its forms: a FlowConfig, a mapping, JSON, or the path of a file that holds it (or a
    whole task).

    Raises:
        ConfigError: it is none of these.
    """
    if section is None:
        return {}
    if isinstance(section, FlowConfig):
        return section.to_section()
    if isinstance(section, Mapping):
        return section
    if not isinstance(section, (str, os.PathLike)):
        what = f"is a {type(section).__name__}"
        raise ConfigError(Problem(SECTION, what, "Give a FlowConfig, a mapping, JSON, or the path of a file."))
    text = str(section)
    if text.lstrip().startswith("{"):
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(Problem(SECTION, f"is not valid JSON: {error}")) from error
    else:
        data = read_mapping(text)
    if SECTION in data and depth > _MOST_FILES:
        raise ConfigError(Problem(SECTION, "files name each other in a circle", "Give the section itself."))
    return read_section(data[SECTION], depth + 1) if SECTION in data else data


def expand_models(section: Mapping[str, Any]) -> dict[str, Any]:
    """The section with one entry in `models` for each match of a pattern; a path alone is an entry, too.

    Args:
        section: as it was written, with dashes or underscores in its keys.

    Raises:
        ConfigError: a pattern matches nothing, or something that is not a checkpoint.
    """
    plain = {str(key).replace("-", "_"): value for key, value in section.items()}
    if isinstance(plain.get("models"), (list, tuple)):
        models = [_as_mapping(item) for item in plain["models"]]
        plain["models"] = patterns.expand(models, f"{SECTION}.models")
    return plain


def _as_mapping(model: Any) -> Any:
    """An item of `models` as a mapping: it may be a path alone, or a ModelConfig."""
    if isinstance(model, ModelConfig):
        return model.to_section()
    return {"path": str(model)} if isinstance(model, (str, Path)) else model


def safe_name(name: str) -> str:
    """A model's name as the name of a folder."""
    return re.sub(r"[^\w.+-]", "_", name).strip(".") or "_"


def _models(data: Mapping[str, Any], flow: FlowConfig) -> tuple[ModelConfig, ...]:
    """The section's models, or the one that stock fields describe."""
    if flow.models:
        if data.get("model"):
            raise ConfigError(Problem("model", "both `model` and `evalflow.models` are given", "Keep one of them."))
        names = [model.name for model in flow.models]
        twice = sorted(name for name, number in Counter(names).items() if number > 1)
        if twice:
            raise ConfigError(Problem("evalflow.models", f"the name {', '.join(twice)} is given more than once"))
        folders = Counter(map(safe_name, names))
        twice = sorted(name for name in names if folders[safe_name(name)] > 1)
        if twice:
            raise ConfigError(
                Problem("evalflow.models", f"{', '.join(twice)} would share a folder", "Give each a name of its own.")
            )
        return tuple(flow.models)
    model, name, url = data.get("model"), data.get("model_id"), data.get("api_url")
    if model is not None and not isinstance(model, str):
        raise ConfigError(
            Problem(
                "model",
                f"is an object ({type(model).__name__})",
                "EvalFlow deploys a model by path, or an API.",
            )
        )
    if not model:
        raise ConfigError(Problem("model", "none is given", "Set `model`, or `models` in the section."))
    if patterns.is_pattern(model):
        what = "is a pattern, and so may be several models"
        raise ConfigError(Problem("model", what, f"Give it in the section: models: [{{path: {model!r}}}]."))
    # `evalscope service` always sends an api_url: a model that is here is deployed all the same.
    here = os.path.exists(os.path.expanduser(model))
    if flow.deploy.engine == REMOTE or (flow.deploy.engine == "auto" and url and not here):
        # The API knows the model by `model`; `model_id` is only how stock EvalScope files its results.
        section = {"name": model, "api_url": url, "api_key": data.get("api_key")}
    else:
        section = {"name": name or name_of(model), "path": model}
    return (ModelConfig.parse(section, "model"),)
