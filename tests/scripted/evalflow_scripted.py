"""An engine as another package would bring it: one class, and an entry point in its distribution's metadata.

With this folder on `sys.path` (or PYTHONPATH), `deploy.engine: scripted` works. What its server does, and how it
fails, is in `deploy.extra_args`: see `python scripted_server.py --help`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines import HONOURABLE, Address, Command, Counters, Engine, LogPattern
from evalscope_evalflow.engines.launchers import ImportsAhead
from evalscope_evalflow.errors import Problem

SERVER = Path(__file__).with_name("scripted_server.py")
KEY_VARIABLE, CONTROL_VARIABLE = "SCRIPTED_API_KEY", "SCRIPTED_CONTROL"


class ScriptedEngine(Engine):
    """A server that does as it is told, mistakes included. It takes any path for a model."""

    name = "scripted"
    honours = frozenset(HONOURABLE)
    default_max_num_seqs = 8
    # Its faults and its pace: what it answers stays the same.
    neutral_options = (
        "--journal", "--answer-seconds", "--say", "--load-seconds", "--exit-after-start", "--bind-fails*",
        "--silent-stall", "--wrong-name", "--print-key", "--flood", "--unhealthy*", "--ignore-sigterm",
        "--daemon-children", "--die-after-requests", "--hang-after", "--sick-*", "--stop-listening-after",
        "--no-metrics", "--reject-chat", "--status-for-request", "--fail-*", "--stuck-prompt",
        "--swap-*",
    )  # fmt: skip
    counters = Counters(("scripted_requests_running",), ("scripted_chat_requests_total", "scripted_tokens_total"))
    log_patterns = (
        LogPattern(r"[Aa]ddress already in use", "the port is taken", "Choose another port.", retryable=True),
        LogPattern(r"ScriptedError: (.+)", "the script says: {0}", "Change the script."),
    )

    def check(self, model: ModelConfig, deploy: DeployConfig) -> Iterable[Problem]:
        if not model.path:
            yield Problem(f"model {model.name}", "no path is given", "Any will do.")

    def command(self, model: ModelConfig, deploy: DeployConfig, address: Address, env: Environment) -> Command:
        argv = [
            str(env.python), str(SERVER),
            "--host", address.host, "--port", str(address.port), "--model", model.name,
            *deploy.extra_args,
        ]  # fmt: skip
        env_vars = {KEY_VARIABLE: address.api_key} if address.api_key else {}
        settings = {name: getattr(deploy, name) for name in HONOURABLE}
        env_vars["SCRIPTED_SETTINGS"] = repr(settings)  # nothing comes of them
        return Command(argv, env_vars, secrets=(KEY_VARIABLE,))


class AheadEngine(ScriptedEngine):
    """The same, with imports that can be made before its turn."""

    name = "scripted-ahead"
    imports_ahead = ImportsAhead(("http.server", "no_such_module"), ("json",), room_bytes=1)


class SwappingEngine(ScriptedEngine):
    """The same, of a checkpoint: other weights give other answers, and it takes another checkpoint's while it runs."""

    name = "scripted-swap"

    def can_swap(self, env: Environment) -> str:
        return ""

    def why_no_swap(self, deploy: DeployConfig) -> str:
        return "extra_args has --swap-forbidden" if "--swap-forbidden" in deploy.extra_args else ""

    def command(self, model: ModelConfig, deploy: DeployConfig, address: Address, env: Environment) -> Command:
        command = super().command(model, deploy, address, env)
        control = {CONTROL_VARIABLE: address.control} if address.control else {}
        argv = [*command.argv, "--checkpoint", str(model.path)]
        return Command(argv, {**command.env, **control}, secrets=command.secrets)
