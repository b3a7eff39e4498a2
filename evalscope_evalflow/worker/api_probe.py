"""Whose fault it is when an API that runs elsewhere does not answer: a request of one token tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from evalscope_evalflow.worker.request_failures import Unanswered, classify, error_reason, retry_after, untrusted

PROBE_TEXT = "Hi"


@dataclass(frozen=True)
class Api:
    """An API as events name it.

    Attributes:
        role: `model` or `judge`.
        url: its base URL, without user and query.
        model: the model that it is asked for.
    """

    role: str
    url: str
    model: str


class GivenUp(Unanswered):
    """The API is not asked any more in this run."""


class Fault(Enum):
    """Whose fault a failed request is."""

    REQUEST = "request"
    API = "api"
    SILENCE = "silence"  # it may be either's: the request was not answered in the time that it had
    LIMIT = "limit"  # the API takes no more requests for now, and does not say for how long


def fault_of(error: BaseException, kind: str) -> Fault:
    """Whose fault a failure looks like."""
    status = getattr(error, "status_code", None)
    if kind == "timeout":
        names = {type(item).__name__ for item in (error, error.__cause__) if item is not None}
        return Fault.API if "ConnectTimeout" in names else Fault.SILENCE
    if kind == "connection" or (isinstance(status, int) and status >= 500):
        return Fault.API
    return Fault.LIMIT if status == 429 else Fault.REQUEST


def ask_for_one_token(api: Any, patience_s: float) -> Pulse:
    """Ask for one token, as the client itself would: by the same proxies, certificates and headers.

    Args:
        api: EvalScope's object for the API.
        patience_s: seconds to wait.
    """
    messages = [{"role": "user", "content": PROBE_TEXT}]
    try:
        client = api.client.with_options(max_retries=0, timeout=patience_s)
        if hasattr(client, "chat"):
            client.chat.completions.create(model=api.model_name, messages=messages, max_tokens=1)
        else:
            client.messages.create(model=api.model_name, messages=messages, max_tokens=1)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the probe came to
        kind, transient = classify(error)
        seconds = retry_after(error) if transient else None
        works = fault_of(error, kind) in (Fault.REQUEST, Fault.LIMIT) and not untrusted(error)
        said = f"no answer to a request of one token within {patience_s:.0f} s" if kind == "timeout" else ""
        return Pulse(works, said or error_reason(error), seconds)
    return Pulse(True)


@dataclass(frozen=True)
class Pulse:
    """What came of a probe.

    Attributes:
        alive: whether it was answered, be it with a refusal.
        said: what was said, or why there was no answer.
        retry_after_s: seconds that the API asks to wait, if it does.
    """

    alive: bool
    said: str = ""
    retry_after_s: float | None = None


class Probe:
    """A request of one token, in a thread of its own: looking up a host's name alone may take longer than it has."""

    def __init__(self, ask: Callable[[float], Pulse], patience_s: float, done: Callable[[], None]) -> None:
        self.began = time.monotonic()
        self.deadline = self.began + patience_s
        self.pulse: Pulse | None = None
        self.told = False  # that nothing is known yet

        def run() -> None:
            self.pulse = ask(patience_s)
            done()

        threading.Thread(target=run, daemon=True, name="evalflow-probe").start()

    def result(self, now: float) -> Pulse | None:
        """What came of it; None while that is open."""
        if self.pulse is None and now >= self.deadline:
            return Pulse(False, f"no answer to a request of one token within {now - self.began:.0f} s")
        return self.pulse
