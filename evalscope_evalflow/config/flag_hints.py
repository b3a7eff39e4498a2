"""What to write in a task file in place of a flag of the command.

The command has flags; YAML and Python have the section's own keys. A flag's name in the section is an error, and
says which key is meant. The table is here, not with the flags, as the configuration knows nothing of the command;
a test holds it against `cli.flags.FLAGS`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from evalscope_evalflow.errors import Problem

SECTION = "evalflow"

# Where a flag's value goes in a task file. `[]` stands for an item of a list. What starts with `evalflow.` is in the
# section; all else is a field of EvalScope's own, beside the section. A flag that is spelled like its key is left out.
FLAG_PLACES: dict[str, tuple[str, ...]] = {
    "conda_env": ("evalflow.deploy.env",),
    "dataset_args": ("dataset_args",),
    "datasets": ("datasets",),
    "deploy_backend": ("evalflow.deploy.engine",),
    "env_vars": ("evalflow.deploy.env_vars",),
    "eval_adapter_path": ("evalflow.models[].adapter",),
    "eval_api_key": ("evalflow.deploy.api_key", "evalflow.models[].api_key"),
    "eval_backend": ("evalflow.backend",),
    "eval_devices": ("evalflow.deploy.devices",),
    "eval_host": ("evalflow.deploy.host",),
    "eval_max_model_length": ("evalflow.deploy.max_model_len",),
    "eval_max_new_tokens": ("generation_config.max_tokens",),
    "eval_max_num_seqs": ("evalflow.deploy.max_num_seqs",),
    "eval_model_name": ("evalflow.models[].name",),
    "eval_model_path": ("evalflow.models[].path",),
    "eval_port": ("evalflow.deploy.port",),
    "eval_temperature": ("generation_config.temperature",),
    "eval_template": ("evalflow.deploy.chat_template",),
    "export": ("evalflow.exporters",),
    "extra_args": ("evalflow.deploy.extra_args",),
    "judge_api_key": ("judge.models[].api_key",),
    "judge_api_url": ("judge.models[].api_url",),
    "judge_model_name": ("judge.models[].model_id",),
    "judge_model_path": ("evalflow.judge.path",),
    "limit": ("limit",),
    "remote_api_url": ("evalflow.models[].api_url",),
    "reuse_accept": ("evalflow.reuse.accept",),
    "vlmevalkit_mode": ("evalflow.mode",),
    "work_dir": ("work_dir",),
}
# Flags of the command alone: they say nothing about the task.
COMMAND_ONLY = ("json",)


def flag_hint(name: str) -> tuple[str, str] | None:
    """What is wrong with a flag's name as a key of the section, and what to write; None: it is no flag's name.

    Args:
        name: the key, with underscores.
    """
    if name in COMMAND_ONLY:
        return f"is a flag of the command (--{name}), not a key of the section", "Remove it here."
    places = FLAG_PLACES.get(name)
    if places is None:
        return None
    if places == (name,):
        return "is a field of the task, not a key of the section", f"{_instead(name)}"
    forms = [_instead(place) for place in places]
    if len(forms) > 1:
        forms = [f"For a model that is deployed: {forms[0]}", f"For an API: {forms[1]}"]
    return f"is a flag of the command (--{name}), not a key of the section", " ".join(forms)


def misplaced(data: Mapping[Any, Any], section_keys: Collection[str]) -> Iterator[Problem]:
    """Keys of a task that belong elsewhere: flags of the command, and keys of the section beside it.

    Args:
        data: a task, as a file holds it.
        section_keys: the keys of the section.
    """
    for key in data:
        name = str(key).replace("-", "_")
        places = FLAG_PLACES.get(name, ())
        if name in COMMAND_ONLY:
            yield Problem(str(key), f"is a flag of the command (--{name}), not a key of a task", "Remove it here.")
        elif name in section_keys and name not in ("dry_run", "judge"):  # EvalScope has these names, too
            yield Problem(str(key), "is a key of the section", f"Write it in `{SECTION}`: {SECTION}: {{{name}: …}}.")
        elif places and places != (name,) and name != "eval_backend":
            forms = [f"`{_as_yaml(place)}`" for place in places]
            todo = f"Write {' or '.join(forms)}."
            yield Problem(str(key), f"is a flag of the command (--{name}), not a key of a task", todo)


def _instead(place: str) -> str:
    inside = place.removeprefix(f"{SECTION}.")
    where = "" if inside != place else f" beside `{SECTION}`, not in it"
    return f"Write `{_as_yaml(inside)}`{where}."


def _as_yaml(place: str) -> str:
    """`models[].path` as it is written in YAML: `models: [{path: …}]`."""
    first, _, rest = place.partition(".")
    key = first.removesuffix("[]")
    if not rest:
        return f"{key}: […]" if first.endswith("[]") else f"{key}: …"
    inner = f"{{{_as_yaml(rest)}}}"
    return f"{key}: [{inner}]" if first.endswith("[]") else f"{key}: {inner}"
