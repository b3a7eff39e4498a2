"""What an engine is: it says how it is run and what its words mean; it knows no process.

A new engine is one file with a subclass of `Engine`, and an entry point in the group `evalflow.engines`.
"""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from evalscope_evalflow.config import AUTO, DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.keys import is_secret_name, reveal
from evalscope_evalflow.engines.checkpoints.memory import Demand, Memory, demand
from evalscope_evalflow.errors import ConfigError, Problem


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
class Rule:
    """A line of an engine's log that tells why it stopped.

    Attributes:
        pattern: regular expression, searched from the end of the log.
        cause: one line; `{0}` is the first group that matched, or the match.
        hint: what the user can do.
        again: a start that ends so may go well a moment later: it is tried again, a few times.
    """

    pattern: str
    cause: str
    hint: str
    again: bool = False

    def apply(self, log: str) -> tuple[str, str] | None:
        """(cause, hint) if the log holds the line."""
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
        words: its subcommand.
        distribution: the package whose version decides which options there are; empty: the script itself does.
        lenient: whether it takes underscores for dashes, and `--option.key value` for JSON, as vLLM does.
    """

    target: str
    words: tuple[str, ...] = ()
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
        name: as in `deploy.engine`.
        local: whether there is something to start.
        module: the Python module that has to be installed in the engine's environment.
        install: how to install it here, for the message that it is missing.
        package: what to install in another environment; default: of the module's name.
        default_max_num_seqs: sequences served at once where nothing is said.
        needs_idle_devices: whether it takes nearly all the memory of its devices, and so cannot share them.
        spreads: what of a model it shares out over devices: the heads of each layer (tensor parallelism), or the
            layers, as far as there is room, the rest being left to the CPU.
        replicates: which models it serves in several replicas behind one address (data parallelism): none of them,
            dense ones (a mixture of experts would be shared out over its replicas), or any.
        rules: what lines of its log mean, the most telling first.
        counters: how to see that it works; None: only by its CPU time.
        parser: where its options are found; None: they are not checked.
        settings: options that have a setting of ours, which says what `extra_args` must not.
        variables: environment variables that have one.
    """

    name: ClassVar[str]
    local: ClassVar[bool] = True
    module: ClassVar[str] = ""
    install: ClassVar[str] = ""
    package: ClassVar[str] = ""
    default_max_num_seqs: ClassVar[int] = 200
    needs_idle_devices: ClassVar[bool] = True
    spreads: ClassVar[Literal["heads", "layers"]] = "heads"
    replicates: ClassVar[Literal["none", "dense", "any"]] = "none"
    rules: ClassVar[Sequence[Rule]] = ()
    counters: ClassVar[Counters | None] = None
    parser: ClassVar[ParserSource | None] = None
    settings: ClassVar[Mapping[str, str]] = {}
    variables: ClassVar[Mapping[str, str]] = {}

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
        why = env.why_no_module(self.module) if self.module else None
        if why:
            install = self.install if env.own else f"{env.installer} {self.package or self.module}"
            yield Problem(
                "deploy.engine",
                f"{self.name} is not installed in {env.prefix}: {why}",
                f"{install}, or name the environment that has it: `deploy.env` (--conda_env).",
            )
