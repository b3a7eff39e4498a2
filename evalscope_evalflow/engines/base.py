"""What an engine is: it says how it is run and what its words mean; it knows no process.

A new engine is one file with a subclass of `Engine`, and an entry point in the group `evalflow.engines`.
"""

from __future__ import annotations

import os
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from evalscope_evalflow.config import AUTO, DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment, version_in
from evalscope_evalflow.config.install_hint import install_command
from evalscope_evalflow.config.keys import reveal
from evalscope_evalflow.config.secret_names import is_secret_name
from evalscope_evalflow.engines.checkpoints import checkpoint_folder
from evalscope_evalflow.engines.checkpoints.memory import Demand, Memory, demand
from evalscope_evalflow.engines.launchers import ImportsAhead
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.events import any_json

INTERFACE_VERSION = 2  # 1: EvalFlow 0.1
# Settings of `deploy` that mean something to some engines only.
HONOURABLE = ("devices", "tensor_parallel", "data_parallel", "max_model_len", "chat_template")
KEY_VARIABLE = "EVALFLOW_ENGINE_API_KEY"  # key_launcher.py reads it
CONTROL_VARIABLE = "EVALFLOW_ENGINE_CONTROL"  # and this


@dataclass(frozen=True)
class Address:
    """Where a local engine shall listen, and the keys that it shall ask for.

    Attributes:
        host: the address of an interface.
        port: the port.
        api_key: the model's key; None: there is none.
        control: SHA-256 of the key for all that is not inference, such as replacing its weights; empty: nobody may.
    """

    host: str
    port: int
    api_key: str | None
    control: str = ""

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
        fallback: whether it counts only where the log has no other cause and no error of its own, as what a process
            says that only lost another one. Routine lines (`Engine.log_routine`) are searched for it as well.
        device_memory: whether it is for lack of a device's memory: who holds that is then added to the hint.
    """

    pattern: str
    cause: str
    hint: str
    retryable: bool = False
    fallback: bool = False
    device_memory: bool = False

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
    """Where the argparse parser of an engine's command line is found, for checking `extra_args` without a start.

    The program is run in the engine's environment up to the point where it would parse its arguments. One that uses
    something else (click, Typer) cannot be read: its engine has no `parser`, and says itself what it does not take.

    Attributes:
        target: "package.module:function" that parses `sys.argv` with argparse, "package.module" that does when it is
            run as with `python -m`, or the path of a script that does.
        subcommand: the words before its options, such as `("serve",)`.
    """

    target: str
    subcommand: tuple[str, ...] = ()


def absolute_path(path: str) -> str:
    """A path as an engine needs it, which runs in a folder of its own.

    What is no file here stays as it is: the name of a model on a hub, or a template's name or text.
    """
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
        return isinstance(any_json.load_file(path, any_json.MOST_BYTES), dict)
    except (OSError, ValueError):
        return False


class Engine(ABC):
    """A kind of inference server.

    Attributes:
        interface_version: version of this interface that the engine was written for; declare it as a number.
        name: as in `deploy.engine`.
        local: whether there is something to start.
        imports_ahead: what it imports before it touches a device; None: it is not started ahead of its turn.
        modules: Python modules that the engine's environment must have, extras included.
        requirement: what pip installs in an environment that lacks them, such as "transformers[serving]>=5";
            default: the first of `modules`.
        distribution: the installed package whose version is the engine's, such as "vllm"; empty: it has none.
        checked_versions: the oldest and the newest version that it was checked against, such as ("0.26", "0.33");
            others are served all the same, with a note. None: nobody says.
        extra: extra of EvalFlow's own package that installs it beside EvalFlow; empty: there is none.
        install: how to install it beside EvalFlow, if neither `extra` nor `requirement` says so.
        honours: settings of `deploy` that change its command or environment, of `HONOURABLE`. Any other of these
            that the user sets is refused, as it would have no effect.
        health_path: path that answers 200 once the server can be used; None: it has none, and `/v1/models` is asked.
        default_max_num_seqs: sequences served at once unless `deploy.max_num_seqs` says otherwise.
        needs_idle_devices: whether it takes nearly all the memory of its devices, and so cannot share them.
        reserves_context: whether it allocates the whole context of every sequence at its start, so that a long default
            would cost memory at once; it then has a default of its own.
        needs_gpu: whether it stops at its start on a machine without an accelerator (where `uses_devices` holds).
        spreads: what of a model it shares out over devices: the heads of each layer (tensor parallelism), or the
            layers, as far as there is room, the rest being left to the CPU.
        replicates: which models it serves in several replicas behind one address (data parallelism): none of them,
            dense ones (a mixture of experts would be shared out over its replicas), or any.
        most_adapter_rank: the largest rank of a LoRA adapter (`adapter` of a model) that it serves; 0: it serves none.
        shares_adapters: whether it serves several adapters of a base at once, each asked by its own name.
        log_patterns: what lines of its log mean, the most specific first.
        log_prefix: regular expression of what its processes put before each line of the log; it is dropped before the
            log is searched or shown. Empty: nothing.
        log_routine: regular expression of the beginning of lines that every good start may have, such as those of
            level INFO and WARNING, with their prefix: no cause is looked for in them. Empty: there are none.
        counters: metrics that show whether it makes progress; None: its CPU time is all that shows it.
        parser: where its options are found; None: they are not checked.
        reserved_options: options that EvalFlow sets, and the setting to use in place of each in `extra_args`.
        reserved_variables: environment variables that EvalFlow sets, and the setting to use in place of each.
        neutral_options: options of `extra_args` that are known not to affect its answers (log levels, cache folders,
            shares of memory); all others count: with another value of them, saved answers are not reused. `*` stands
            for any characters.
        parallel_options: those that share the work out over devices or steps. They change answers only as another
            batch size does, and so are recorded with the answers, and are no obstacle.
        neutral_variables: environment variables that are known not to affect its answers, likewise.
        variable_prefixes: its own environment variables, such as "VLLM_*": what the shell sets of them counts like
            `env_vars`.
    """

    interface_version: ClassVar[int] = INTERFACE_VERSION
    name: ClassVar[str]
    local: ClassVar[bool] = True
    imports_ahead: ClassVar[ImportsAhead | None] = None
    modules: ClassVar[tuple[str, ...]] = ()
    requirement: ClassVar[str] = ""
    distribution: ClassVar[str] = ""
    checked_versions: ClassVar[tuple[str, str] | None] = None
    extra: ClassVar[str] = ""
    install: ClassVar[str] = ""
    honours: ClassVar[frozenset[str]] = frozenset()
    health_path: ClassVar[str | None] = "/health"
    default_max_num_seqs: ClassVar[int] = 200
    needs_idle_devices: ClassVar[bool] = True
    reserves_context: ClassVar[bool] = False
    needs_gpu: ClassVar[bool] = False
    spreads: ClassVar[Literal["heads", "layers"]] = "heads"
    replicates: ClassVar[Literal["none", "dense", "any"]] = "none"
    most_adapter_rank: ClassVar[int] = 0
    shares_adapters: ClassVar[bool] = False
    log_patterns: ClassVar[Sequence[LogPattern]] = ()
    log_prefix: ClassVar[str] = ""
    log_routine: ClassVar[str] = ""
    counters: ClassVar[Counters | None] = None
    parser: ClassVar[ParserSource | None] = None
    reserved_options: ClassVar[Mapping[str, str]] = {}
    reserved_variables: ClassVar[Mapping[str, str]] = {}
    neutral_options: ClassVar[Sequence[str]] = ()
    parallel_options: ClassVar[Sequence[str]] = ()
    neutral_variables: ClassVar[Sequence[str]] = ()
    variable_prefixes: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def check(self, model: ModelConfig, deploy: DeployConfig) -> Iterable[Problem]:
        """What is wrong with this model and these settings, as far as files tell; starts nothing."""

    def command(self, model: ModelConfig, deploy: DeployConfig, address: Address, env: Environment) -> Command:
        """How to run it; only local engines implement it. It is called by `command_of`, which prepares the arguments.

        The server has to listen at `address` only, to ask for `address.api_key` if there is one (not as an argument),
        to serve the model as `model.name`, and to sample as requests say: defaults that a checkpoint brings in its
        generation_config.json must not apply. `deploy.extra_args` come last, as they are.

        Args:
            model: the model; its path is absolute if it exists on this machine.
            deploy: the settings, with devices and parallelism decided; the path of a chat template is absolute.
            address: where to listen, and the key.
            env: the environment that has the engine.
        """
        raise NotImplementedError(self.name)

    def max_num_seqs(self, deploy: DeployConfig) -> int:
        """Sequences served at once."""
        return deploy.max_num_seqs or self.default_max_num_seqs

    def uses_devices(self, deploy: DeployConfig) -> bool:
        """Whether it can use GPUs at all, as it is built in its environment; nothing is run."""
        return "devices" in self.honours

    def context_length(self, model: ModelConfig, deploy: DeployConfig) -> int | None:
        """The tokens of context that it serves the model with, where they are set or can be read from its files."""
        if deploy.max_model_len or not model.path or "max_model_len" not in self.honours:
            return deploy.max_model_len
        return checkpoint_folder.context_length(model.path)

    def can_swap(self, env: Environment) -> str:
        """Why it cannot take another checkpoint's weights while it runs, in this environment; empty: it can.

        An engine that can gets `Address.control`, and answers at `/evalflow/…` (see `engines/inside/`).
        """
        return "has no way to replace its weights"

    def why_no_swap(self, deploy: DeployConfig) -> str:
        """What of the settings speaks against replacing its weights, as a clause; empty: nothing does."""
        return ""

    def memory(self, deploy: DeployConfig) -> Memory:
        """What it does with a device's memory."""
        return Memory()

    def demand(self, model: ModelConfig, deploy: DeployConfig) -> Demand:
        """What serving this model takes; files are read, but no weights."""
        return demand(model.path, deploy.max_model_len, self.memory(deploy))

    def dist_info(self, env: Environment) -> Path | None:
        """The metadata folder of the engine's distribution in an environment; None if it is not found there."""
        return env.dist_info(self.distribution) if self.distribution else None

    def version(self, env: Environment) -> str | None:
        """The version of the engine in an environment; None if it is unknown. Nothing is run or imported."""
        found = self.dist_info(env)
        return version_in(found) if found else None

    def why_answers_differ(self, deploy: DeployConfig) -> str:
        """Why the same question may have another answer in the next run, at temperature 0; empty: no reason is known.

        It is a clause, such as "turbomind's answers differ from run to run at temperature 0". Where a run goes on from
        saved answers, it is shown and recorded.
        """
        return ""

    def base_beside_adapters(self, deploy: DeployConfig) -> bool:
        """Whether the base's answers are known to be the same, digit by digit, where its engine serves adapters too.

        If not, the base of a sweep's adapters has an engine of its own.
        """
        return False

    def normalise_argument(self, word: str) -> str:
        """A word of `extra_args` in the form in which the engine's parser has it, for checking; by default as it is."""
        return word

    def check_settings(self, deploy: DeployConfig) -> Iterable[Problem]:
        """Settings that would have no effect on this engine."""
        without_meaning = {"devices": (AUTO, ""), "tensor_parallel": (AUTO, 1), "data_parallel": (AUTO, 1)}
        for name in HONOURABLE:
            value = getattr(deploy, name)
            if name not in self.honours and value is not None and value not in without_meaning.get(name, ()):
                yield Problem(f"deploy.{name}", f"{self.name} has no {name}: it would have no effect", "Leave it out.")

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
