"""The context of a run: who hears of what, in which order, and what a full disk changes about it."""

import threading

import pytest
from test_resume import checkpoint, make  # noqa: F401 - fixtures

from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.events.engine_events import DevicesFree, EngineReady, EngineReleased
from evalscope_evalflow.events.run_events import (
    NothingLeft,
    OverlapMeasured,
    Phase,
    PhaseBegan,
    PhaseEnded,
    WorkerStarted,
)
from evalscope_evalflow.events.worker_events import DatasetAnswered, DatasetFailed, WorkerAsking, WorkerWaiting
from evalscope_evalflow.run.context import Run
from evalscope_evalflow.run.control import Control
from evalscope_evalflow.run.inbox import Inbox
from evalscope_evalflow.run.overlap import OverlapMeter
from evalscope_evalflow.run.subscribers import CellsSubscriber, ExecutorSubscriber
from evalscope_evalflow.state import cells


class Listener:
    """A subscriber that notes what it hears, and may fail."""

    def __init__(self, journal, name, error=None):
        self.journal, self.name, self.error = journal, name, error

    def on_event(self, event):
        self.journal.append((self.name, event))
        if self.error is not None:
            raise self.error


@pytest.fixture
def run(make):  # noqa: F811
    task = make()
    return Run(task, task.models[0], Control())


def test_subscribers_hear_of_an_event_in_the_order_in_which_they_came(run):
    journal = []
    run.subscribe(Listener(journal, "first"))
    run.subscribe(Listener(journal, "second"))
    run.emit(NothingLeft())
    assert journal == [("first", NothingLeft()), ("second", NothingLeft())]


def test_one_that_cannot_write_it_down_keeps_nobody_from_hearing_of_it(run):
    journal = []
    full = OSError(28, "No space left on device")
    run.subscribe(Listener(journal, "record", full))
    run.subscribe(Listener(journal, "display"))
    with pytest.raises(OSError) as caught:
        run.emit(NothingLeft())
    assert caught.value is full
    assert [name for name, _ in journal] == ["record", "display"]


def test_a_phase_ends_however_its_block_does(run):
    journal = []
    run.subscribe(Listener(journal, "x"))
    with pytest.raises(KeyboardInterrupt), run.phase(Phase.LOAD):
        raise KeyboardInterrupt
    (_, began), (_, ended) = journal
    assert began == PhaseBegan(Phase.LOAD)
    assert (type(ended), ended.phase) == (PhaseEnded, Phase.LOAD)
    assert 0 <= ended.seconds < 5


def test_one_run_has_the_folder(run, make):  # noqa: F811
    task = make()
    with run.lock_folder():
        with pytest.raises(ConfigError) as caught, Run(task, task.models[0], Control()).lock_folder():
            pass
        assert "is in use by another run" in str(caught.value)
    with Run(task, task.models[0], Control()).lock_folder():
        pass


def test_cells_say_what_the_worker_has_reported(run):
    subscriber = CellsSubscriber(run)
    run.record_folder.mkdir(parents=True)
    subscriber.on_event(DatasetAnswered("general_qa", 5, 4))
    subscriber.on_event(DatasetFailed("general_mcq", "no data"))
    found = cells.read(run.folder)
    assert (found["general_qa"].requested, found["general_qa"].answered) == (5, 4)
    assert found["general_qa"].cause
    assert found["general_mcq"].error == "no data"


def test_the_executor_hears_of_free_devices_and_whether_they_are_clean():
    control = Control()
    over = []
    control.devices_released = lambda: over.append(control.clean)
    subscriber = ExecutorSubscriber(control)
    subscriber.on_event(EngineReleased("vllm", True, 0.1, 1.0, [], ["cannot be told"], {}))
    subscriber.on_event(DevicesFree())
    subscriber.on_event(EngineReleased("vllm", False, 0.1, 1.0, ["device 0 is held"], [], {}))
    subscriber.on_event(DevicesFree())
    assert over == [True, False]


def test_the_inbox_keeps_events_in_order_and_raises_what_another_thread_could_not_write():
    inbox = Inbox()
    inbox.put(NothingLeft())
    threading.Thread(target=inbox.put, args=(DevicesFree(),)).start()
    assert [inbox.next(), inbox.next()] == [NothingLeft(), DevicesFree()]
    assert inbox.empty
    inbox.fail(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        inbox.next()


def test_overlap_is_measured_once_the_model_is_asked():
    said = []
    meter = OverlapMeter(said.append)
    for event in (PhaseBegan(Phase.LOAD), WorkerStarted(), WorkerWaiting(), EngineReady("vllm", "http://x/v1", 1.0)):
        meter.on_event(event)
    assert said == []
    meter.on_event(WorkerAsking())
    (found,) = said
    assert isinstance(found, OverlapMeasured)
    assert found.worker_ready_s <= found.engine_ready_s
    assert found.share == 1.0


def test_without_an_engine_there_is_no_overlap():
    said = []
    meter = OverlapMeter(said.append)
    for event in (WorkerStarted(), WorkerWaiting(), WorkerAsking()):
        meter.on_event(event)
    assert said == []
