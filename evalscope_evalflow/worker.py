"""The worker: a child process that runs one stock EvalScope task.

It is run by its path, in any environment that has EvalScope, and needs nothing else of this package. It
speaks JSON lines. On its standard input, first the task:

    {"task": {…stock TaskConfig…}, "failures": {"file": …, "cause": …}}

then, when the model can be asked, `{"go": {"api_url": …}}`. On the descriptor EVALFLOW_STATUS_FD it says
`imported`, `waiting` (all that can be done without the model is done), `going`, and `done` or `failed`.
Keys are in its environment, and in the task only by reference.

The task starts at once; it is held where EvalScope first needs the model, so that importing EvalScope and
loading data cost nothing while the engine loads.

A request that fails makes no answer. EvalScope takes the text of some errors for the model's answer and scores it;
here such a sample fails, is not saved, and is written to the file of failures with its kind. Those that will fail
again for the same reason (`cause`, and the prompt) are not asked again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":  # run by path, Python puts our folder first: `import config` would then find ours
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]

KEY_PREFIX = "EVALFLOW_KEY_"  # variables that the parent puts keys into
MODEL_KEY = "EVALSCOPE_API_KEY"  # read by EvalScope where a task has no key of its own
MASK = "**********"


# Servers' words for a prompt that does not fit: OpenAI and vLLM, llama.cpp, DashScope, SGLang, Anthropic's gateway.
_TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window)|input length|too many tokens|longer than the model|prompt is too long",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"content[ _]?(filter|policy|management policy)|data_inspection_failed|inappropriate content|moderation|flagged"
    r"|invalid_prompt",
    re.IGNORECASE,
)
_WHOLE_RUN = {  # no sample will fare better
    401: "the key is refused",
    402: "the account has no balance",
    403: "access is refused",
    404: "there is no such model, or no such API",
}


class Parent:
    """The process that started us."""

    def __init__(self, status_fd: int) -> None:
        self._status = os.fdopen(status_fd, "w", buffering=1, encoding="utf-8")
        self._lock = threading.Lock()

    def say(self, event: str, **details: Any) -> None:
        """Tell it what has happened."""
        with self._lock:
            print(json.dumps({"event": event, **details}), file=self._status)

    def listen(self) -> dict[str, Any]:
        """Its next word. Without one there is nobody to work for."""
        line = sys.stdin.readline()
        if not line:
            os._exit(1)
        message: dict[str, Any] = json.loads(line)
        return message


def hold_until_go(parent: Parent) -> None:
    """Have EvalScope wait for the model's endpoint at the point where it makes its client."""
    from evalscope.api.model import model as model_module
    from evalscope.utils.argument_utils import get_secret_value

    make = model_module.get_model_with_task_config
    lock = threading.Lock()
    gone = threading.Event()

    def make_when_ready(task_config: Any) -> Any:
        with lock:
            if not gone.is_set():
                parent.say("waiting")
                # Not in the task: EvalScope takes a new port for a new task, and would not resume.
                os.environ["EVALSCOPE_BASE_URL"] = parent.listen()["go"]["api_url"]
                gone.set()
                parent.say("going")
        # EvalScope unwraps keys for its judges, and not for the model's client.
        model = make(task_config.model_copy(update={"model_args": get_secret_value(task_config.model_args)}))
        refuse_error_texts(model)
        return model

    model_module.get_model_with_task_config = make_when_ready


class Unanswered(Exception):
    """A sample that has no answer, though its request was answered.

    Attributes:
        kind: why, in a word.
        transient: whether it may work when it is asked again.
    """

    def __init__(self, kind: str, transient: bool, message: str) -> None:
        super().__init__(message)
        self.kind, self.transient = kind, transient


def classify(error: BaseException) -> tuple[str, bool]:
    """The kind of a failure, and whether it is transient. Of `run` kind is what no sample would survive."""
    if isinstance(error, Unanswered):
        return error.kind, error.transient
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"APITimeoutError", "TimeoutError", "TimeoutException"}:
        return "timeout", True
    if names & {"APIConnectionError", "ConnectionError", "TransportError"}:
        return "connection", True
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        return "error", True
    if status == 429:  # before its words, which are of tokens too
        return "rate_limited", True
    said = f"{error} {json.dumps(getattr(error, 'body', None), default=str)}"
    if status not in (401, 402, 404) and _TOO_LONG.search(said):
        return "context_too_long", False
    if 400 <= status < 500 and status not in (401, 402, 404) and _REFUSED.search(said):
        return "content_refused", False
    if status in _WHOLE_RUN:
        return "run", False
    if status in (408, 409, 425) or status >= 500:
        return "server_error", True
    return "request_refused", False


class Failures:
    """What could not be answered or scored, in a file that outlives this process."""

    def __init__(self, file: str, cause: str) -> None:
        self._file, self._cause = file, cause
        self._lock = threading.Lock()
        self._secrets = [
            value for name, value in os.environ.items() if name.startswith(KEY_PREFIX) or name == "EVALSCOPE_API_KEY"
        ]
        self._known: dict[tuple[str, str, str], dict[str, Any]] = {}
        if os.path.exists(file):
            with open(file, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    try:
                        item = json.loads(line)
                        self._known[str(item["dataset"]), str(item["subset"]), str(item["sample"])] = item
                    except (ValueError, KeyError, TypeError):
                        continue  # half a line, of a process that was killed

    def add(self, dataset: str, subset: str, sample: Any, cause: str, kind: str, transient: bool, said: str) -> None:
        """Write one down."""
        for secret in self._secrets:
            if secret and secret != "EMPTY":
                said = said.replace(secret, "**********")
        item = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "dataset": dataset, "subset": subset, "sample": sample,
            "kind": kind, "transient": transient, "message": " ".join(said.split())[:500], "cause": cause,
        }  # fmt: skip
        with self._lock, open(self._file, "a", encoding="utf-8") as file:
            file.write(json.dumps(item, ensure_ascii=False, default=str) + "\n")

    def expect(self, dataset: str, subset: str, sample: Any, cause: str) -> None:
        """Fail at once where the same request is known to fail.

        Raises:
            Unanswered: as it did before.
        """
        item = self._known.get((dataset, subset, str(sample)))
        if item and not item["transient"] and item.get("cause") == cause:
            raise Unanswered(item["kind"], False, f"not asked again: {item['message']}")

    def cause(self, prompt: Any) -> str:
        """A fingerprint of what makes a request fail: what the parent says of the task, and the prompt."""
        messages = prompt if isinstance(prompt, list) else [prompt]
        asked = [[getattr(item, "role", "user"), getattr(item, "content", item)] for item in messages]
        text = json.dumps(asked, default=lambda item: item.model_dump() if hasattr(item, "model_dump") else str(item))
        return hashlib.sha256((self._cause + text).encode()).hexdigest()[:16]


def note_failures(failures: Failures, end: Callable[[str], None]) -> None:
    """Have EvalScope write down every sample that fails, and not ask those that are known to.

    Args:
        failures: the file.
        end: ends the run, with the reason, when no sample can succeed.
    """
    from evalscope.evaluator.evaluator import DefaultEvaluator

    process = DefaultEvaluator._process_work_item

    @functools.wraps(process)
    def noted(self: Any, item: Any, folder: str) -> Any:
        dataset, subset = str(self.benchmark_name), str(item.subset)
        asks = item.needs_predict
        sample = item.sample.id if asks else item.task_state.sample_id
        cause = failures.cause(item.sample.input) if asks else ""
        if asks:
            failures.expect(dataset, subset, sample, cause)
        try:
            return process(self, item, folder)
        except Exception as error:
            if asks and not getattr(item, "prediction_persisted", False):
                kind, transient = classify(error)
                if kind == "run":
                    end(_run_error(error))
            else:
                kind, transient = "scoring", True
            failures.add(dataset, subset, sample, cause, kind, transient, _said(error))
            raise

    DefaultEvaluator._process_work_item = noted


def _run_error(error: Any) -> str:
    url = getattr(getattr(error, "request", None), "url", None)
    where = f"{url.scheme}://{url.netloc.decode()}{url.path}" if url is not None else "the API"  # no query: keys
    return f"{where} refuses every request ({error.status_code}: {_WHOLE_RUN[error.status_code]}): {_said(error)}"


def _said(error: Any) -> str:
    """The server's own words, or the error's."""
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    return str(said or error or type(error).__name__)


def refuse_error_texts(model: Any) -> None:
    """Keep a model's client from making an answer of an error.

    EvalScope's own handling makes one of a context that is too long and of refused content, and what an engine that
    is shut down had said so far passes for a whole answer.
    """
    api: Any = getattr(model, "api", None)
    if not hasattr(api, "handle_bad_request") or "handle_bad_request" in vars(api):
        return
    on_response = api.on_response

    def fail(error: Exception) -> Any:
        raise error

    def look(response: dict[str, Any]) -> None:
        for choice in response.get("choices") or []:
            reason = choice.get("finish_reason")
            if reason == "content_filter":
                raise Unanswered("content_refused", False, "the answer was withheld (finish_reason content_filter)")
            if reason in ("abort", "error"):
                raise Unanswered("cut_off", True, f"the answer was broken off (finish_reason {reason})")
        on_response(response)

    api.handle_bad_request, api.on_response = fail, look


class _Through(BaseException):
    """Carries an error through `except Exception`."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def retry_only_what_is_transient() -> None:
    """Have EvalScope send no request again that was refused for good: some of its versions do, with every pause."""
    from evalscope.models import openai_compatible as module

    retry, retry_async = module.retry_call, module.async_retry_call

    def check(error: Exception) -> None:
        if isinstance(getattr(error, "status_code", None), int) and not classify(error)[1]:
            raise _Through(error) from error

    def once(function: Any, *args: Any, **options: Any) -> Any:
        def call(*inner: Any, **more: Any) -> Any:
            try:
                return function(*inner, **more)
            except Exception as error:
                check(error)
                raise

        try:
            return retry(call, *args, **options)
        except _Through as through:
            raise through.error from None

    async def once_async(function: Any, *args: Any, **options: Any) -> Any:
        async def call(*inner: Any, **more: Any) -> Any:
            try:
                return await function(*inner, **more)
            except Exception as error:
                check(error)
                raise

        try:
            return await retry_async(call, *args, **options)
        except _Through as through:
            raise through.error from None

    module.retry_call, module.async_retry_call = once, once_async


def resolve(node: Any, secret: bool = False) -> Any:
    """Put keys in place of the references to our environment.

    Those of judges and of `model_args` become SecretStr, which EvalScope masks in what it writes.
    """
    from pydantic import SecretStr

    if isinstance(node, dict):
        return {name: resolve(value, secret or name in ("judge", "model_args")) for name, value in node.items()}
    if isinstance(node, list):
        return [resolve(value, secret) for value in node]
    if isinstance(node, str) and node.startswith("${" + KEY_PREFIX):
        key = os.environ[node[2:-1]]
        return SecretStr(key) if secret else key
    return node


def mask_keys() -> None:
    """Keep keys that servers repeat out of EvalScope's log, and out of the errors that it saves with verdicts."""
    import logging

    found = [value for name, value in os.environ.items() if name.startswith(KEY_PREFIX) or name == MODEL_KEY]
    known = sorted({key for key in found if key and key != "EMPTY"}, key=len, reverse=True)
    format_record = logging.Handler.format

    def format_masked(self: logging.Handler, record: logging.LogRecord) -> str:
        text = format_record(self, record)
        for key in known:
            text = text.replace(key, MASK)
        return text

    logging.Handler.format = format_masked  # type: ignore[method-assign]
    for name in ("httpx", "httpx2"):  # which of them openai uses depends on its version
        with contextlib.suppress(ImportError):
            _mask_errors(importlib.import_module(name).Response, known)


def _mask_errors(response_class: Any, known: list[str]) -> None:
    """Mask keys in the body of every reply that is an error. An answer is never touched: a key may be a word of it."""
    read, aread = response_class.read, response_class.aread

    def masked(response: Any) -> bytes:
        if response.is_error:
            for key in known:
                response._content = response._content.replace(key.encode(), MASK.encode())
        return bytes(response._content)

    def read_masked(self: Any) -> bytes:
        read(self)
        return masked(self)

    async def aread_masked(self: Any) -> bytes:
        await aread(self)
        return masked(self)

    response_class.read, response_class.aread = read_masked, aread_masked


def run(task: dict[str, Any], failures: dict[str, str], parent: Parent) -> None:
    """Run the stock task."""
    mask_keys()
    from evalscope.config import TaskConfig
    from evalscope.run import run_task

    parent.say("imported")
    hold_until_go(parent)
    note_failures(Failures(**failures), functools.partial(_end, parent))
    retry_only_what_is_transient()
    # With no key of its own, EvalScope reads the variable EVALSCOPE_API_KEY.
    run_task(TaskConfig.from_dict({**resolve(task), "api_key": None}))


def _end(parent: Parent, reason: str) -> None:
    """End the run at once, from whatever thread; all that was answered is saved."""
    parent.say("failed", kind="", message=reason)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def main() -> int:
    parent = Parent(int(os.environ.pop("EVALFLOW_STATUS_FD")))
    told = parent.listen()
    try:
        run(told["task"], told["failures"], parent)
    except Exception as error:  # noqa: BLE001 - whatever a benchmark raises is the parent's to report
        traceback.print_exc()
        parent.say("failed", kind=type(error).__name__, message=str(error))
        return 1
    parent.say("done")
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # results are on disk; EvalScope's threads and imports take a second to unwind
