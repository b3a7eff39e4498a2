"""What an engine is: it says how it is run and what its words mean; it knows no process.

A new engine is one file with a subclass of `Engine`, and an entry point in the group `evalflow.engines`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from evalscope_evalflow.config import AUTO, DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.install_hint import install_command
from evalscope_evalflow.config.keys import is_secret_name, reveal
from evalscope_evalflow.engines.checkpoints.memory import Demand, Memory, demand
from evalscope_evalflow.errors import ConfigError, Problem

INTERFACE_VERSION = 2  # 1: EvalFlow 0.1


@dataclass(frozen=True)
class Address:
    """Where a local engine shall listen, and the key that it shall ask for."""

    host: str
    port: int
    api_key: str | None

    @property
    def root(self) -> str:
        """URL without a path, such as `http://127.0.0.1:8000`."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


@dataclass(frozen=True)
class Command:
    """How to run an engine.

    Attributes:
        argv: the program and its arguments. Other users can read these: no keys.
        env: variables to set on top of the environment that the engine lives in.
        secrets: names of those variables that hold keys.
    """

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True)
class LogPattern:
    """A line of an engine's log that explains why it stopped.

    Attributes:
        pattern: regular expression; the last match in the log counts.
        cause: one line; `{0}` is the first group that matched, or the whole match.
        hint: what the user can do.
        retryable: whether the same start may succeed a moment later; it is then tried again, three times in all.
    """

    pattern: str
    cause: str
    hint: str
    retryable: bool = False

    def explain(self, log: str) -> tuple[str, str] | None:
        """(cause, hint) if the log has such a line."""
        matches = list(re.finditer(self.pattern, log, re.MULTILINE))
        if not matches:
            return None
        match = matches[-1]
        found = next((group for group in match.groups() if group), match.group(0)).strip()
        return self.cause.format(found[:300]), self.hint


@dataclass(frozen=True)
class Counters:
    """Where an engine says what it is doing: names of its Prometheus metrics at `/metrics`.

    Attributes:
        in_flight: gauges whose sum is the number of requests that it works at, or that wait for it.
        progress: what moves while it works, in the middle of an answer too.
    """

    in_flight: tuple[str, ...]
    progress: tuple[str, ...]


@dataclass(frozen=True)
class ParserSource:
    """Where the parser of an engine's command line is found, for checking `extra_args`.

    Attributes:
        target: "package.module:function" that parses `sys.argv`, or the path of a script that does.
        subcommand: the words before its options, such as `("serve",)`.
        distribution: the package whose version decides which options there are; empty: the script itself does.
        lenient: whether it takes underscores for dashes, and `--option.key value` for JSON, as vLLM does.
    """

    target: str
    subcommand: tuple[str, ...] = ()
    distribution: str = ""
    lenient: bool = False


def absolute(path: str) -> str:
    """A path as an engine needs it, which runs in a folder of its own; what is no file here (a hub id) as it is."""
    full = os.path.abspath(os.path.expanduser(path))
    return full if os.path.exists(full) else path


def parallel(deploy: DeployConfig) -> tuple[int, int]:
    """(tensor parallel, data parallel) sizes; what nobody has decided: the devices that are named, in one replica."""
    replicas = deploy.replicas
    if deploy.tensor_parallel != AUTO:
        return deploy.tensor_parallel, replicas
    devices = len(deploy.devices.split(",")) if deploy.devices else 1
    return max(1, devices // replicas), replicas


def check_template(deploy: DeployConfig, inline: bool = False) -> Iterable[Problem]:
    """Whether the chat template is a Jinja file; `inline`: it may be the template itself."""
    template = deploy.chat_template
    if not template or (inline and "{" in template):
        return
    where, todo = "deploy.chat_template", "Give the path of a Jinja file."
    shown = shown_template(template)
    path = os.path.expanduser(template)
    if os.path.isdir(path):
        yield Problem(where, f"{shown} is a folder", todo)
    elif not os.path.isfile(path):
        names = "" if os.sep in template or "." in template else " Names of templates are for lmdeploy and sglang."
        yield Problem(where, f"{shown} does not exist", todo + names)
    elif template.lower().endswith(".json") or holds_json(path):
        yield Problem(where, f"{shown} is a JSON file", f"{todo} JSON is for lmdeploy and sglang.")


def shown_template(template: str) -> str:
    """How a message names a chat template: a path whole, of a template that is given as text its beginning."""
    line = template.splitlines()[0]
    return line[:80] if "{" in template else line


def holds_json(path: str) -> bool:
    """Whether a file holds a JSON object, whatever its name."""
    try:
        with open(path, encoding="utf-8") as file:
            return isinstance(json.load(file), dict)
    except (OSError, ValueError):
        return False


class Engine(ABC):
    """A kind of inference server.

    Attributes:
        interface_version: version of this interface that the engine was written for; declare it as a number.
        name: as in `deploy.engine`.
        local: whether there is something to start.
        modules: Python modules that the engine's environment must have, extras included.
        requirement: what pip installs in an environment that lacks them, such as "transformers[serving]>=5";
            default: the first of `modules`.
        distribution: the installed package whose version is the engine's, such as "vllm"; empty: it has none.
        extra: extra of EvalFlow's own package that installs it beside EvalFlow; empty: there is none.
        install: how to install it beside EvalFlow, if neither `extra` nor `requirement` says so.
        health_path: path that answers 200 once the server can be used; None: it has none, and `/v1/models` is asked.
        default_max_num_seqs: sequences served at once unless `deploy.max_num_seqs` says otherwise.
        needs_idle_devices: whether it takes nearly all the memory of its devices, and so cannot share them.
        needs_gpu: whether it stops at its start on a machine without an accelerator (where `uses_devices` holds).
        spreads: what of a model it shares out over devices: the heads of each layer (tensor parallelism), or the
            layers, as far as there is room, the rest being left to the CPU.
        replicates: which models it serves in several replicas behind one address (data parallelism): none of them,
            dense ones (a mixture of experts would be shared out over its replicas), or any.
        log_patterns: what lines of its log mean, the most specific first.
        counters: metrics that show whether it makes progress; None: its CPU time is all that shows it.
        parser: where its options are found; None: they are not checked.
        reserved_options: options that EvalFlow sets, and the setting to use in place of each in `extra_args`.
        reserved_variables: environment variables that EvalFlow sets, and the setting to use in place of each.
    """

    interface_version: ClassVar[int] = INTERFACE_VERSION
    name: ClassVar[str]
    local: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = ()
    requirement: ClassVar[str] = ""
    distribution: ClassVar[str] = ""
    extra: ClassVar[str] = ""
    install: ClassVar[str] = ""
    health_path: ClassVar[str | None] = "/health"
    default_max_num_seqs: ClassVar[int] = 200
    needs_idle_devices: ClassVar[bool] = True
    needs_gpu: ClassVar[bool] = False
    spreads: ClassVar[Literal["heads", "layers"]] = "heads"
    replicates: ClassVar[Literal["none", "dense", "any"]] = "none"
    log_patterns: ClassVar[Sequence[LogPattern]] = ()
    counters: ClassVar[Counters | None] = None
    parser: ClassVar[ParserSource | None] = None
    reserved_options: ClassVar[Mapping[str, str]] = {}
    reserved_variables: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def check(self, model: ModelConfig, deploy: DeployConfig) -> Iterable[Problem]:
        """What is wrong with this model and these settings, as far as files tell; starts nothing."""

    def command(self, model: ModelConfig, deploy: DeployConfig, address: Address, env: Environment) -> Command:
        """How to run it. Only local engines have an answer."""
        raise NotImplementedError(self.name)

    def max_num_seqs(self, deploy: DeployConfig) -> int:
        """Sequences served at once."""
        return deploy.max_num_seqs or self.default_max_num_seqs

    def uses_devices(self, deploy: DeployConfig) -> bool:
        """Whether it can use GPUs at all, as it is built in its environment; nothing is run."""
        return True

    def memory(self, deploy: DeployConfig) -> Memory:
        """What it does with a device's memory."""
        return Memory()

    def demand(self, model: ModelConfig, deploy: DeployConfig) -> Demand:
        """What serving this model takes; files are read, but no weights."""
        return demand(model.path, deploy.max_model_len, self.memory(deploy))

    def version(self, env: Environment) -> str | None:
        """The version of the engine in an environment; None if it is unknown. Nothing is run or imported."""
        return env.version_of(self.distribution) if self.distribution else None

    def check_keys(self, deploy: DeployConfig) -> Iterable[Problem]:
        """No key may stand in an argument, where every user of the machine can read it."""
        for word in deploy.extra_args:
            name = word.split("=")[0]
            if name.startswith("-") and is_secret_name(name.lstrip("-").removesuffix("s")):
                yield Problem("deploy.extra_args", f"{name} has no place here: others could read it", "Set api_key.")
        for name, value in deploy.env_vars.items():
            try:
                reveal(value, f"deploy.env_vars.{name}")
            except ConfigError as error:
                yield from error.problems

    def install_command(self, env: Environment) -> str:
        """How to install it in an environment that lacks it."""
        if env.own and self.extra:
            return install_command(self.extra)
        if env.own and self.install:
            return self.install
        return f"{env.installer} {shlex.quote(self.requirement or self.modules[0])}"

    def check_installed(self, deploy: DeployConfig) -> Iterable[Problem]:
        """Whether the engine's module is in its environment."""
        if not self.local:
            return
        try:
            env = Environment.find(deploy.env)
        except FileNotFoundError as error:
            todo = "Give a conda prefix or its name, a venv, a uv environment, or an interpreter."
            yield Problem("deploy.env", str(error), todo)
            return
        why = next(filter(None, map(env.why_no_module, self.modules)), None)
        if why:
            yield Problem(
                "deploy.engine",
                f"{self.name} is not installed in {env.prefix}: {why}",
                f"{self.install_command(env)}, or name the environment that has it: `deploy.env` (--conda_env).",
            )
