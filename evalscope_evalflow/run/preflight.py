"""What can be known before anything is started: all problems at once, each with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.config import ModelConfig, keys
from evalscope_evalflow.config.model_name import LONGEST, is_name
from evalscope_evalflow.config.own_judge import judge_deploy
from evalscope_evalflow.config.task import Task, safe_name
from evalscope_evalflow.devices.nvml import cached_reads
from evalscope_evalflow.devices.placement_check import check_placement
from evalscope_evalflow.engines import check_engine, resolve_engine, version_note
from evalscope_evalflow.engines.remote import is_url
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.run import host_checks
from evalscope_evalflow.run.foreign_folders import foreign_folder, foreign_links
from evalscope_evalflow.run.resume import Survey, asks_own_judge, check_there_is_something_to_judge
from evalscope_evalflow.run.saved_identity import identities, refusals
from evalscope_evalflow.run.saved_identity import notes as identity_notes
from evalscope_evalflow.run.url_parts import UrlParts
from evalscope_evalflow.serving import check_api


def preflight(
    task: Task,
    log: Callable[[str], None] | None = None,
    survey: Survey | None = None,
    *,
    on_this_machine: bool = True,
) -> list[str]:
    """Check a task.

    Args:
        task: it.
        log: is called with a line when something takes longer than a moment.
        survey: is filled with what is left to do; default: one that is forgotten.
        on_this_machine: whether engines will run here; if not, this machine's devices and ports do not matter.

    Returns:
        What is no obstacle, but should be known.

    Raises:
        ConfigError: with every problem found; nothing was started.
    """
    notes: list[str] = []
    survey = survey or Survey(task)
    with cached_reads():
        problems = list(_problems(task, notes.append, log, survey, on_this_machine))
    if not problems:  # asking an API costs seconds, and perhaps money
        problems = list(_api_problems(task, notes.append, survey))
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return list(dict.fromkeys(notes))


def _problems(
    task: Task, notify: Callable[[str], None], log: Callable[[str], None] | None, survey: Survey, on_this_machine: bool
) -> Iterator[Problem]:
    unusable = list(_names_of_no_file(task))
    yield from unusable
    if unusable:
        return  # the checks to come look for files of these names
    yield from host_checks.check_folder(task.work_dir, notify)
    yield from foreign_folder(task.work_dir)
    for model in task.models:
        yield from foreign_links(task.folder(model), safe_name(model.name))
    known = False
    try:
        backend = load_backend(task.flow.backend)
        yield from backend.check(task)
        yield from backend.check_data(task, notify)
        known = True
    except ConfigError as error:
        yield from error.problems
    seen: set[str] = set()
    for model in task.models:
        if known:
            saved = backend.look(task, model)
            found = identities(task, model, saved)
            refused = list(refusals(saved, found))
            yield from refused
            for note in identity_notes(saved, found):
                notify(note)
            if task.flow.mode == "judge":
                yield from check_there_is_something_to_judge(task, model, saved)
            # With another folder, which is what a refusal asks for, everything would be asked.
            if "infer" not in survey.remaining(model, saved).phases and not (refused and task.flow.mode != "judge"):
                continue
        elif task.flow.mode == "judge":
            yield from check_there_is_something_to_judge(task, model)
        try:
            deploy = task.flow.deploy_for(model)
            engine = resolve_engine(model, deploy)
            keys.reveal(deploy.api_key if engine.local else model.api_key, f"model {model.name}, api_key")
        except ConfigError as error:
            yield from error.problems
            continue
        yield from check_engine(engine, model, deploy, log, seen)
        unchecked = version_note(engine, deploy)
        if unchecked:
            notify(unchecked)
        if engine.local and on_this_machine:
            yield from check_placement(engine, model, deploy, notify)
            yield from host_checks.check_port(deploy, notify)
    if task.flow.judge is not None:
        if task.flow.mode != "infer" and any(asks_own_judge(task, survey.remaining(model)) for model in task.models):
            yield from _own_judge_problems(task, notify, log, seen)
        elif task.flow.mode != "infer" and any(survey.remaining(model).phases for model in task.models):
            notify("judge: it is not needed, as no verdict is missing that it would give")
        return
    for number, judge in enumerate(judges(task) if task.flow.mode != "infer" else ()):
        where = f"judge.models.{number}"
        if not isinstance(judge, Mapping):
            yield Problem(where, "is no mapping", "It has model_id, api_url and api_key.")
            continue
        if not judge.get("model_id"):
            yield Problem(f"{where}.model_id", "none is given", "Name the judge's model.")
        if not judge.get("api_url"):
            yield Problem(f"{where}.api_url", "none is given", "Set it: EvalScope would ask a public host instead.")
        elif not is_url(str(judge["api_url"])):
            what = f"{judge['api_url']} is no URL"
            yield Problem(f"{where}.api_url", what, "It looks like https://api.example.com/v1.")
        try:
            keys.reveal(keys.protect(judge.get("api_key")), f"{where}.api_key")
        except ConfigError as error:
            yield from error.problems


def _names_of_no_file(task: Task) -> Iterator[Problem]:
    """Names of datasets and subsets, by which files are called, that would lead out of the run folder."""
    for name in task.datasets:
        if not is_name(name):
            yield Problem("datasets", f"{name[:LONGEST]!r} is no name for a dataset: files are called by it")
    settings = task.stock.get("dataset_args")
    for dataset, given in settings.items() if isinstance(settings, Mapping) else ():
        subsets = given.get("subset_list") if isinstance(given, Mapping) else None
        for subset in subsets if isinstance(subsets, (list, tuple)) else ():
            if isinstance(subset, str) and not is_name(subset):
                where = f"dataset_args.{dataset}.subset_list"
                yield Problem(where, f"{subset[:LONGEST]!r} is no name for a subset: files are called by it")


def _own_judge_problems(
    task: Task, notify: Callable[[str], None], log: Callable[[str], None] | None, seen: set[str]
) -> Iterator[Problem]:
    """What is wrong with the judge that is to be deployed: it is checked as a model is."""
    model, deploy = task.flow.judge, judge_deploy(task.flow)
    assert model is not None
    found: list[Problem] = []
    try:
        engine = resolve_engine(model, deploy)
        keys.reveal(deploy.api_key, "judge, deploy.api_key")
    except ConfigError as error:
        found += error.problems
    else:
        found += check_engine(engine, model, deploy, log, seen)
        unchecked = version_note(engine, deploy)
        if unchecked:
            notify(f"judge: {unchecked}")
        found += check_placement(engine, model, deploy, lambda text: notify(f"judge: {text}"))
        found += host_checks.check_port(deploy, notify)
    for problem in found:
        what = problem.what if "judge" in problem.what else f"of the judge {model.name}: {problem.what}"
        yield Problem(problem.where, what, problem.todo)


def _api_problems(task: Task, notify: Callable[[str], None], survey: Survey) -> Iterator[Problem]:
    for model in task.models:
        if survey.asks(model) and not resolve_engine(model, task.flow.deploy_for(model)).local:
            yield from _ask(f"model {model.name}", model, notify)
    for model in task.models:
        try:
            UrlParts(model.api_url).taken_from(task.stock)
        except ConfigError as error:
            yield from error.problems
    if not any(survey.remaining(model).verdicts for model in task.models):
        return  # no judge is asked today
    if task.flow.judge is not None:
        return
    for number, judge in enumerate(judges(task)):
        where = f"judge.models.{number}"
        api = ModelConfig.parse(
            {"name": judge["model_id"], "api_url": judge["api_url"], "api_key": judge.get("api_key")}, where
        )
        yield from _ask(where, api, notify)


def _ask(where: str, api: ModelConfig, notify: Callable[[str], None]) -> Iterator[Problem]:
    assert api.api_url is not None
    found = check_api(where, api.api_url, keys.reveal(api.api_key), api.served_name, notify)
    if found:
        yield found


def judges(task: Task) -> list[dict[str, Any]]:
    """The judges that the task names."""
    models = (task.stock.get("judge") or {}).get("models") or []
    return [models] if isinstance(models, dict) else list(models)
