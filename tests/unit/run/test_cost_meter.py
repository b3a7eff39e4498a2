"""For how long an engine was held, and what it did meanwhile."""

import pytest
from fake_nvml import Driver, gpu, utilisation

from evalscope_evalflow.events.engine_events import (
    EngineKept,
    EngineReady,
    EngineReleased,
    EngineReused,
    EngineStarting,
)
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.events.run_events import Phase, PhaseBegan, RunFinished, RunState
from evalscope_evalflow.run.cost_meter import CostMeter
from evalscope_evalflow.state.costs import read_costs

READY = EngineReady("vllm", "u", 30.0)


def starting(*devices, local=True):
    return EngineStarting("vllm", None, local, "log", [], {}, devices=list(devices))


def released(held_s):
    return EngineReleased("vllm", True, 1.0, held_s, [], [], {})


def asked(dataset, busy_s, **fields):
    return DatasetProgress(dataset, False, 1, 9, busy_s=busy_s, **fields)


class Sampler:
    """Gives readings when a test says so."""

    def __init__(self):
        self.watched, self.read = [], lambda share: None

    def watch(self, names, on_reading):
        self.watched.append(list(names))
        self.read = on_reading

        def end():
            self.watched.clear()
            self.read = lambda share: None

        return end


class Watched:
    def __init__(self, tmp_path):
        self.now, self.sampler, self.folder = 1000.0, Sampler(), tmp_path
        (tmp_path / "evalflow").mkdir()
        self.meter = CostMeter(tmp_path / "evalflow", "r-1", clock=lambda: self.now, sampler=self.sampler)

    def __call__(self, event, after=0.0):
        self.now += after
        self.meter.on_event(event)

    @property
    def cost(self):
        return read_costs(self.folder)


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path)


def test_a_run_from_start_to_release(watched):
    watched(starting("0", "1"))
    assert watched.sampler.watched == [["0", "1"]]
    watched.sampler.read(0.1)
    watched(READY, after=30)
    watched.sampler.read(0.2)  # nothing is asked yet
    watched(asked("a", 0.0), after=5)
    watched(asked("a", 19.0), after=20)
    watched.sampler.read(0.9)
    watched(asked("a", 20.0, ended=True), after=1)
    watched(asked("b", 4.0, ended=True), after=6)
    watched(PhaseBegan(Phase.RELEASE))
    assert watched.sampler.watched == []
    watched(released(70.0), after=6)
    total = watched.cost.total
    assert (total.held_s, total.gpu_s) == (70.0, 140.0)
    assert (total.loading_s, total.answering_s, total.idle_s) == (32.0, 24.0, 14.0)  # 2 s before anybody was told
    assert total.utilisation == pytest.approx(0.4)
    cells = watched.cost.cells
    assert (cells["a"].gpu_s, cells["a"].utilisation, cells["b"].gpu_s) == (40.0, pytest.approx(0.9), 8.0)


def test_a_run_that_is_killed_has_lost_a_minute_at_most(watched):
    watched(starting("0"))
    watched(READY, after=10)
    for second in range(1, 200):
        watched(asked("a", float(second)), after=1)
    total = watched.cost.total
    assert 140 <= total.held_s <= 209
    assert total.loading_s == 10.0
    watched(released(209.0))
    assert (watched.cost.total.held_s, watched.cost.total.answering_s) == (209.0, 199.0)


def test_an_engine_that_died_is_held_anew_and_both_count(watched):
    for _ in range(2):
        watched(starting("0"))
        watched(READY, after=10)
        watched(asked("a", 0.0))
        watched(asked("a", 5.0), after=5)
        watched(released(15.0))
    total = watched.cost.total
    assert (total.held_s, total.loading_s, total.answering_s, total.idle_s) == (30.0, 20.0, 10.0, 0.0)


def test_a_start_that_was_tried_again_is_one_hold(watched):
    watched(starting("0"))
    watched(starting("0"), after=3)
    assert watched.sampler.watched == [["0"]]
    watched(READY, after=10)
    watched(released(13.0))
    assert watched.cost.total.loading_s == 13.0


def test_a_kept_engine_counts_for_whoever_uses_it(watched):
    watched(EngineReused("vllm", None, "r-0", "log", [], {}, devices=["0"]))
    watched(READY, after=1)
    watched(EngineKept("vllm", "12:00", 4.0), after=3)
    watched(RunFinished(RunState.COMPLETE), after=50)
    assert (watched.cost.total.gpu_s, watched.cost.total.loading_s) == (4.0, 1.0)


def test_without_a_gpu_nothing_is_sampled_and_seconds_count(watched):
    watched(starting())
    assert watched.sampler.watched == []
    watched(READY, after=2)
    watched(released(2.0))
    assert (watched.cost.total.held_s, watched.cost.total.gpu_s) == (2.0, None)


def test_an_api_is_not_held(watched):
    watched(starting(local=False))
    watched(asked("a", 3.0), after=3)
    watched(RunFinished(RunState.COMPLETE))
    assert watched.cost.total.held_s == 0


AT_THE_DRIVER = """
import json, pathlib, sys, threading
from evalscope_evalflow.devices.utilisation import UtilisationSampler
from evalscope_evalflow.events.engine_events import EngineReady, EngineReleased, EngineStarting
from evalscope_evalflow.events.run_events import Phase, PhaseBegan
from evalscope_evalflow.run.cost_meter import CostMeter
from evalscope_evalflow.state.costs import read_costs
folder, enough = pathlib.Path(sys.argv[1]), threading.Event()
class Meter(CostMeter):
    def _reading(self, share):
        super()._reading(share)
        enough.set()
meter = Meter(folder / "evalflow", "r-1", sampler=UtilisationSampler(0.01))
meter.on_event(EngineStarting("vllm", None, True, "log", [], {}, devices=["0", "1"]))
enough.wait(10)
meter.on_event(EngineReady("vllm", "u", 1.0))
meter.on_event(PhaseBegan(Phase.RELEASE))
meter.on_event(EngineReleased("vllm", True, 0.1, 2.0, [], [], {}))
print(json.dumps(read_costs(folder).as_record()))
"""


def test_gpu_seconds_and_utilisation_come_from_the_driver(tmp_path_factory, tmp_path):
    driver = Driver(tmp_path_factory.getbasetemp() / "nvml", tmp_path)
    driver.write(gpu("GPU-a"), gpu("GPU-b"), utilisation("GPU-a", 90), utilisation("GPU-b", 30))
    (tmp_path / "evalflow").mkdir()
    found = driver.python(AT_THE_DRIVER, str(tmp_path))
    assert (found["held_s"], found["gpu_s"], found["utilisation"]) == (2.0, 4.0, 0.6)
