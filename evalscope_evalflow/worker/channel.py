"""The process that started us: what is said to it, and what it says."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn


class Parent:
    """Both ends of the line to it."""

    def __init__(self, status_fd: int) -> None:
        self._status = os.fdopen(status_fd, "w", buffering=1, encoding="utf-8")
        self._saying = threading.Lock()
        self._asking = threading.Lock()
        self._api_url: str | None = None
        self.once_the_engine_is_there: Callable[[], None] = lambda: None

    def say(self, event: str, **details: Any) -> None:
        """Tell it what has happened."""
        with self._saying:
            print(json.dumps({"event": event, **details}, default=str), file=self._status)

    def listen(self) -> dict[str, Any]:
        """Its next word. Without one there is nobody to work for."""
        line = sys.stdin.readline()
        if not line:
            os._exit(1)
        message: dict[str, Any] = json.loads(line)
        return message

    def wait_for_model(self, meanwhile: Callable[[], None] | None = None) -> str:
        """Wait until the model can be asked, once; from any thread.

        Args:
            meanwhile: is called when the waiting begins, and must not wait itself.

        Returns:
            The base URL of its API.
        """
        with self._asking:
            if self._api_url is None:
                self.say("waiting")
                if meanwhile is not None:
                    meanwhile()
                self._api_url = str(self.listen()["go"]["api_url"])
                self.once_the_engine_is_there()
                self.say("going")
            return self._api_url

    def wait_to_judge(self) -> int | None:
        """Wait until the answers may be judged: the engine has been released by then.

        Returns:
            How many may be judged at once; None: as many as it said before.
        """
        while "judge" not in (word := self.listen()):  # the model's URL may have come when nothing was left to ask
            pass
        at_once: int | None = word["judge"].get("at_once")
        return at_once

    def end(self, reason: str) -> NoReturn:
        """End the run at once, from whatever thread; all that was answered is saved."""
        self.say("failed", kind="", message=reason)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
