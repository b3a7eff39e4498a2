"""The parent's side of a worker: starts the process, sends requests to it, and parses its events."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evalscope_evalflow.config import keys
from evalscope_evalflow.config.api_url import split_api_url
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.loopback import no_proxy_variables
from evalscope_evalflow.config.secret_names import NO_KEY
from evalscope_evalflow.errors import WorkerError
from evalscope_evalflow.events.base import Event, parse
from evalscope_evalflow.events.worker_events import WorkerExited, WorkerFailed
from evalscope_evalflow.events.worker_requests import JudgeAnswers, ModelReady, StartTask, WorkerRequest
from evalscope_evalflow.processes.registry import Registration
from evalscope_evalflow.processes.supervised import SupervisedProcess
from evalscope_evalflow.run.standby_worker import (
    STATUS_FD,
    WORKER_FOLDER,
    WORKER_GRACE_S,
    StandbyWorker,
    base_variables,
)
from evalscope_evalflow.run.url_parts import UrlParts
from evalscope_evalflow.serving.diagnosis import diagnose_process
from evalscope_evalflow.worker import credentials as secrets
from evalscope_evalflow.worker.api_clients import URL_PARTS

# How ModelScope (in Chinese, too), Hugging Face and their HTTP clients say that something cannot be downloaded.
_DOWNLOAD = re.compile(
    r"Download\w*Error|\u4e0b\u8f7d|Couldn't (?:reach|find a dataset)|couldn't connect|offline mode|Max retries",
    re.IGNORECASE,
)


def data_hint(message: str, dataset: str = "NAME") -> str:
    """What to do about a benchmark whose data cannot be had; empty if that is not what is wrong.

    Args:
        message: EvalScope's own.
        dataset: the benchmark, where it is known.
    """
    if not _DOWNLOAD.search(message):
        return ""
    return (
        f" (its data cannot be downloaded: give its folder, as dataset_args.{dataset}.local_path, or another "
        "dataset_hub: huggingface or modelscope)"
    )


class Worker:
    """A child process that runs one stock task, held until the model can be asked.

    Attributes:
        process: it, under its guard.
    """

    def __init__(
        self,
        request: StartTask,
        *,
        env: Environment,
        api_key: str,
        api_url: str | None = None,
        judge_key: str | None = None,
        log: Path,
        run_id: str,
        on_event: Callable[[Event], None],
        output: Callable[[bytes], None] | None = None,
        entry: Registration | None = None,
        standby: StandbyWorker | None = None,
    ) -> None:
        """Start it, or give the task to one that stands by.

        Args:
            request: what to do; keys in it may be SecretStr or `${VAR}`.
            env: environment that has EvalScope.
            api_key: key of the model's endpoint.
            api_url: the model's API, where that is not ours; it may hold user, password and query.
            judge_key: key of a judge that is an engine of this sweep's.
            log: file for what EvalScope prints.
            run_id: identifies every process of the run.
            on_event: is called, in a thread, with every event; the last one is WorkerExited.
            output: is called with what EvalScope prints, as it comes.
            entry: the run's, as `evalflow ps` shows it.
            standby: a worker that was started ahead; it is ended where it is not what this task wants.
        """
        self.log = log
        self._on_event = on_event
        found: dict[str, str] = {}
        urls = UrlParts(api_url)
        public = urls.taken_from(keys.to_environment(request.as_dict(), found, secrets.KEY_PREFIX))
        found.update({f"{secrets.KEY_PREFIX}URL_{number}": secret for number, secret in enumerate(urls.secrets)})
        if judge_key:
            found[secrets.JUDGE_KEY] = judge_key
        self._keys = sorted({key for key in (api_key, *found.values()) if key != NO_KEY}, key=len, reverse=True)
        variables = base_variables(env)
        variables.update(found)
        variables.update({secrets.MODEL_KEY: api_key, URL_PARTS: urls.as_json()})
        variables.update(no_proxy_variables(variables, urls.bases))
        status = None
        if standby is not None and entry is not None:
            status = standby.take(
                request.worker_half, env, variables, keys=self._keys, log=log, output=output, entry=entry
            )
            if status is None:
                standby.end()
            else:
                self.process = standby.process
        if status is None:
            status, status_end = os.pipe()
            self.process = SupervisedProcess(
                env.wrap([str(env.python), str(WORKER_FOLDER)]),
                env={**variables, STATUS_FD: str(status_end)},
                log=log,
                run_id=f"{run_id}-worker",
                secrets=(secrets.MODEL_KEY, *found),
                grace_s=WORKER_GRACE_S,
                stdin=subprocess.PIPE,
                pass_fds=(status_end,),
                cwd=Path.cwd(),  # a task may name its data by relative paths
                output=output,
                entry=entry,
                role="worker",
            )
            self.process.start()
            os.close(status_end)
        self._listener = threading.Thread(target=self._listen, args=(status,), daemon=True, name="evalflow-worker")
        self._listener.start()
        self._write(public)

    def go(self, api_url: str, judge_ahead: Sequence[str] = ()) -> None:
        """Let it ask the model, and the judge about one answer of each of these datasets."""
        self._send(ModelReady(split_api_url(api_url).base, list(judge_ahead)))

    def judge(self, at_once: int | None = None, judge_url: str = "") -> None:
        """Let it judge what is saved.

        Args:
            at_once: answers at a time, where that is not what the task says.
            judge_url: of a judge that is an engine of this sweep's.
        """
        self._send(JudgeAnswers(at_once, judge_url))

    def stop(self) -> list[int]:
        """End it. Returns PIDs that survive even SIGKILL."""
        left = self.process.stop()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):  # what it never read
                self.process.stdin.close()
        return left

    def failure(self, event: WorkerFailed | WorkerExited) -> WorkerError:
        """The error for a worker that failed, or died without reporting anything."""
        if isinstance(event, WorkerFailed):
            what = f"EvalScope failed: {event.kind}: " if event.kind else ""  # none: it is about the API
            again = "See to that, and run the same command again: it resumes with the answers that were saved."
            return WorkerError(f"{what}{event.message}{data_hint(event.message)}\n    {again}\n  log: {self.log}")
        found = diagnose_process(self.process, less="lower eval_batch_size or judge_max_num_seqs")
        tail = "\n".join(f"    {line}" for line in found.tail)
        hint = f"\n    {found.hint}" if found.hint else ""
        return WorkerError(
            f"the EvalScope process ended without a result (exit code {self.process.exit_code}): {found.cause}{hint}"
            "\n    Run the same command again to resume with what was saved."
            f"\n  its last lines:\n{tail}\n  log: {self.log}"
        )

    def _send(self, request: WorkerRequest) -> None:
        self._write(request.as_dict())

    def _write(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write((json.dumps(message, default=str) + "\n").encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead: WorkerExited follows

    def _listen(self, status: int) -> None:
        with os.fdopen(status, encoding="utf-8") as lines:
            for line in lines:
                event = _parse_line(line, self._keys)  # servers repeat keys in their errors
                if event is not None:
                    self._on_event(event)
        self.process.exited.wait()
        self._on_event(WorkerExited())


def _parse_line(line: str, known: Sequence[str] = ()) -> Event | None:
    """The event of a line, without keys; None for half a line, of a process that was killed."""
    try:
        data = json.loads(line)
    except ValueError:
        return None
    return parse(secrets.mask_fields(data, known)) if isinstance(data, dict) else None
