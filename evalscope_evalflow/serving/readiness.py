"""When an engine is ready: it lives, is healthy, lists our model, and answers one token."""

from __future__ import annotations

import time
from typing import Any

from tenacity import Retrying, retry_if_result, sleep_using_event

from evalscope_evalflow.engines import Address
from evalscope_evalflow.errors import EngineError
from evalscope_evalflow.serving import http
from evalscope_evalflow.serving.process import Guarded

POLL_S = 0.1
LISTENING_POLL_S = 0.5  # requests that fail cost the server CPU time, which is no progress
ANSWER_TIMEOUT_S = 120.0  # the first token of a large model may take its time
PROGRESS_EVERY_S = 1.0
_CPU_PROGRESS_S = 0.05  # CPU seconds in one look that count as work: an idle server uses less


class Progress:
    """Whether a process tree gets anywhere: its log grows, or it uses CPU."""

    def __init__(self, process: Guarded) -> None:
        self._process = process
        self.listening = False  # once it answers, its log grows by our own requests
        self._seen = (0, 0.0)
        self._moved = self._looked = time.monotonic()

    def stalled_s(self) -> float:
        """Seconds since something last moved."""
        now = time.monotonic()
        if now - self._looked >= PROGRESS_EVERY_S:
            self._looked = now
            log = self._process.log
            size, cpu = log.stat().st_size if log.exists() else 0, self._process.cpu_seconds()
            if (size != self._seen[0] and not self.listening) or abs(cpu - self._seen[1]) > _CPU_PROGRESS_S:
                self._moved = now
            self._seen = (size, cpu)
        return now - self._moved


class Readiness:
    """The steps to readiness; each is passed once."""

    def __init__(self, process: Guarded, address: Address, model: str, stall_timeout_s: float) -> None:
        self._process, self._address, self._model = process, address, model
        self._stall_timeout_s = stall_timeout_s
        self._progress = Progress(process)
        self._healthy = False
        self._last = 0.0, ""  # when it last passed a step, and what it has said since

    def wait(self) -> None:
        """Wait until the engine is ready, or has exited (`process.exited` tells which).

        Raises:
            EngineError: it makes no progress, lists another model, or refuses a chat request.
        """
        poll = Retrying(
            retry=retry_if_result(lambda ready: not ready),
            wait=lambda _: LISTENING_POLL_S if self._progress.listening else POLL_S,
            sleep=sleep_using_event(self._process.exited),
        )
        poll(self._look)

    def _look(self) -> bool:
        if self._process.exited.is_set():
            return True
        if not self._healthy:
            reply = http.request(f"{self._address.root}/health", timeout_s=2, direct=True)
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

    def _lists_model(self) -> bool:
        reply = http.request(f"{self._address.root}/v1/models", api_key=self._address.api_key, direct=True)
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
        return True

    def _answers(self) -> bool:
        reply = http.request(
            f"{self._address.root}/v1/chat/completions",
            api_key=self._address.api_key,
            body=one_token(self._model),
            timeout_s=ANSWER_TIMEOUT_S,
            direct=True,
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
