"""An engine's process that is started before its turn: it imports, and touches no device until it is told to.

It belongs to nobody's run yet: its log lies in its own scratch folder, its entry in the registry is its own and names
no device, and it has neither key nor port. Those come with the word by which it becomes an engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evalscope_evalflow.config import DeployConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.keys import reveal
from evalscope_evalflow.config.loopback import no_proxy_variables
from evalscope_evalflow.config.secret_names import is_secret_name
from evalscope_evalflow.devices.nvml import CUDA_VISIBLE_DEVICES
from evalscope_evalflow.engines import Engine
from evalscope_evalflow.engines.launchers import standby_argv
from evalscope_evalflow.processes.registry import Registration, new_run_id
from evalscope_evalflow.processes.supervised import SupervisedProcess
from evalscope_evalflow.serving.engine_caches import cache_variables

GRACE_S = 5.0  # of an engine, between SIGTERM and SIGKILL
# What may differ between its start and the word: nobody looks at these before a device is used or a server listens.
_LATE = frozenset({"CUDA_DEVICE_ORDER", CUDA_VISIBLE_DEVICES, "NO_PROXY", "no_proxy"})


@dataclass(frozen=True)
class EngineCommand:
    """How an engine is run.

    Attributes:
        argv: its command, without what enters its environment.
        variables: its whole environment.
        own: names of the variables that the engine's command sets.
        secrets: names of those that hold keys.
    """

    argv: list[str]
    variables: Mapping[str, str]
    own: frozenset[str]
    secrets: tuple[str, ...]


class StandbyEngine:
    """One process that waits to become an engine.

    Attributes:
        process: it, under its guard.
        began: when it was started; a reading of time.monotonic().
    """

    def __init__(self, engine: Engine, deploy: DeployConfig) -> None:
        """Start it.

        Args:
            engine: its kind; one that imports something ahead.
            deploy: its settings.

        Raises:
            OSError: it cannot be started.
            ConfigError: a variable that is to be given to it is not set here.
        """
        assert engine.imports_ahead is not None
        self._engine, self._env = engine.name, Environment.find(deploy.env)
        values = {name: reveal(value, name) or "" for name, value in deploy.env_vars.items()}
        variables = {**self._env.variables(os.environ), **values}
        self._variables = {**variables, **cache_variables(variables), **no_proxy_variables(variables)}
        run_id = new_run_id()
        self._entry = Registration(run_id, one_command=True, engine=engine.name, phase="standby")
        self.began = time.monotonic()
        self.process = SupervisedProcess(
            self._env.wrap(standby_argv(self._env, engine.imports_ahead)),
            env=self._variables,
            log=None,
            run_id=f"{run_id}-engine",
            secrets=tuple(filter(is_secret_name, values)),
            grace_s=GRACE_S,
            stdin=subprocess.PIPE,
            entry=self._entry,
            role="engine",
        ).start()

    def take(
        self,
        engine: Engine,
        env: Environment,
        command: EngineCommand,
        *,
        log: Path,
        entry: Registration,
        on_exit: Callable[[], None],
    ) -> SupervisedProcess | None:
        """Have it become an engine.

        Args:
            engine: the kind that is wanted.
            env: its environment.
            command: how it is run.
            log: file for its output.
            entry: the run's, in the registry.
            on_exit: is called, in a thread, when its processes are gone.

        Returns:
            Its process; None: it is not what is wanted, or is dead.
        """
        wanted = command.variables
        names = {name for name in {*wanted, *self._variables} if wanted.get(name) != self._variables.get(name)}
        python = str(env.python)
        is_script = command.argv[0] == python and command.argv[1].endswith(".py")
        if engine.name != self._engine or env != self._env or not is_script or not names <= _LATE | command.own:
            return None
        keys = [wanted[name] for name in command.secrets if wanted.get(name)]
        if not self.process.hand_over(entry, on_exit, log, keys):
            return None
        self._entry.close()
        word = {"argv": command.argv, "variables": {name: wanted.get(name) for name in sorted(names)}}
        stdin = self.process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError):  # it has just died: its owner hears of that
            stdin.write((json.dumps(word) + "\n").encode())
            stdin.close()
        return self.process

    def end(self) -> list[int]:
        """End it: nobody wants it. Returns PIDs that survive even SIGKILL."""
        left = self.process.stop()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        return left
