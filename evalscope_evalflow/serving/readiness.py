"""When an engine is ready: it lives, is healthy, lists our model, and answers one token.

It is polled every 0.1 s, so that readiness is noticed within 0.2 s. Until something listens, a poll is an attempt to
connect, which the kernel refuses without the engine. From then on it is a request, which costs the engine CPU time and
a line of its log: while it says that it is not ready yet, the pauses grow with the time that it has said so, and so
readiness is noticed after a twentieth of that time at most. A pause is never shorter than the poll before it, so an
engine that is slow to answer is asked less often; and CPU time that our requests may have cost does not count as
progress.
"""

from __future__ import annotations

import socket
import time
from typing import Any
from urllib.parse import urlsplit

from evalscope_evalflow.engines import Address
from evalscope_evalflow.errors import EngineError
from evalscope_evalflow.processes.supervised import SupervisedProcess
from evalscope_evalflow.serving import http

HEALTH_PATH, MODELS_PATH = "/health", "/v1/models"
NO_SUCH_PATH = (404, 405, 501)
POLL_S = 0.1
LONGEST_POLL_S = 0.5  # while connections are refused, and once it is healthy
PATIENCE = 0.05  # of the time for which it has said that it is not ready: the next pause
LONGEST_PAUSE_S = 2.0
REQUEST_CPU_S = 0.01  # CPU seconds that a request may cost a server: Python's take 1 to 5 ms for one
ANSWER_TIMEOUT_S = 120.0  # the first token of a large model may take its time
PROGRESS_EVERY_S = 1.0
_CPU_PROGRESS_S = 0.05  # CPU seconds in one look that count as work: an idle server uses less


class Progress:
    """Whether a process tree gets anywhere: its log grows, or it uses CPU."""

    def __init__(self, process: SupervisedProcess) -> None:
        self._process = process
        self.listening = False  # once it answers, its log grows by our own requests
        self.requests = 0  # that it had from us since the last look
        self._seen = (0, 0.0)
        self._moved = self._looked = time.monotonic()

    def stalled_s(self) -> float:
        """Seconds since something last moved."""
        now = time.monotonic()
        if now - self._looked >= PROGRESS_EVERY_S:
            self._looked = now
            log = self._process.log
            size, cpu = log.stat().st_size if log.exists() else 0, self._process.cpu_seconds()
            ours = self.requests * REQUEST_CPU_S
            if (size != self._seen[0] and not self.listening) or abs(cpu - self._seen[1]) > _CPU_PROGRESS_S + ours:
                self._moved = now
            self._seen, self.requests = (size, cpu), 0
        return now - self._moved


class Readiness:
    """The steps to readiness; each is passed once."""

    def __init__(
        self,
        process: SupervisedProcess,
        address: Address,
        model: str,
        stall_timeout_s: float,
        health_path: str | None = HEALTH_PATH,
    ) -> None:
        """Prepare.

        Args:
            process: the engine.
            address: where it will answer, and its key.
            model: the name that it has to serve.
            stall_timeout_s: seconds without progress after which it is given up.
            health_path: path that answers 200 once it is well; None: it has none, and its list of models tells.
        """
        self._process, self._address, self._model = process, address, model
        self._stall_timeout_s, self._health_path = stall_timeout_s, health_path
        self._progress = Progress(process)
        self._healthy = self._listed = self._has_port = False
        self._healthy_since = 0.0
        self._listening_since = 0.0
        self._last_reply = ""  # that was no success, in words
        self._poll_s = 0.0  # that the last poll took

    def wait(self) -> None:
        """Wait until the engine is ready, or has exited (`process.exited` tells which).

        Raises:
            EngineError: it makes no progress, has no health path, serves another name, or refuses a chat request.
        """
        while not self._timed_poll():
            self._process.exited.wait(self._pause_s())

    def _pause_s(self) -> float:
        """Seconds until the next poll."""
        pause = min(max(POLL_S, self._poll_s), LONGEST_POLL_S)
        if self._progress.listening and not self._healthy:
            said_for_s = time.monotonic() - self._listening_since
            pause = max(pause, min(PATIENCE * said_for_s, LONGEST_PAUSE_S))
        return pause

    def _timed_poll(self) -> bool:
        began = time.monotonic()
        try:
            return self._poll()
        finally:
            self._poll_s = time.monotonic() - began

    def _poll(self) -> bool:
        if self._process.exited.is_set():
            return True
        if not self._healthy and self._connects():
            self._healthy = self._is_healthy()
            self._healthy_since = time.monotonic()
        if self._healthy and self._lists_model() and self._answers():
            return True
        if self._healthy:
            if time.monotonic() - self._healthy_since > self._stall_timeout_s:
                raise EngineError(
                    f"the engine says that it is healthy, but has answered no request for {self._stall_timeout_s:.0f} s"
                    f": {self._last_reply}\n    log: {self._process.log}"
                )
        elif self._progress.stalled_s() > self._stall_timeout_s:
            last = f"\n    Its last answer: {self._last_reply}" if self._last_reply else ""
            raise EngineError(
                f"the engine has made no progress for {self._stall_timeout_s:.0f} s: no line in its log, no CPU time"
                f"{last}\n    If it needs longer, raise deploy.stall_timeout_s.\n    log: {self._process.log}"
            )
        return False

    def _is_healthy(self) -> bool:
        if self._health_path is None:
            return self._lists_model()
        # To nobody else who may have taken the port in the meantime, such as another user, goes the key.
        key = self._address.api_key if self._is_ours() else None
        reply = self._request(self._health_path, api_key=key, timeout_s=2)
        if reply.status in NO_SUCH_PATH and self._is_ours():
            raise EngineError(
                f"the engine answers GET {self._health_path} with {reply.status}, so that it cannot be told when it is "
                "ready\n    The class of the engine has to name the path that its server has, as `health_path`; "
                "None: it has none, and its list of models at /v1/models tells."
                f"\n    log: {self._process.log}"
            )
        return reply.ok

    def _is_ours(self) -> bool:
        """Whether the engine itself has the port, which takes a look at all of its processes."""
        self._has_port = self._has_port or self._process.listens_at(self._address.port)
        return self._has_port

    def _connects(self) -> bool:
        """Whether something listens there."""
        if not self._progress.listening:
            parts = urlsplit(self._address.root)
            try:
                socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2).close()
            except OSError:
                return False
        return True

    def _request(self, path: str, **options: Any) -> http.Reply:
        self._progress.requests += 1
        reply = http.request(f"{self._address.root}{path}", direct=True, **options)
        if reply.status > 0 and not self._progress.listening:
            self._progress.listening, self._listening_since = True, time.monotonic()
        if not reply.ok:
            self._last_reply = f"{path}: {reply.message} ({reply.status})" if reply.status else f"{path}: {reply.text}"
        return reply

    def _lists_model(self) -> bool:
        if self._listed:
            return True
        if not self._is_ours():
            return False  # nothing yet, or somebody else: our engine is about to say that the port is taken
        reply = self._request(MODELS_PATH, api_key=self._address.api_key)
        if not reply.ok and reply.status not in (401, 403):
            return False
        if not reply.ok:
            raise EngineError(
                f"the engine is up, but refuses the key that it was given ({reply.status}): {reply.message}"
                "\n    Set the key as deploy.api_key (--eval_api_key), not in env_vars or extra_args."
            )
        names = listed_models(reply.json)
        if self._model not in names:
            raise EngineError(
                f"the engine serves {', '.join(names) or 'nothing'}, not {self._model}"
                "\n    The class of the engine has to pass the model's `name` to its server as the served name; "
                f"check extra_args, too.\n    log: {self._process.log}"
            )
        self._listed = True
        return True

    def _answers(self) -> bool:
        reply = self._request(
            "/v1/chat/completions",
            api_key=self._address.api_key,
            body=one_token(self._model),
            timeout_s=ANSWER_TIMEOUT_S,
        )
        if 400 <= reply.status < 500 and reply.status not in (408, 429):
            raise EngineError(
                f"the engine is up, but refuses a chat request ({reply.status}): {reply.message}"
                "\n    A base model needs a chat template: deploy.chat_template (--eval_template)."
            )
        return reply.ok


def one_token(model: str) -> dict[str, Any]:
    """The smallest chat request."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 1,
        "temperature": 0,
    }


def listed_models(body: Any) -> list[str]:
    """The model names in the answer of `/v1/models`."""
    data = body.get("data") if isinstance(body, dict) else None
    return [str(item["id"]) for item in data or [] if isinstance(item, dict) and "id" in item]
