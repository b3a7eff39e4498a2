"""When an engine that runs is the same as one that is wanted."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.keys import reveal
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.engines import Engine
from evalscope_evalflow.engines.checkpoints.weight_family import Family, family

Identity = Mapping[str, str]
NAME = "the model's name"
PATH = "the model's path"
CHECKPOINT = "the checkpoint"
FAMILY = "all but the weights"  # of its checkpoint; only where weights may be replaced
# How long an engine is kept, waited for or started again: it is the same engine all the while.
_PATIENCE = {"keep_alive_s", "max_restarts", "stall_timeout_s"}
# Of the environment: what says where a shell is, and not what a program does.
_SHELL = {"PWD", "OLDPWD", "SHLVL", "_", "LINES", "COLUMNS"}


def identity(engine: Engine, model: ModelConfig, deploy: DeployConfig) -> Identity:
    """What makes an engine the same as one that was started earlier, by name; hashes, as there are keys in it.

    It is of what was asked for, not of the devices that were chosen for it then: with `auto`, others would be chosen
    now, just because it holds those. All that the command depends on is in it: every setting, every variable, the
    files that the settings name, and the packages of the engine's environment.
    """
    env = Environment.find(deploy.env)
    related: Family = Family()
    if deploy.swap != "never" and not engine.can_swap(env):
        related = family(engine, model, deploy)
    settings = deploy.model_dump(exclude={*_PATIENCE, "api_key", "env_vars", "engine"})
    variables = {**env.variables(os.environ), **{name: reveal(value, name) for name, value in deploy.env_vars.items()}}
    found: dict[str, object] = {
        "the engine": f"{type(engine).__module__}.{type(engine).__qualname__}",
        NAME: model.engine_name,
        PATH: model.path and os.path.abspath(os.path.expanduser(model.path)),
        CHECKPOINT: _files(model.path),
        "the adapters": {name: _files(path) for name, path in model.served_adapters.items()},
        "the environment": str(env.python),
        "its packages": [_stamp(path) for path in sorted(env.prefix.glob("lib/python*/site-packages"))],
        "the key": reveal(deploy.api_key, "api_key"),
        **({FAMILY: related.key} if related else {}),
        **{f"deploy.{name}": value for name, value in settings.items()},
        **{f"the file {word}": _files(word) for word in _paths(deploy)},
        **{f"the variable {name}": value for name, value in variables.items() if name not in _SHELL},
    }
    return {name: _hash(value) for name, value in found.items()}


def differ_in_weights_alone(one: Identity, other: Identity) -> bool:
    """Whether an engine that has the one identity may take weights to have the other."""
    return FAMILY in one and set(differences(one, other)) <= {NAME, PATH, CHECKPOINT}


def differences(one: Identity, other: Identity) -> list[str]:
    """What differs, in words."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def _paths(deploy: DeployConfig) -> Iterator[str]:
    """What of the settings may be the path of a file."""
    for word in (deploy.chat_template or "", *deploy.extra_args):
        for part in (word, word.partition("=")[2]):
            if os.sep in part and os.path.exists(os.path.expanduser(part)):
                yield part


def _files(path: str | None) -> list[str]:
    """Each file there by inode, size and times. Stricter than the fingerprint of answers, which may be moved."""
    root = user_path(path) if path else None
    if root is None or not os.path.exists(root):
        return []
    files = sorted(file for file in root.iterdir() if os.path.isfile(file)) if os.path.isdir(root) else [root]
    return [_stamp(file) for file in files]


def _stamp(path: Path) -> str:
    found = path.stat()
    return f"{path.name} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
