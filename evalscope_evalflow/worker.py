"""The worker: a child process that runs one stock EvalScope task.

It is run by its path, in any environment that has EvalScope, and needs nothing else of this package. It
speaks JSON lines. On its standard input, first the task:

    {"task": {…stock TaskConfig…}}

then, when the model can be asked, `{"go": {"api_url": …}}`. On the descriptor EVALFLOW_STATUS_FD it says
`imported`, `waiting` (all that can be done without the model is done), `going`, and `done` or `failed`.
Keys are in its environment, and in the task only by reference.

The task starts at once; it is held where EvalScope first needs the model, so that importing EvalScope and
loading data cost nothing while the engine loads.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
import traceback
from typing import Any

if __name__ == "__main__":  # run by path, Python puts our folder first: `import config` would then find ours
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]

KEY_PREFIX = "EVALFLOW_KEY_"  # variables that the parent puts keys into
MODEL_KEY = "EVALSCOPE_API_KEY"  # read by EvalScope where a task has no key of its own
MASK = "**********"


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
        return make(task_config.model_copy(update={"model_args": get_secret_value(task_config.model_args)}))

    model_module.get_model_with_task_config = make_when_ready


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


def run(task: dict[str, Any], parent: Parent) -> None:
    """Run the stock task."""
    mask_keys()
    from evalscope.config import TaskConfig
    from evalscope.run import run_task

    parent.say("imported")
    hold_until_go(parent)
    # With no key of its own, EvalScope reads the variable EVALSCOPE_API_KEY.
    run_task(TaskConfig.from_dict({**resolve(task), "api_key": None}))


def main() -> int:
    parent = Parent(int(os.environ.pop("EVALFLOW_STATUS_FD")))
    task = parent.listen()["task"]
    try:
        run(task, parent)
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
