"""What the engine suite works with: the engine under test, its servers, and the areas that the tests belong to."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines import Address, Engine, load_engine
from evalscope_evalflow.errors import EngineError
from evalscope_evalflow.serving import Deployment, Endpoint, http
from evalscope_evalflow.serving.readiness import one_token

AREAS = (
    "command", "environment", "readiness", "key", "served name", "failure", "release", "extra arguments",
)  # fmt: skip
PROPERTY = "conformance"  # of a test in pytest's XML report: ENGINE/AREA
KEY = "sk-of-the-conformance-suite"
NAME = "served-under-this-name"
REPORTED_WITHIN_S = 10.0  # of a failed start's exit; a tenth of a second on an idle machine
ENDS_WITHIN_S = 5.0  # of SIGTERM; then EvalFlow kills it
ADDRESS = Address("127.0.0.2", 18123, KEY)
Test = TypeVar("Test", bound=Callable[..., Any])


@dataclass(frozen=True)
class Subject:
    """An engine, and how the tests use it.

    Attributes:
        engine: its name, as in `deploy.engine`.
        path: a small model that it serves.
        deploy: settings with which it does, as in `deploy`.
        broken: settings on top of those with which it does not start.
        cause: words that its error then has to have.
        extra_args: arguments that it takes and that change nothing.
        dies: its exit code where `broken` ends it; None: any.
        samples: whether a model answers, so that a temperature above 0 changes answers; False: a script does.
    """

    engine: str
    path: str
    deploy: Mapping[str, Any] = field(default_factory=dict)
    broken: Mapping[str, Any] = field(default_factory=dict)
    cause: str = ""
    extra_args: tuple[str, ...] = ()
    dies: int | None = None
    samples: bool = True

    @property
    def model(self) -> ModelConfig:
        """The model, under the name of the tests."""
        return ModelConfig(name=NAME, path=self.path)

    def settings(self, **more: Any) -> DeployConfig:
        """`deploy`, with more on top."""
        return DeployConfig.model_validate({"engine": self.engine, **self.deploy, **more})

    def load(self) -> Engine:
        """The engine, by its entry point."""
        return load_engine(self.engine)


@dataclass(frozen=True)
class RunningServer:
    """A server that EvalFlow has started.

    Attributes:
        deployment: what started it.
        endpoint: where it is.
    """

    deployment: Deployment
    endpoint: Endpoint

    @property
    def root(self) -> str:
        """Its URL without a path."""
        return self.endpoint.api_url.removesuffix("/v1")

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.root.rsplit(":", 1)[1])

    @property
    def processes(self) -> list[psutil.Process]:
        """The guard, and everything below it."""
        assert self.deployment.process is not None
        guard = psutil.Process(self.deployment.process.guard_pid)
        return [guard, *guard.children(recursive=True)]

    def chat(self, key: str | None, max_tokens: int = 1, **settings: Any) -> http.Reply:
        """The greedy answer to a request, of one token by default; `settings` are fields of the request."""
        url = f"{self.endpoint.api_url}/chat/completions"
        body = {**one_token(self.endpoint.model), "max_tokens": max_tokens, **settings}
        return http.request(url, api_key=key, body=body, timeout_s=120, direct=True)

    def says(self, question: str, max_tokens: int, **settings: Any) -> str:
        """The text of the greedy answer to a question; `settings` are fields of the request."""
        messages = [{"role": "user", "content": question}]
        reply = self.chat(self.endpoint.api_key, max_tokens, messages=messages, **settings)
        assert reply.ok, reply.text
        return str(reply.json["choices"][0]["message"]["content"])

    def paths(self) -> dict[str, list[str]]:
        """Methods, in capitals, by the paths that it says it has (`/openapi.json`); empty where it says nothing."""
        reply = http.request(f"{self.root}/openapi.json", api_key=self.endpoint.api_key, timeout_s=60, direct=True)
        found = (reply.json or {}).get("paths") if reply.ok else None
        return {path: [method.upper() for method in methods] for path, methods in (found or {}).items()}


def area(name: str) -> Callable[[Test], Test]:
    """Say what a test is about."""
    assert name in AREAS

    def mark(test: Test) -> Test:
        test.conformance_area = name  # type: ignore[attr-defined]
        return test

    return mark


def count_tests(suite: type) -> dict[str, int]:
    """How many tests a class has in each area."""
    found = [getattr(getattr(suite, name), "conformance_area", None) for name in dir(suite) if name.startswith("test_")]
    return {name: found.count(name) for name in AREAS}


def gone(processes: list[psutil.Process], timeout_s: float = 10.0) -> list[psutil.Process]:
    """Those of these processes that still live after a while."""
    _, alive = psutil.wait_procs([process for process in processes if process.is_running()], timeout=timeout_s)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def watch_end(pid: int | None) -> Callable[[], float]:
    """Note when a process ends: a function that waits for it, and gives the time by time.monotonic()."""
    assert pid is not None
    process, ends = os.pidfd_open(pid), []

    def wait() -> None:
        select.select([process], [], [])
        ends.append(time.monotonic())
        os.close(process)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()

    def ended() -> float:
        waiting.join()
        return ends[0]

    return ended


@dataclass(frozen=True)
class FailedStart:
    """A start that failed.

    Attributes:
        error: what the user reads.
        reported_after_s: seconds from the end of the engine's own process to the error.
        log: the engine's.
        port: where it should have listened.
        processes: the guard, and what was below it at the beginning.
        released: whether nothing of it was left.
    """

    error: EngineError
    reported_after_s: float
    log: Path
    port: int
    processes: list[psutil.Process]
    released: bool
