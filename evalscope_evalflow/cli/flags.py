"""The flags of `evalflow`, and the task that they spell."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalscope_evalflow.cli.export_flag import HELP, export_choice
from evalscope_evalflow.config import REMOTE
from evalscope_evalflow.config import patterns as globs
from evalscope_evalflow.config.catalog import DEFAULT_VLM_DATASETS
from evalscope_evalflow.engines import default_engine, load_engine
from evalscope_evalflow.errors import ConfigError, Problem


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: with underscores; dashes are understood as well.
        help: what it is, with unit.
        default: what holds where it is not given, as the help shows it; None: nothing.
        kind: type of its value; "flag" takes none.
        several: whether it takes several values.
        target: where it goes in a task file; several steps by dots.
    """

    name: str
    help: str
    default: Any = None
    kind: Any = str
    several: bool = False
    target: str = ""


def number(text: str) -> int | float:
    """A whole number, or one with a point: EvalScope takes 2 for two samples, and 0.5 for a half of them."""
    return float(text) if "." in text or "e" in text.lower() else int(text)


def boolean(text: str) -> bool:
    """True or False, as people write them."""
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def json_object(text: str) -> Any:
    """A JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text} is no JSON object, such as {{}}")
    return value


FLAGS: tuple[Flag, ...] = (
    Flag("work_dir", "folder for results; one below it for each model (required)", target="work_dir"),
    Flag(
        "eval_model_name",
        "name of each model, in results and towards the engine (required, but for a pattern)",
        several=True,
    ),
    Flag(
        "eval_model_path",
        "checkpoint folder or .gguf file of each model, or a pattern like '/ckpts/step-*' (required, but for remote)",
        several=True,
    ),
    Flag(
        "eval_adapter_path",
        "LoRA adapter of each model, or a pattern like '/runs/lora-*'; --eval_model_path is then the base of all, or "
        "one for each (default: the base that the adapter names)",
        several=True,
    ),
    Flag(
        "remote_api_url",
        "URL of each model's API, or of the one that has them all (required for remote)",
        several=True,
    ),
    Flag(
        "conda_env",
        "environment that has the engine: conda prefix or name, venv, uv environment, or an interpreter",
        "this one",
        target="evalflow.deploy.env",
    ),
    Flag("worker_env", "environment that has EvalScope", "this one", target="evalflow.worker_env"),
    Flag(
        "deploy_backend",
        "engine: vllm, lmdeploy, sglang, llamacpp, remote, or a plugin's",
        "vllm; llamacpp for a .gguf file; remote with --remote_api_url",
    ),
    Flag(
        "eval_backend",
        "what evaluates: Native (EvalScope's own), VLMEvalKit, or a plugin's",
        "the one that has the datasets",
        target="evalflow.backend",
    ),
    Flag(
        "vlmevalkit_mode",
        "phases: all, infer (answers only), judge (judges the answers that are saved; `eval` means the same)",
        "all",
        target="evalflow.mode",
    ),
    Flag("datasets", "benchmarks", list(DEFAULT_VLM_DATASETS), several=True, target="datasets"),
    Flag("dataset_args", "settings of benchmarks, as JSON", "{}", kind=json_object, target="dataset_args"),
    Flag(
        "verify_md5",
        "whether VLMEvalKit's data files have to be the published ones",
        True,
        kind=boolean,
        target="evalflow.verify_md5",
    ),
    Flag("limit", "samples of each subset: a number, or a fraction below 1", "all", kind=number, target="limit"),
    Flag(
        "reuse",
        "resume what work_dir holds; False archives that and starts again",
        True,
        kind=boolean,
        target="evalflow.reuse",
    ),
    Flag(
        "reuse_accept",
        "settings that may be others than those that saved answers were made with, such as extra_args; it is noted "
        "beside the scores",
        "none",
        several=True,
    ),
    Flag("judge_model_name", "model that judges answers (required where a benchmark needs a judge)"),
    Flag(
        "judge_model_path",
        "checkpoint folder or .gguf file of a judge that is deployed here: it needs no URL and no key",
        "none",
    ),
    Flag("judge_api_url", "URL of its API, …/v1 or …/v1/chat/completions (required with its name)"),
    Flag("judge_api_key", "key of that API; better '${VARIABLE}' than the key itself", "EMPTY: none"),
    Flag(
        "judge_max_num_seqs",
        "answers that are judged at once",
        200,
        kind=int,
        target="evalflow.judge_max_num_seqs",
    ),
    Flag(
        "budget",
        'hard caps for each model, kept across reruns, as JSON: \'{"tokens": 2000000, "judge_requests": 5000}\'',
        "none",
        kind=json_object,
        target="evalflow.budget",
    ),
    Flag(
        "eval_max_model_length",
        "context length, in tokens",
        "32768, or the model's own if that is less",
        kind=int,
        target="evalflow.deploy.max_model_len",
    ),
    Flag("eval_max_new_tokens", "most tokens of an answer", 2048, kind=int, target="generation_config.max_tokens"),
    Flag(
        "eval_max_num_seqs",
        "sequences served at once, and requests at once",
        "200; llamacpp 4; remote 8",
        kind=int,
        target="evalflow.deploy.max_num_seqs",
    ),
    Flag(
        "eval_temperature",
        "sampling temperature; 0: always the likeliest token",
        0.0,
        kind=float,
        target="generation_config.temperature",
    ),
    Flag(
        "eval_template",
        "chat template: for vllm, llamacpp a Jinja file, for lmdeploy a JSON file or a name, for sglang any of these",
        "the model's own",
        target="evalflow.deploy.chat_template",
    ),
    Flag("eval_devices", "devices that the engine may use, such as 0,1", "0", target="evalflow.deploy.devices"),
    Flag("eval_host", "address that the engine binds", "127.0.0.1", target="evalflow.deploy.host"),
    Flag("eval_port", "port of the engine, or the next free one", 8000, kind=int, target="evalflow.deploy.port"),
    Flag(
        "eval_api_key",
        "key of the engine or the remote API; EMPTY: none given, a local engine gets a random one",
        "EMPTY",
    ),
    Flag(
        "extra_args",
        'more arguments for the engine, in one string: --extra_args="--enforce-eager --dtype bfloat16"',
        "none",
        kind=shlex.split,
        target="evalflow.deploy.extra_args",
    ),
    Flag(
        "env_vars",
        "environment variables for the engine, as JSON",
        "{}",
        kind=json_object,
        target="evalflow.deploy.env_vars",
    ),
    Flag("export", HELP, "none", kind=export_choice, several=True, target="evalflow.exporters"),
    Flag("dry_run", "check and print the plan; start nothing", kind="flag"),
    Flag("json", "print one JSON document on standard output, and no table", kind="flag"),
    Flag("verbose", "show what EvalScope prints", kind="flag"),
)
DEFAULT_MAX_MODEL_LEN = 32768


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every flag to a parser. Defaults are applied by `mapping_from_flags`, as some depend on others."""
    for flag in FLAGS:
        option = f"--{flag.name}"
        if flag.kind == "flag":
            parser.add_argument(option, action="store_true", help=flag.help)
            continue
        shown = " ".join(flag.default) if isinstance(flag.default, list) else flag.default
        text = (flag.help + ("" if flag.default is None else f" (default: {shown})")).replace("%", "%%")
        options: dict[str, Any] = {"nargs": "+"} if flag.several else {}
        parser.add_argument(option, type=flag.kind, metavar=flag.name.split("_")[-1].upper(), help=text, **options)


def mapping_from_flags(args: argparse.Namespace) -> dict[str, Any]:
    """The task file that says the same.

    Raises:
        ConfigError: flags are missing, or do not go together.
    """
    given = {name: value for name, value in vars(args).items() if value is not None}
    problems = [
        Problem(f"--{name}", "is required", "")
        for name in ("work_dir", "eval_model_name")
        if not given.get(name) and not (name == "eval_model_name" and has_patterns(given))
    ]  # fmt: skip
    task: dict[str, Any] = {"evalflow": {"models": [], "deploy": {}}, "generation_config": {}}
    for flag in FLAGS:
        if flag.target and (flag.name in given or isinstance(flag.default, (bool, int, float, list))):
            put(task, flag.target, given.get(flag.name, flag.default))
    if "reuse_accept" in given:
        if task["evalflow"]["reuse"] is False:
            problems.append(Problem("--reuse_accept", "has no place beside --reuse False", "Give one or the other."))
        task["evalflow"]["reuse"] = {"accept": given["reuse_accept"]}
    of_models = add_models(task, given)
    deploy = task["evalflow"]["deploy"]
    try:
        engine = load_engine(deploy["engine"])
    except ConfigError as error:  # which flags go with it is not known
        problems += error.problems
    else:
        problems += of_models
        if not engine.local and "eval_port" not in given:
            del deploy["port"]
        if "devices" in engine.honours and engine.needs_idle_devices:
            deploy.setdefault("devices", "0")
        own_default = engine.reserves_context or "max_model_len" not in engine.honours
        if not own_default and "eval_max_model_length" not in given:
            for model in task["evalflow"]["models"]:
                model["deploy"] = {"max_model_len": _default_max_model_len(model.get("path") or model["adapter"])}
    problems += add_judge(task, given)
    if problems:
        raise ConfigError(*problems)
    return task


def add_models(task: dict[str, Any], given: Mapping[str, Any]) -> list[Problem]:
    """Put the models and their engine into a task; what is wrong with them."""
    names = given.get("eval_model_name", [])
    section = task["evalflow"]
    models, deploy = section.setdefault("models", []), section.setdefault("deploy", {})
    key = given.get("eval_api_key")
    if given.get("deploy_backend", REMOTE if "remote_api_url" in given else None) == REMOTE:
        deploy["engine"] = REMOTE
        problems = _count("remote_api_url", given, names, one_for_all=True)
        for name in given.keys() & {"eval_model_path", "eval_adapter_path"}:
            problems.append(Problem(f"--{name}", "has no place beside an API", "Give one or the other."))
        urls = given.get("remote_api_url", [])
        for name, url in zip(names, urls * len(names) if len(urls) == 1 else urls, strict=False):
            models.append({"name": name, "api_url": url, **({"api_key": key} if key else {})})
        return problems
    paths = given.get("eval_model_path", [])
    kinds = {default_engine(path) for path in paths}
    deploy["engine"] = given.get("deploy_backend") or (kinds.pop() if len(kinds) == 1 else default_engine(None))
    if key is not None:
        deploy["api_key"] = key
    problems = []
    if "eval_adapter_path" in given:
        try:
            models += _adapters(given["eval_adapter_path"], paths, names)
        except ConfigError as error:
            problems += error.problems
    elif has_patterns(given):
        try:
            models += globs.pair(paths, names, "--eval_model_path")
        except ConfigError as error:
            problems += error.problems
    else:
        problems += _count("eval_model_path", given, names)
        models += [{"name": name, "path": path} for name, path in zip(names, paths, strict=False)]
    if "remote_api_url" in given:
        problems.append(
            Problem("--remote_api_url", f"has no place beside {deploy['engine']}", "Give --deploy_backend remote.")
        )
    return problems


def has_patterns(given: Mapping[str, Any]) -> bool:
    """Whether there is a pattern among the paths that stand for a model each."""
    return any(map(globs.is_pattern, given.get("eval_adapter_path", given.get("eval_model_path", []))))


def _adapters(adapters: list[str], bases: list[str], names: list[str]) -> list[dict[str, str]]:
    """An entry of `models` for each adapter.

    Raises:
        ConfigError: a pattern is no good, or adapters, bases and names are not as many.
    """
    found = globs.pair(adapters, names, "--eval_adapter_path")
    if any(map(globs.is_pattern, bases)) or len(bases) not in (0, 1, len(found)):
        what = f"{len(bases)} given for {len(found)} adapters"
        raise ConfigError(Problem("--eval_model_path", what, "Give their base, one for all or one each."))
    each = bases if len(bases) == len(found) else bases * len(found)
    models = [{**entry, "adapter": entry["path"]} for entry in found]
    for entry in models:
        del entry["path"]
    return [{**entry, "path": base} for entry, base in zip(models, each, strict=True)] if each else models


def add_judge(task: dict[str, Any], given: Mapping[str, Any]) -> list[Problem]:
    """Put the judge into a task, if one is given; what is wrong with it."""
    judge = {name: given.get(f"judge_{name}") for name in ("model_name", "api_url", "api_key")}
    if given.get("judge_model_path"):
        path, deploy = given["judge_model_path"], task["evalflow"].setdefault("deploy", {})
        named = {"name": judge["model_name"]} if judge["model_name"] else {}
        engine = default_engine(path)
        changed = (
            {"engine": engine}
            if engine != deploy.get("engine") and (engine == "llamacpp" or deploy.get("engine") in (REMOTE, "llamacpp"))
            else {}
        )
        task["evalflow"]["judge"] = {"path": path, **named, **({"deploy": changed} if changed else {})}
        return [
            Problem(f"--judge_{name}", "has no place beside --judge_model_path", "Give one or the other.")
            for name in ("api_url", "api_key")
            if judge[name]
        ]
    if not any(judge.values()):
        return []
    task["judge"] = {
        "models": [{"model_id": judge["model_name"], "api_url": judge["api_url"], "api_key": judge["api_key"]}]
    }
    return [
        Problem(f"--judge_{name}", "is required with the judge's other flags")
        for name in ("model_name", "api_url")
        if not judge[name]
    ]


def _count(flag: str, given: Mapping[str, Any], names: list[str], one_for_all: bool = False) -> list[Problem]:
    values = given.get(flag, [])
    if len(values) == len(names) or (one_for_all and len(values) == 1):
        return []
    return [
        Problem(
            f"--{flag}",
            f"{len(values)} given for {len(names)} names",
            f"Give {'one, or ' if one_for_all else ''}as many as --eval_model_name has.",
        )
    ]


def _default_max_model_len(path: str) -> int:
    from evalscope_evalflow.engines.adapters import base_of
    from evalscope_evalflow.engines.checkpoints import checkpoint_folder as checkpoint

    longest = checkpoint.context_length(path) or checkpoint.context_length(base_of(path) or path)
    return min(DEFAULT_MAX_MODEL_LEN, longest or DEFAULT_MAX_MODEL_LEN)


def put(task: dict[str, Any], target: str, value: Any) -> None:
    """Set a value at a place of a task, such as `evalflow.deploy.port`."""
    *path, last = target.split(".")
    for step in path:
        task = task.setdefault(step, {})
    task[last] = value
