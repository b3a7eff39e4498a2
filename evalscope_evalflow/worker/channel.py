"""The channel to the parent process: events go to it, requests come from it, one JSON line each."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TextIO, TypeVar, overload

from evalscope_evalflow.events.base import Event
from evalscope_evalflow.events.json_lines import FileError
from evalscope_evalflow.events.worker_events import WorkerAsking, WorkerFailed, WorkerWaiting
from evalscope_evalflow.events.worker_requests import (
    JudgeAnswers,
    ModelReady,
    WorkerRequest,
    parse_request,
)

RequestT = TypeVar("RequestT", bound=WorkerRequest)
OtherT = TypeVar("OtherT", bound=WorkerRequest)


class Channel:
    """Both directions.

    Attributes:
        on_model_ready: is called once, before the model is asked for the first time.
        judge_ahead: datasets of which the judge is asked about one answer while others are still being answered; known
            when the model is ready.
        judge_url: the base URL of a judge that is an engine of this sweep's; empty where it is not, or not needed.
    """

    def __init__(self, events: TextIO, requests: TextIO) -> None:
        """
        Args:
            events: file that the parent reads; each line must reach it at once.
            requests: file that the parent writes.
        """
        self.on_model_ready: Callable[[], None] = lambda: None
        self.judge_url = ""
        self.judge_ahead: Sequence[str] = ()
        self._events, self._requests = events, requests
        self._emitting = threading.Lock()
        self._waiting = threading.Lock()
        self._api_url: str | None = None

    @property
    def api_url(self) -> str | None:
        """The base URL of the model's API; None until the model can be asked."""
        return self._api_url

    def emit(self, event: Event) -> None:
        """Report an event; from any thread."""
        with self._emitting:
            print(json.dumps(event.as_dict(), default=str), file=self._events)

    @overload
    def receive(self, kind: type[RequestT], /) -> RequestT: ...
    @overload
    def receive(self, kind: type[RequestT], other: type[OtherT], /) -> RequestT | OtherT: ...
    def receive(self, *kinds: type[WorkerRequest]) -> WorkerRequest:
        """Wait for a request of one of these kinds; others are passed over. The process ends if the parent is gone."""
        while True:
            line = self._requests.readline()
            if not line:
                os._exit(1)
            request = parse_request(json.loads(line))
            if isinstance(request, kinds):
                return request

    def wait_for_model(self, meanwhile: Callable[[], None] | None = None) -> str:
        """Wait until the model can be asked, once; from any thread.

        Args:
            meanwhile: is called when the wait begins, and must not wait itself.

        Returns:
            The base URL of its API.
        """
        with self._waiting:
            if self._api_url is None:
                self.emit(WorkerWaiting())
                if meanwhile is not None:
                    meanwhile()
                ready = self.receive(ModelReady)
                self._api_url, self.judge_ahead = ready.api_url, ready.judge_ahead
                self.on_model_ready()
                self.emit(WorkerAsking())
            return self._api_url

    def wait_to_judge(self) -> int | None:
        """Wait until the answers may be judged: the engine is released by then.

        Returns:
            How many may be judged at once; None: as the task says.
        """
        request = self.receive(JudgeAnswers)  # the model's URL may have come when nothing was left to ask
        self.judge_url = request.judge_url
        return request.at_once

    @contextmanager
    def aborting(self) -> Iterator[None]:
        """A block that ends this process where one of our files cannot be written: what is bought would be lost."""
        try:
            yield
        except FileError as error:
            self.abort(error)

    def abort(self, reason: str | OSError) -> NoReturn:
        """End this process at once, from any thread; every answer so far is saved.

        Args:
            reason: why no other sample can be answered; an OSError: a file that cannot be written.
        """
        failed = WorkerFailed.of_disk(reason) if isinstance(reason, OSError) else WorkerFailed(kind="", message=reason)
        self.emit(failed)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def open_channel() -> Channel:
    """The channel that the parent has opened: a descriptor in EVALFLOW_STATUS_FD, and standard input."""
    status = os.fdopen(int(os.environ.pop("EVALFLOW_STATUS_FD")), "w", buffering=1, encoding="utf-8")
    return Channel(status, sys.stdin)
