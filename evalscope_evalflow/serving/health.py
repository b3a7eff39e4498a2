"""Watching an engine while it works: that none of its processes has died, and that it does not hang.

The exit of the engine's own process is heard of through its guard; this is about an engine whose process lives.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from tenacity import Retrying, retry_if_result, sleep_using_event

from evalscope_evalflow.engines import Counters, Engine
from evalscope_evalflow.processes.supervised import Guarded
from evalscope_evalflow.serving import http
from evalscope_evalflow.serving.endpoint import Endpoint
from evalscope_evalflow.serving.readiness import ANSWER_TIMEOUT_S, Progress, one_token

HEALTH_EVERY_S = 1.0
METRICS_EVERY_S = 5.0
_NUMBER = r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
TIMEOUT_S = 5.0  # a busy server is slow to answer: that alone is no sign of anything


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

    def __init__(self, engine: Engine, process: Guarded, endpoint: Endpoint, root: str, timeout_s: float) -> None:
        self._counters, self._endpoint, self._root, self._timeout_s = engine.counters, endpoint, root, timeout_s
        self._every_s = min(METRICS_EVERY_S, timeout_s / 4)
        self._cpu = Progress(process)
        self._cpu.listening = True  # its log grows by our own looks
        self._counts: Counts | None = None
        self._readable = False
        self._moved = time.monotonic()
        self._looked = 0.0

    def look(self) -> str | None:
        """What has been seen, if it hangs; else None."""
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
            figures = ", ".join(f"{name} {value:.0f}" for name, value in self._counts.progress.items())
            return (
                f"{self._counts.in_flight:.0f} requests are in flight, and its counters have not moved for "
                f"{self._timeout_s:.0f} s ({figures})"
            )
        silent = "no counters" if self._counts is not None else "no CPU time"
        said = self._probe()
        if said is None:
            self._moved = time.monotonic()
            return None
        return f"{silent} for {self._timeout_s:.0f} s, and no answer to a request of one token: {said}"

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
        process: Guarded,
        endpoint: Endpoint,
        stall_timeout_s: float,
        tell: Callable[[str], None],
    ) -> None:
        """Prepare.

        Args:
            engine: knows the names of its counters.
            process: the engine, under its guard.
            endpoint: where it answers.
            stall_timeout_s: seconds without progress after which an engine with requests in flight hangs.
            tell: is called in the thread, once, with what the engine does (`hangs: …`), after which nobody looks
                any more.
        """
        self._process, self._tell = process, tell
        self._root = endpoint.api_url.removesuffix("/v1")
        self._stall = Stall(engine, process, endpoint, self._root, stall_timeout_s)
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
        poll = Retrying(
            retry=retry_if_result(lambda seen: seen is None),
            wait=lambda _: HEALTH_EVERY_S,
            sleep=sleep_using_event(self._over),
        )
        seen = poll(self._look)
        if seen and not self._over.is_set():
            self._tell(seen)

    def _look(self) -> str | None:
        """What is wrong; empty when nobody wants to know any more; None while all is well."""
        if self._over.is_set() or self._process.exited.is_set():
            return ""
        reply = http.request(f"{self._root}/health", timeout_s=TIMEOUT_S, direct=True)
        sick = reply.status >= 500 or reply.cut
        if sick and self._sick:  # once may be chance
            said = f"{reply.status} {reply.message}".strip() if reply.status else reply.text
            return f"does not work any more: /health says {said!r}, twice"
        self._sick = sick
        if sick:
            return None
        hangs = self._stall.look()
        return f"hangs: {hangs}; where it needs longer, raise deploy.stall_timeout_s" if hangs else None
