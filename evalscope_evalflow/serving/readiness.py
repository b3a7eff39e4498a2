"""When an engine is ready: it lives, is healthy, lists our model, and answers one token.

That is noticed within 0.2 s: it is looked at every 0.1 s. Until something listens, a look is an attempt to connect,
which the kernel refuses without the engine. From then on it is a request, which costs the engine CPU time: a pause is
never shorter than the look before it, so an engine that is slow to answer is asked less often; and CPU time that
requests of ours may have cost does not count as progress.
"""

from __future__ import annotations

import socket
import time
from typing import Any
from urllib.parse import urlsplit

from tenacity import RetryCallState, Retrying, retry_if_result, sleep_using_event

from evalscope_evalflow.engines import Address
from evalscope_evalflow.errors import EngineError
from evalscope_evalflow.processes.supervised import Guarded
from evalscope_evalflow.serving import http

POLL_S = 0.1
LONGEST_POLL_S = 0.5
REQUEST_CPU_S = 0.01  # CPU seconds that a request may cost a server: Python's take 1 to 5 ms for one
ANSWER_TIMEOUT_S = 120.0  # the first token of a large model may take its time
PROGRESS_EVERY_S = 1.0
_CPU_PROGRESS_S = 0.05  # CPU seconds in one look that count as work: an idle server uses less


class Progress:
    """Whether a process tree gets anywhere: its log grows, or it uses CPU."""

    def __init__(self, process: Guarded) -> None:
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

    def __init__(self, process: Guarded, address: Address, model: str, stall_timeout_s: float) -> None:
        self._process, self._address, self._model = process, address, model
        self._stall_timeout_s = stall_timeout_s
        self._progress = Progress(process)
        self._healthy = self._listed = False
        self._look_s = 0.0  # that the last look took
        self._last = 0.0, ""  # when it last passed a step, and what it has said since

    def wait(self) -> None:
        """Wait until the engine is ready, or has exited (`process.exited` tells which).

        Raises:
            EngineError: it makes no progress, lists another model, or refuses a chat request.
        """
        poll = Retrying(
            retry=retry_if_result(lambda ready: not ready),
            wait=self._pause_s,
            sleep=sleep_using_event(self._process.exited),
        )
        poll(self._look)

    def _pause_s(self, _: RetryCallState) -> float:
        return min(max(POLL_S, self._look_s), LONGEST_POLL_S)

    def _look(self) -> bool:
        began = time.monotonic()
        try:
            return self._look_once()
        finally:
            self._look_s = time.monotonic() - began

    def _look_once(self) -> bool:
        if self._process.exited.is_set():
            return True
        if not self._healthy and self._connects():
            reply = self._request("/health", timeout_s=2)
            self._healthy = reply.ok
            self._progress.listening = self._progress.listening or reply.status > 0
            self._last = time.monotonic(), ""
        if self._healthy and self._lists_model() and self._answers():
            return True
        if self._healthy:
            since, said = self._last
            if time.monotonic() - since > self._stall_timeout_s:
                raise EngineError(
                    f"the engine says that it is healthy, but has answered no request for {self._stall_timeout_s:.0f} s"
                    f": {said}\n    log: {self._process.log}"
                )
        elif self._progress.stalled_s() > self._stall_timeout_s:
            raise EngineError(
                f"the engine has made no progress for {self._stall_timeout_s:.0f} s: no line in its log, no CPU time"
                f"\n    If it needs longer, raise deploy.stall_timeout_s.\n    log: {self._process.log}"
            )
        return False

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
        return http.request(f"{self._address.root}{path}", direct=True, **options)

    def _lists_model(self) -> bool:
        if self._listed:
            return True
        reply = self._request("/v1/models", api_key=self._address.api_key)
        if not reply.ok and reply.status not in (401, 403):
            self._last = self._last[0], f"{reply.message} ({reply.status})"
            return False
        if not self._process.listens_at(self._address.port):
            return False  # somebody else's: our engine is about to say that the port is taken
        if not reply.ok:
            raise EngineError(
                f"the engine is up, but refuses the key that it was given ({reply.status}): {reply.message}"
                "\n    Set the key as deploy.api_key (--eval_api_key), not in env_vars or extra_args."
            )
        names = listed_models(reply.json)
        if self._model not in names:
            raise EngineError(
                f"what answers at {self._address.root} serves {', '.join(names) or 'nothing'}, not {self._model}"
                "\n    Another server took the port; run again, or give another port."
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
        self._last = self._last[0], f"{reply.message} ({reply.status})"
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
