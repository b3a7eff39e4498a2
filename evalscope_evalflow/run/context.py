"""The context of one model's run: its folder and lock, its id, and the events that it emits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from filelock import Timeout

from evalscope_evalflow.backends import Backend, Saved, load_backend
from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.file_locks import locked
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.events.base import Event
from evalscope_evalflow.events.run_events import Phase, PhaseBegan, PhaseEnded
from evalscope_evalflow.processes.registry import new_run_id
from evalscope_evalflow.run.checkpoint_changes import CheckpointFiles
from evalscope_evalflow.run.control import Control
from evalscope_evalflow.run.folder_lock import folder_in_use, refuse_by_record
from evalscope_evalflow.state import cells


class Subscriber(Protocol):
    """Wants to know what happens in a run."""

    def on_event(self, event: Event) -> None:
        """Something has happened. Called in whatever thread it happened in, one event at a time."""


class Run:
    """One model's part of a task, while it is being done.

    Attributes:
        task: the task, which has passed preflight.
        model: one of its models.
        control: whoever runs it: cancels it, and lends it devices and the judge.
        run_id: identifies every process of the run.
        folder: the run folder.
        checkpoint: the checkpoint's files as they are at the run's start.
        left: what of its engines could not be released, a line each.
    """

    def __init__(self, task: Task, model: ModelConfig, control: Control) -> None:
        self.task, self.model, self.control = task, model, control
        self.run_id = new_run_id()
        self.folder = task.folder(model)
        self.checkpoint = CheckpointFiles(model, task.whole.get(model.name))
        self.left: list[str] = []
        self._subscribers: list[Subscriber] = []
        self._lock = threading.RLock()

    @property
    def record_folder(self) -> Path:
        """Where the record and the logs are."""
        return self.folder / "evalflow"

    @property
    def deploy(self) -> DeployConfig:
        """How the model is served."""
        return self.task.flow.deploy_for(self.model)

    @property
    def backend(self) -> Backend:
        """The stock backend that evaluates it."""
        return load_backend(self.task.flow.backend)

    def saved(self) -> Saved:
        """What the run folder holds now."""
        return self.backend.look(self.task, self.model)

    def answers(self) -> int:
        """Number of answers that are saved now."""
        saved = self.saved()
        return sum(saved.answers(dataset) for dataset in self.task.datasets)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Tell it of every event from now on, after those that have subscribed before."""
        self._subscribers.append(subscriber)

    def emit(self, event: Event) -> None:
        """Something has happened. May be called in any thread.

        Raises:
            OSError: a subscriber could not write it down; the others have heard of it all the same.
        """
        trouble: OSError | None = None
        with self._lock:
            for subscriber in self._subscribers:
                try:
                    subscriber.on_event(event)
                except OSError as error:  # such as a full disk, which must not keep anything from being shown
                    trouble = trouble or error
        if trouble is not None:
            raise trouble

    def update_cells(self, changes: dict[str, dict[str, Any]]) -> None:
        """Change what cells.json says, dataset by dataset (fields of `state.cells.Cell`)."""
        with self._lock:
            cells.update_all(self.folder, changes)

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """A block that is a phase of the run."""
        began = time.monotonic()
        self.emit(PhaseBegan(phase))
        try:
            yield
        finally:
            self.emit(PhaseEnded(phase, round(time.monotonic() - began, 3)))

    @contextmanager
    def lock_folder(self) -> Iterator[None]:
        """A block in which no other run uses the folder.

        Raises:
            ConfigError: another one does.
        """
        self.record_folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                if not stack.enter_context(locked(self.record_folder / "run.lock", 0)):
                    refuse_by_record(self.folder)
            except Timeout:
                raise ConfigError(folder_in_use(self.folder)) from None
            yield


class Callback:
    """A subscriber that is a function, for events of some types."""

    def __init__(self, function: Callable[[Any], None], *types: type[Event]) -> None:
        self._function, self._types = function, types

    def on_event(self, event: Event) -> None:
        if isinstance(event, self._types):
            self._function(event)
