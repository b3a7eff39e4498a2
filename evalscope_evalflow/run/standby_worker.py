"""A worker that is started before its task is known: it imports EvalScope, and waits.

It belongs to nobody's run yet. So its log lies in its own scratch folder and not in a run folder, its entry in the
registry is its own, and it has no key: those come with its task, by its standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.loopback import no_proxy_variables
from evalscope_evalflow.events.worker_requests import ImportAhead, SetVariables
from evalscope_evalflow.processes.registry import Registration, new_run_id
from evalscope_evalflow.processes.supervised import SupervisedProcess
from evalscope_evalflow.worker import credentials
from evalscope_evalflow.worker.api_clients import URL_PARTS

WORKER_FOLDER = Path(credentials.__file__).parent  # run by its path
WORKER_GRACE_S = 1.0  # it has nothing to tidy up: every answer is saved when it comes
STATUS_FD = "EVALFLOW_STATUS_FD"
# What may differ between a worker's start and its task: nothing that EvalScope looks at when it is imported.
_LATE = frozenset({credentials.MODEL_KEY, URL_PARTS, "NO_PROXY", "no_proxy"})


def base_variables(env: Environment) -> dict[str, str]:
    """The variables of a worker, whatever its task is.

    Args:
        env: environment that has EvalScope.
    """
    variables = env.variables(os.environ)
    variables["EVALFLOW_DISABLE"] = "1"
    variables.pop("EVALSCOPE_BASE_URL", None)  # a judge without URL would take the model's, or somebody's
    return variables


class StandbyWorker:
    """One worker that waits for a task.

    Attributes:
        process: it, under its guard.
    """

    def __init__(self, worker_half: str, worker_env: str | None, *, forward: bool = False) -> None:
        """Start it.

        Args:
            worker_half: the worker half of the task's backend, as StartTask has it.
            worker_env: the environment that evaluates, as the section has it.
            forward: whether what EvalScope prints for its task will be shown.

        Raises:
            OSError: it cannot be started.
        """
        self._half, self._env, self._cwd, self._forward = worker_half, Environment.find(worker_env), Path.cwd(), forward
        self._output: Callable[[bytes], None] = lambda data: None
        self._status, status_end = os.pipe()
        variables = base_variables(self._env)
        variables.update(no_proxy_variables(variables, []))
        self._variables = variables
        run_id = new_run_id()
        self._entry = Registration(run_id, one_command=True, phase="standby")
        self.process = SupervisedProcess(
            self._env.wrap([str(self._env.python), str(WORKER_FOLDER)]),
            env={**variables, STATUS_FD: str(status_end)},
            log=None,
            run_id=f"{run_id}-worker",
            grace_s=WORKER_GRACE_S,
            stdin=subprocess.PIPE,
            pass_fds=(status_end,),
            cwd=self._cwd,
            output=(lambda data: self._output(data)) if forward else None,
            entry=self._entry,
            role="worker",
        )
        try:
            self.process.start()
        except BaseException:
            os.close(self._status)
            raise
        finally:
            os.close(status_end)
        self.write(ImportAhead(worker_half).as_dict())

    def write(self, message: Mapping[str, Any]) -> None:
        """Send it a request; one that is dead reads none."""
        stdin = self.process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.write((json.dumps(message, default=str) + "\n").encode())
            stdin.flush()

    def take(
        self,
        worker_half: str,
        env: Environment,
        variables: Mapping[str, str],
        *,
        keys: Sequence[str],
        log: Path,
        output: Callable[[bytes], None] | None,
        entry: Registration,
    ) -> int | None:
        """Make it the worker of a run.

        Args:
            worker_half: of the run's task.
            env: the run's environment.
            variables: all of the run's.
            keys: are blanked in its log from now on.
            log: file for what EvalScope prints.
            output: is called with that as it comes.
            entry: the run's, in the registry.

        Returns:
            A descriptor that its events come from; None: it is not what the run wants, or is dead.
        """
        names = {name for name in {*variables, *self._variables} if variables.get(name) != self._variables.get(name)}
        late = {name for name in names if name in _LATE or name.startswith(credentials.KEY_PREFIX)}
        same = (worker_half, env, Path.cwd()) == (self._half, self._env, self._cwd) and names == late
        if not same or (output is not None and not self._forward):
            return None
        if output is not None:
            self._output = output
        if not self.process.hand_over(entry, None, log, keys):
            return None
        self._entry.close()
        self.write(SetVariables({name: variables.get(name) for name in sorted(names)}).as_dict())
        status, self._status = self._status, -1
        return status

    def end(self) -> list[int]:
        """End it: nobody wants it. Returns PIDs that survive even SIGKILL."""
        left = self.process.stop()
        if self._status >= 0:
            os.close(self._status)
            self._status = -1
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):  # what it never read
                self.process.stdin.close()
        return left
