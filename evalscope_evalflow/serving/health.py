"""Watching an engine while it works: that none of its processes has died, and that it does not hang.

The exit of the engine's own process is heard of through its guard; this is about an engine whose process lives.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

from evalscope_evalflow.engines import Counters, Engine
from evalscope_evalflow.processes.supervised import SupervisedProcess
from evalscope_evalflow.serving import http
from evalscope_evalflow.serving.endpoint import Endpoint
from evalscope_evalflow.serving.readiness import ANSWER_TIMEOUT_S, MODELS_PATH, Progress, one_token

HEALTH_EVERY_S = 1.0
METRICS_EVERY_S = 5.0
_NUMBER = r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
TIMEOUT_S = 5.0  # a busy server is slow to answer: that alone is no sign of anything


@dataclass(frozen=True)
class Hang:
    """An engine that lives, and gets nowhere with the requests that it has.

    Attributes:
        stalled_s: seconds for which nothing has moved.
        in_flight: requests that it works at; None: its counters could not be read.
        counters: those that have not moved, by name; empty where they could not be read.
        no_sign: what was missing where there were no counters to read: "counters" or "CPU time".
        last_answer: what came of a last request of one token, where there were no counters to read.
    """

    stalled_s: float
    in_flight: float | None = None
    counters: Mapping[str, float] = field(default_factory=dict)
    no_sign: str = ""
    last_answer: str = ""

    def __str__(self) -> str:
        """A clause whose subject is the engine."""
        advice = "where it needs longer, raise deploy.stall_timeout_s"
        if self.in_flight is None:
            return (
                f"hangs: no {self.no_sign} for {self.stalled_s:.0f} s, and no answer to a request of one token: "
                f"{self.last_answer}; {advice}"
            )
        figures = ", ".join(f"{name} {value:.0f}" for name, value in self.counters.items())
        return (
            f"hangs: {self.in_flight:.0f} requests are in flight, and its counters have not moved for "
            f"{self.stalled_s:.0f} s ({figures}); {advice}"
        )


@dataclass(frozen=True)
class Unhealthy:
    """An engine whose process lives, and which says, or shows, that it does not work any more.

    Attributes:
        path: what was asked for.
        status: of the answer; 0: there was none.
        message: of the answer, or why there was none.
    """

    path: str
    status: int
    message: str

    def __str__(self) -> str:
        """A clause whose subject is the engine."""
        said = f"{self.status} {self.message}".strip() if self.status else self.message
        return f"does not work any more: {self.path} says {said!r}, twice"


Symptom = Hang | Unhealthy


@dataclass(frozen=True)
class Counts:
    """What an engine's counters say: requests in flight, and what moves while it works, by name."""

    in_flight: float
    progress: dict[str, float]


def read_counters(text: str, counters: Counters) -> Counts | None:
    """Find counters in Prometheus text; series that differ in labels are added up.

    Returns:
        The counts, or None where the text has not at least one gauge and one counter of them.
    """
    found: dict[str, float] = {}
    for name in (*counters.in_flight, *counters.progress):
        values = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})?[ \t]+({_NUMBER})(?=\s|$)", text, re.MULTILINE)
        if values:
            found[name] = sum(map(float, values))
    progress = {name: found[name] for name in counters.progress if name in found}
    if not progress or not any(name in found for name in counters.in_flight):
        return None
    return Counts(sum(found.get(name, 0) for name in counters.in_flight), progress)


class Stall:
    """Whether an engine gets anywhere with the requests that it has.

    Its own counters say so. An engine without them moves as long as it uses CPU time; before it is given up, it is
    asked for one token, as one that has nothing to do uses none either.
    """

    def __init__(
        self, engine: Engine, process: SupervisedProcess, endpoint: Endpoint, root: str, timeout_s: float
    ) -> None:
        self._counters, self._endpoint, self._root, self._timeout_s = engine.counters, endpoint, root, timeout_s
        self._every_s = min(METRICS_EVERY_S, timeout_s / 4)
        self._cpu = Progress(process)
        self._cpu.listening = True  # its log grows by our own looks
        self._counts: Counts | None = None
        self._readable = False
        self._moved = time.monotonic()
        self._looked = 0.0

    def poll(self) -> Hang | None:
        """Check once: what was seen if it hangs, else None."""
        now = time.monotonic()
        if self._counters is not None and now - self._looked >= self._every_s:
            self._looked = now
            self._read(self._counters)
            now = time.monotonic()
        if self._counts is None:
            self._moved = max(self._moved, now - self._cpu.stalled_s())
        if now - self._moved <= self._timeout_s:
            return None
        if self._readable and self._counts is not None:
            return Hang(self._timeout_s, self._counts.in_flight, self._counts.progress)
        no_sign = "counters" if self._counts is not None else "CPU time"
        refused = self._probe()
        if refused is None:
            self._moved = time.monotonic()
            return None
        return Hang(self._timeout_s, no_sign=no_sign, last_answer=refused)

    def _read(self, counters: Counters) -> None:
        reply = http.request(f"{self._root}/metrics", api_key=self._endpoint.api_key, timeout_s=TIMEOUT_S, direct=True)
        counts = read_counters(reply.text, counters) if reply.ok else None
        self._readable = counts is not None
        if counts is not None:
            # An engine that has nothing to do does not hang: the worker may be busy with scores.
            if not counts.in_flight or self._counts is None or counts.progress != self._counts.progress:
                self._moved = time.monotonic()
            self._counts = counts

    def _probe(self) -> str | None:
        """Ask for one token. What went wrong; None if it answers, be it with a refusal."""
        reply = http.request(
            f"{self._root}/v1/chat/completions",
            api_key=self._endpoint.api_key,
            body=one_token(self._endpoint.model),
            timeout_s=min(ANSWER_TIMEOUT_S, max(self._timeout_s, TIMEOUT_S)),
            direct=True,
        )
        if 0 < reply.status < 500 or (self._counts is None and self._cpu.stalled_s() < self._timeout_s):
            return None
        return f"{reply.message} ({reply.status})" if reply.status else reply.text


class Watch:
    """Looks after an engine for the length of a `with` block, in a thread of its own."""

    def __init__(
        self,
        engine: Engine,
        process: SupervisedProcess,
        endpoint: Endpoint,
        stall_timeout_s: float,
        notify: Callable[[Symptom], None],
    ) -> None:
        """Prepare.

        Args:
            engine: knows the names of its counters.
            process: the engine, under its guard.
            endpoint: where it answers.
            stall_timeout_s: seconds without progress after which an engine with requests in flight hangs.
            notify: is called in the thread, once, with what was seen; after that the engine is not watched any more.
        """
        self._process, self._notify = process, notify
        self._root = endpoint.api_url.removesuffix("/v1")
        self._stall = Stall(engine, process, endpoint, self._root, stall_timeout_s)
        self._key = endpoint.api_key
        self._path = engine.health_path or MODELS_PATH
        self._sick = False
        self._over = threading.Event()

    def __enter__(self) -> Watch:
        threading.Thread(target=self._run, daemon=True, name="evalflow-watch").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(HEALTH_EVERY_S) and not self._process.exited.is_set():
            symptom = self._poll()
            if symptom is not None:
                if not self._over.is_set():
                    self._notify(symptom)
                return

    def _poll(self) -> Symptom | None:
        """What is wrong; None while all is well."""
        reply = http.request(f"{self._root}{self._path}", api_key=self._key, timeout_s=TIMEOUT_S, direct=True)
        sick = reply.status >= 500 or reply.cut
        if sick and self._sick:  # once may be chance
            return Unhealthy(self._path, reply.status, reply.message if reply.status else reply.text)
        self._sick = sick
        return None if sick else self._stall.poll()
