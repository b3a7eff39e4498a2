"""The connection to a Ray cluster: a process of its own (ray_bridge.py), started when it is first needed."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import IO, Any
from urllib.parse import urlsplit

from evalscope_evalflow.config.install_hint import install_command
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.sweep.cluster import ray_bridge
from evalscope_evalflow.sweep.cluster.ray_bridge import READY, REFUSED
from evalscope_evalflow.sweep.cluster.scheduler import SchedulerSilent

WHERE = "evalflow.executor"
CONNECT_S = 90.0
REACH_S = 10.0
REQUEST_S = 120.0
END_S = 5.0
# Under `ray job submit`, the settings of that job, among them variables that jobs of ours would inherit.
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"


class Refused(Exception):
    """Ray has refused a request, in its own words."""


class RayConnection:
    """Requests to a cluster, one at a time; connects again after the connection was lost."""

    def __init__(self, address: str, settings: Mapping[str, Any]) -> None:
        """
        Args:
            address: as `ray.init` takes it: "auto", "HOST:PORT" or "ray://HOST:PORT".
            settings: what all jobs have in common (`ray_bridge.Bridge.settings`).
        """
        self.address = address
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.Queue[str] = queue.Queue()
        self._errors: IO[str] | None = None
        self._was_there = False

    def connect(self) -> None:
        """Connect, unless that is done.

        Raises:
            ConfigError: Ray is not installed, or there is no cluster that takes this process.
            SchedulerSilent: the cluster does not answer, or was there before and is not now.
        """
        if self._process is not None and self._process.poll() is None:
            return
        try:
            self._connect()
        except ConfigError as error:
            if self._was_there:
                raise SchedulerSilent(error.problems[0].what) from None
            raise
        self._was_there = True

    def _connect(self) -> None:
        if find_spec("ray") is None:
            todo = f"{install_command('ray')}, with the cluster's version of Ray; or choose `executor: local`."
            what = "the executor ray needs Ray, which is not installed in this environment"
            raise ConfigError(Problem(f"{WHERE}.name", what, todo))
        _reach(self.address)
        self.close()
        self._replies = queue.Queue()
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - `close` closes
        self._process = subprocess.Popen(
            [sys.executable, "-m", ray_bridge.__name__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env=_environment(), text=True, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        threading.Thread(target=_read, args=(self._process.stdout, self._replies), daemon=True).start()
        self._write({"owner": os.getpid(), "address": self.address, **self._settings})
        reply = self._reply(CONNECT_S)
        if READY in reply:
            return
        self.close()
        words = f"Ray at {self.address!r} says: {reply[REFUSED]}"
        if "ersion mismatch" in words:
            todo = "Run evalflow with the Python and the Ray that the cluster has, such as in the cluster's own image."
        else:
            todo = "Give the address of a running cluster (`ray status` names it), or use executor: local."
        raise ConfigError(Problem(f"{WHERE}.address", words, todo))

    def ask(self, do: str, **arguments: Any) -> Any:
        """Have the bridge do something, and return its reply.

        Raises:
            Refused: Ray refuses it.
            SchedulerSilent: the cluster does not answer; the next request connects again.
            ConfigError: as `connect`.
        """
        self.connect()
        self._write({"do": do, "with": arguments})
        reply = self._reply(REQUEST_S)
        if REFUSED in reply:
            raise Refused(reply[REFUSED])
        return reply[READY]

    def close(self) -> None:
        """Let go of the cluster; jobs go on."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            with suppress(OSError):  # it has ended, and what was to be written is lost
                process.stdin.close()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def _write(self, what: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except OSError:
            self._lost("its connection has ended")

    def _reply(self, timeout_s: float) -> dict[str, Any]:
        try:
            line = self._replies.get(timeout=timeout_s)
        except queue.Empty:
            self._lost(f"no answer within {timeout_s:.0f} s")
        if not line:
            self._lost("its connection has ended")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _lost(self, how: str) -> Any:
        """End what is left of the connection, and say so."""
        last = ""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._errors is not None:
            self._errors.seek(0)
            lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
            last = f": {lines[-1][:300]}" if lines else ""
        self.close()
        raise SchedulerSilent(f"Ray at {self.address!r}: {how}{last}")


def _read(lines: IO[str], replies: queue.Queue[str]) -> None:
    """Pass replies on; an empty one at the end."""
    for line in lines:
        replies.put(line)
    replies.put("")


def _environment() -> dict[str, str]:
    """This process's variables, without those that Ray would hand on from a job that this process is a part of."""
    environment = dict(os.environ)
    if JOB_CONFIG in environment:
        config = json.loads(environment[JOB_CONFIG])
        (config.get("runtime_env") or {}).pop("env_vars", None)
        environment[JOB_CONFIG] = json.dumps(config)
    return environment


def _reach(address: str) -> None:
    """See that somebody listens at the address, as Ray itself tries for minutes.

    Raises:
        ConfigError: nobody does, or it is no address.
    """
    todo = 'Give "auto" on a node of the cluster, "HOST:6379", or "ray://HOST:10001" from elsewhere.'
    if address == "auto":
        return
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise ConfigError(Problem(f"{WHERE}.address", f"{address!r} is no address of a Ray cluster", todo))
    try:
        socket.create_connection((host, port), timeout=REACH_S).close()
    except OSError as error:
        raise ConfigError(
            Problem(f"{WHERE}.address", f"no Ray cluster answers at {address!r}: {error}", todo)
        ) from None
