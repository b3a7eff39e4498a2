"""Tests that every executor passes. For an executor of your own, subclass `ExecutorSuite` in a pytest module:

    from evalscope_evalflow.testing.executor_suite import ExecutorSuite

    class TestMyExecutor(ExecutorSuite):
        choice = {"name": "mine", "slots": ["0", "1"]}  # as in the section's `executor`; two jobs at once are enough
        model = {"path": "/models/small.gguf", "deploy": {"engine": "llamacpp", "max_model_len": 1024}}

The jobs are real: each starts an engine, asks it and releases it. They take a minute or two in all. This module needs
pytest; nothing in EvalFlow imports it. docs/contributing/add-an-executor.md says more.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from evalscope_evalflow.config import FlowConfig, plugins
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import ConfigError, EvalFlowError, Stopped
from evalscope_evalflow.processes import registry
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.sweep.executors import GROUP, INTERFACE_VERSION, Executor, load_executor
from evalscope_evalflow.sweep.jobs import jobs_of
from evalscope_evalflow.testing.slow_judge import Judge

JOB_S = 240.0  # until a few small jobs have ended, on a busy machine
BEGIN_S = 120.0  # until an engine answers
GONE_S = 60.0  # until what a job started is gone
POLL_S = 0.05
SAMPLES = 4
MANY_SAMPLES = 60  # so that a job is still at work when something happens to it
VERDICTS_AT_ONCE = 2
OPTIONS = "ABCD"


class ExecutorSuite:
    """The tests; a subclass says which executor, and which model its jobs serve.

    Attributes:
        choice: the executor as in the section's `executor`: its name, or a mapping with its options.
        model: a small model as in the section's `models`, without a name. Its engine must answer multiple-choice
            questions, well or badly.
        broken: settings of `deploy` with which that engine does not start.
        slow: settings of `deploy` with which an answer takes a good part of a second; default: the model's own pace.
        devices: as in `deploy`: devices, or slots where no driver knows any, for two jobs at once.
        machines: how many machines jobs run on; devices have the same names on each.
    """

    choice: ClassVar[str | Mapping[str, Any]]
    model: ClassVar[Mapping[str, Any]]
    broken: ClassVar[Mapping[str, Any]] = {"extra_args": ["--no-such-option"]}
    slow: ClassVar[Mapping[str, Any]] = {}
    devices: ClassVar[str] = "0,1"
    machines: ClassVar[int] = 1

    @pytest.fixture(autouse=True)
    def _own_registry(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Runs of these tests are registered apart from all others."""
        monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "runtime"))

    @pytest.fixture
    def sweep(self, tmp_path: Path) -> Iterator[SmallSweep]:
        """Jobs to submit, and what became of them."""
        found = SmallSweep(self, tmp_path)
        yield found
        found.close()

    def load(self, choice: str | Mapping[str, Any]) -> Callable[[LiveReporter], Executor]:
        """The executor that a section chooses, ready for a reporter.

        Raises:
            ConfigError: it cannot be used.
        """
        kind, options = load_executor(FlowConfig.parse({"executor": choice}).executor)
        return lambda reporter: kind(reporter, options)

    @property
    def name(self) -> str:
        """The executor's name."""
        return FlowConfig.parse({"executor": self.choice}).executor.name

    def test_it_is_found_by_its_name_and_says_which_interface_it_was_written_for(self) -> None:
        assert self.name in plugins.known(GROUP)
        kind, _ = load_executor(FlowConfig.parse({"executor": self.choice}).executor)
        assert (kind.name, kind.interface_version) == (self.name, INTERFACE_VERSION)

    def test_an_unknown_option_is_refused_by_its_name(self) -> None:
        given = {"name": self.choice} if isinstance(self.choice, str) else dict(self.choice)
        with pytest.raises(ConfigError, match="no_such_option"):
            self.load({**given, "no_such_option": 1})

    def test_every_job_has_its_own_result_and_one_that_fails_harms_no_other(self, sweep: SmallSweep) -> None:
        """Results come in the order of submission, and jobs that run at the same time have different devices."""
        futures = sweep.run({"a": {}, "broken": self.broken, "b": {}, "c": {}})
        results = {name: outcome(future) for name, future in zip(("a", "broken", "b", "c"), futures, strict=True)}
        assert isinstance(results.pop("broken"), EvalFlowError)
        for name, result in results.items():
            assert isinstance(result, ModelResult), result
            assert (result.model.name, result.complete) == (name, True)
            assert pickle.loads(pickle.dumps(result)) == result
        held = [sweep.held(name) for name in results]
        for some in combinations(held, self.machines + 1):
            if all(one.overlaps(other) for one, other in combinations(some, 2)):
                assert not frozenset.intersection(*(one.devices for one in some))
        assert sweep.running() == []

    def test_cancelled_it_ends_what_runs_begins_nothing_more_and_returns_when_nothing_is_left(
        self, sweep: SmallSweep
    ) -> None:
        names = [f"slow-{number}" for number in range(4)]
        futures = sweep.start(dict.fromkeys(names, self.slow), samples=MANY_SAMPLES)
        sweep.wait_for(lambda: any(map(sweep.answers, names)), "a model has answered", BEGIN_S)
        processes = sweep.processes()
        assert processes
        sweep.executor.cancel()
        _, left = psutil.wait_procs(processes, timeout=0)
        assert [process.pid for process in left if process.status() != psutil.STATUS_ZOMBIE] == []
        assert sweep.running() == []
        begun = [name for name in names if sweep.events(name)]
        assert len(begun) < len(names)
        for found in map(outcome, futures()):
            assert isinstance(found, Stopped)
            assert found.everything
        assert [name for name in names if sweep.events(name)] == begun

    def test_a_job_whose_process_dies_has_failed_and_the_others_finish(self, sweep: SmallSweep) -> None:
        """SIGKILL of the job's process, or of its engine where the job runs in this process."""
        settings = {"dies": {**self.slow, "max_restarts": 0}, "a": {}, "b": {}}
        futures = sweep.start(settings, samples={"dies": MANY_SAMPLES})
        sweep.wait_for(lambda: sweep.answers("dies") > 0, "the model has answered", BEGIN_S)
        processes = sweep.kill("dies")
        dead, *others = map(outcome, futures())
        assert isinstance(dead, EvalFlowError)
        assert not isinstance(dead, Stopped)
        assert [isinstance(other, ModelResult) and other.complete for other in others] == [True, True], others
        _, left = psutil.wait_procs(processes, timeout=GONE_S)
        assert [process.pid for process in left if process.status() != psutil.STATUS_ZOMBIE] == []

    def test_the_judge_is_never_asked_for_more_at_once_than_the_section_allows(self, sweep: SmallSweep) -> None:
        with Judge() as judge:
            futures = sweep.run({"a": {}, "b": {}, "c": {}}, judge=judge, judge_max_num_seqs=VERDICTS_AT_ONCE)
            for found in map(outcome, futures):
                assert isinstance(found, ModelResult), found
                assert found.datasets[0].judged == SAMPLES
        assert judge.asked == 3 * SAMPLES
        assert judge.most_at_once <= VERDICTS_AT_ONCE


@dataclass(frozen=True)
class Held:
    """Devices that a job's engine had, and when (s since the epoch)."""

    devices: frozenset[str]
    begin: float
    end: float

    def overlaps(self, other: Held) -> bool:
        """Whether both engines were there at the same time."""
        return self.begin < other.end and other.begin < self.end


class SmallSweep:
    """A task of several small models, submitted to the executor as jobs that have been pickled.

    Attributes:
        executor: what runs them.
    """

    executor: Executor

    def __init__(self, suite: ExecutorSuite, folder: Path) -> None:
        self._suite, self._folder = suite, folder
        self._work = folder / "out"
        self._thread: threading.Thread | None = None

    def run(
        self, models: Mapping[str, Mapping[str, Any]], *, judge: Judge | None = None, **section: Any
    ) -> list[Future[ModelResult]]:
        """Submit jobs and wait until all have ended.

        Args:
            models: settings of `deploy` for each, on top of the suite's.
            judge: who judges their answers; default: a rule.
            section: more keys of the section.
        """
        return self.start(models, judge=judge, **section)()

    def start(
        self,
        models: Mapping[str, Mapping[str, Any]],
        *,
        samples: int | Mapping[str, int] = SAMPLES,
        judge: Judge | None = None,
        **section: Any,
    ) -> Callable[[], list[Future[ModelResult]]]:
        """Submit jobs in a thread of their own, as `submit` may take until they have ended.

        Args:
            models: settings of `deploy` for each, on top of the suite's.
            samples: that are asked of all, or of some.
            judge: who judges their answers; default: a rule.
            section: more keys of the section.

        Returns:
            Waits until all have ended, and returns their futures.
        """
        counts = (
            dict.fromkeys(models, samples)
            if isinstance(samples, int)
            else {**dict.fromkeys(models, SAMPLES), **samples}
        )
        jobs = []
        for name, deploy in models.items():
            task = Task.parse(self._task({name: deploy}, counts[name], judge, section))
            jobs += [pickle.loads(pickle.dumps(job)) for job in jobs_of(task)]
        self.executor = self._suite.load(self._suite.choice)(LiveReporter(Reporter(quiet=True), list(models)))
        submitted: Future[list[Future[ModelResult]]] = Future()

        def submit() -> None:
            try:
                submitted.set_result(self.executor.submit(jobs))
            except BaseException as error:  # noqa: BLE001 - the test gets it
                submitted.set_exception(error)

        self._thread = threading.Thread(target=submit, daemon=True)
        self._thread.start()

        def futures() -> list[Future[ModelResult]]:
            found = submitted.result(JOB_S)
            assert len(found) == len(jobs)
            assert not wait(found, JOB_S).not_done
            return found

        return futures

    def close(self) -> None:
        """End whatever a failed test has left."""
        if self._thread is not None:
            self.executor.cancel()
            self._thread.join(GONE_S)

    def events(self, model: str) -> list[dict[str, Any]]:
        """What its record says has happened; nothing if it was not begun."""
        path = self._work / model / "evalflow" / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def answers(self, model: str) -> int:
        """How many answers are saved."""
        files = (self._work / model).glob(f"predictions/{model}/*.jsonl")
        return sum(path.read_bytes().count(b"\n") for path in files)

    def held(self, model: str) -> Held:
        """The devices of a model's engine, from the beginning of its start to the end of its release."""
        times = {
            (event["event"], event["phase"]): datetime.fromisoformat(event["time"]).timestamp()
            for event in self.events(model)
            if "phase" in event
        }
        record = json.loads((self._work / model / "evalflow" / "run.json").read_text())
        devices = record["task"]["evalflow"]["models"][0]["deploy"].get("devices", self._suite.devices)
        return Held(frozenset(devices.split(",")), times["PhaseBegan", "load"], times["PhaseEnded", "release"])

    def running(self) -> list[str]:
        """Models whose runs are registered as running, or as ending."""
        return [entry.model for entry in registry.entries() if entry.state in ("running", "ending")]

    def processes(self, model: str = "") -> list[psutil.Process]:
        """The guards of the runs, of one model or of all, and all below them; and their owners, except this process."""
        found: dict[int, psutil.Process] = {}
        for entry in registry.entries():
            if model in ("", entry.model):
                roots = [guard.pid for guard in entry.guards] + [entry.owner.pid]
                for pid in roots:
                    if pid != os.getpid() and psutil.pid_exists(pid):
                        process = psutil.Process(pid)
                        found |= {item.pid: item for item in (process, *process.children(recursive=True))}
        return list(found.values())

    def kill(self, model: str) -> list[psutil.Process]:
        """SIGKILL a job's process, or its engine where it runs in this process; returns all that it had started."""
        entry = next(entry for entry in registry.entries() if entry.model == model)
        processes = self.processes(model)
        if entry.owner.pid != os.getpid():
            entry.owner.send(signal.SIGKILL)
            return processes
        guard = entry.commands["engine"].guard
        assert guard is not None
        for process in psutil.Process(guard.pid).children():
            process.kill()
        return processes

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait until a condition holds.

        Raises:
            AssertionError: it does not in time.
        """
        tick = threading.Event()
        for _ in range(int(timeout_s / POLL_S)):
            if condition():
                return
            tick.wait(POLL_S)
        raise AssertionError(f"not within {timeout_s:.0f} s: {what}")

    def _task(
        self, models: Mapping[str, Mapping[str, Any]], samples: int, judge: Judge | None, section: Mapping[str, Any]
    ) -> dict[str, Any]:
        """A task of these models over a multiple-choice set that is written for it."""
        data = self._folder / f"data-{samples}"
        data.mkdir(exist_ok=True)
        rows = [_question(number) for number in range(samples)]
        (data / "small_val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        common = {"devices": self._suite.devices, "tensor_parallel": 1, **self._suite.model.get("deploy", {})}
        listed = [
            {**self._suite.model, "name": name, "deploy": {**common, **deploy}} for name, deploy in models.items()
        ]
        return {
            "datasets": ["general_mcq"],
            "dataset_args": {"general_mcq": {"local_path": str(data), "subset_list": ["small"]}},
            "generation_config": {"max_tokens": 16, "temperature": 0.0},
            "eval_batch_size": 1,
            "work_dir": str(self._work),
            **({} if judge is None else {"judge": judge.settings, "eval_batch_size": SAMPLES}),
            "evalflow": {"backend": "Native", "models": listed, **section},
        }


def outcome(future: Future[ModelResult]) -> ModelResult | BaseException:
    """What became of a job: its result, or its error."""
    return future.exception() or future.result()


def _question(number: int) -> dict[str, str]:
    """A row of a multiple-choice set."""
    choices = {letter: str(number + step) for step, letter in enumerate(OPTIONS)}
    answer = OPTIONS[number % len(OPTIONS)]
    return {"id": str(number), "question": f"Which of these is {choices[answer]}?", **choices, "answer": answer}
