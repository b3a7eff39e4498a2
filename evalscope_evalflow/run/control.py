"""How an executor and a model's run speak to each other: about cancellation, devices and the judge."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from evalscope_evalflow.errors import RESUME, EvalFlowError, Stopped
from evalscope_evalflow.events.run_events import FilesReadAhead
from evalscope_evalflow.run.standby_worker import StandbyWorker
from evalscope_evalflow.serving.standby_engine import StandbyEngine


class JudgeUse(Protocol):
    """One run's use of the judge that the sweep deploys."""

    @property
    def name(self) -> str:
        """The judge's name."""

    @property
    def log(self) -> str:
        """The file of its engine's output."""

    @property
    def api_key(self) -> str:
        """Its key; known before it is ready."""

    def wait_ready(self) -> str:
        """Wait until it can be asked; returns the base URL of its API.

        Raises:
            EvalFlowError: it could not be started.
        """


class Control:
    """Controls one model's run; this class is for a run on its own, with devices and judge all to itself.

    An executor that runs several models in threads of this process has a subclass (see sweep/executors/local.py).

    Attributes:
        clean: whether the engines of the run that have ended left nothing on their devices.
        shares_engine: whether other models of the sweep can use the run's engine after it, or have used it before.
        swaps_weights: whether weights are replaced in that engine then; else it serves all of them as it is.
        continues: whether it scores what another run has answered, as on a cluster, whose engine its record describes.
    """

    def __init__(self) -> None:
        self.clean = True
        self.shares_engine = False
        self.swaps_weights = False
        self.continues = False
        self._lock = threading.Lock()
        self._cancelled = False
        self._ends: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """End the run, from any thread: nothing new is begun, and what runs is ended in order."""
        with self._lock:
            self._cancelled = True
            ends = list(self._ends)
        for end in ends:
            end()

    def check(self) -> None:
        """Raise an error if the run was cancelled.

        Raises:
            Stopped: it was.
        """
        if self._cancelled:
            raise Stopped.all(f"interrupted; {RESUME}")

    @contextmanager
    def on_cancel(self, end: Callable[[], None]) -> Iterator[None]:
        """Have `cancel` call `end` while the block runs, or at once if it was called before; `end` must not block."""
        with self._lock:
            self._ends.append(end)
            cancelled = self._cancelled
        try:
            if cancelled:
                end()
            yield
        finally:
            with self._lock:
                self._ends.remove(end)

    def devices_released(self) -> None:
        """The run's engine has ended, and is not needed again."""

    def may_keep_engine(self) -> bool:
        """Whether the engine may be kept (`deploy.keep_alive_s`): not while other models wait for its devices."""
        return True

    def engine_ready(self) -> None:
        """The run's engine is ready: from now on the model answers."""

    def read_ahead(self) -> FilesReadAhead | None:
        """What was read of the run's checkpoint before its turn came; None: nothing was tried. Asked once, first."""
        return None

    def work_planned(self) -> None:
        """What is left to do is known, and what must not be resumed was archived. Called once, before all else."""

    def standby_worker(self) -> StandbyWorker | None:
        """A worker that was started ahead, and is the run's from now on; None: there is none.

        It is asked before each worker that the run starts.
        """
        return None

    def standby_engine(self) -> StandbyEngine | None:
        """A process that was started ahead, to become the run's engine; None: there is none.

        It is asked before each engine that the run starts.
        """
        return None

    def heir_waits(self) -> bool:
        """Whether another model begins with this engine as soon as it is kept: an executor that says so does that.

        It is asked once, when the last answer has come.
        """
        return False

    def judge_ahead(self, datasets: Sequence[str]) -> list[str]:
        """Of these datasets, those of which the run asks the judge about one answer while its model still answers.

        It is asked once: whether the judge's verdicts on a dataset can be read does not depend on the model.
        """
        return list(datasets)

    def own_judge(self, lost: Callable[[str], None]) -> AbstractContextManager[JudgeUse]:
        """A context in which the run uses the judge that the sweep deploys; entering it waits until that is started.

        Args:
            lost: is called, in a thread, with why the judge does not work any more.

        Raises:
            EvalFlowError: it could not be started, or has died too often.
        """
        raise EvalFlowError("nobody deploys the section's judge here; use `executor: local`")

    def judging(self, verdicts: int) -> AbstractContextManager[int | None]:
        """A context in which the run may ask the judge; entering it waits until it may.

        Args:
            verdicts: how many verdicts it needs; 0: none.

        Returns:
            How many it may ask for at once; None: as many as the task allows.
        """
        return nullcontext()
