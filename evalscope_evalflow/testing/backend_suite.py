"""Tests that every stock backend passes. For a backend of your own, subclass `BackendConformance` in a pytest module:

    from evalscope_evalflow.testing.backend_suite import BackendConformance, Subject

    class TestMine(BackendConformance):
        subject = Subject("Mine", {"capitals": 3}, {"dataset_args": {"capitals": {"local_path": "capitals.jsonl"}}})

The suite brings the model: a server that counts what it is asked. This module needs pytest; nothing in EvalFlow imports
it. docs/contributing/add-a-backend.md has a complete example.
"""

from __future__ import annotations

import ast
import json
import os
import queue
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from evalscope_evalflow import sweep
from evalscope_evalflow.backends import INTERFACE_VERSION, Backend, DatasetResult, Saved, load_backend
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.events.base import Event
from evalscope_evalflow.events.worker_events import (
    AnswersSaved,
    DatasetAnswered,
    WorkerAsking,
    WorkerDone,
    WorkerExited,
    WorkerFailed,
)
from evalscope_evalflow.processes.registry import new_run_id
from evalscope_evalflow.run.worker_process import Worker
from evalscope_evalflow.state import cells
from evalscope_evalflow.testing.model_server import ModelServer

MODEL, JUDGE = "the-model", "the-judge"
MODEL_KEY, JUDGE_KEY = "sk-of-the-model-5d1", "sk-of-the-judge-8c2"
NO_PATIENCE = {"retries": 1, "timeout": 20}
EVENT_TIMEOUT_S = 300.0  # importing VLMEvalKit takes half a minute, and machines are shared
ANSWER_TIMEOUT_S = 60.0  # until a worker that may ask has asked
WORKER_MODULES = ("evalscope_evalflow.worker", "evalscope_evalflow.events")
EventT = TypeVar("EventT", bound=Event)


@dataclass(frozen=True)
class Subject:
    """A backend, and a task for it.

    Attributes:
        backend: its name, as in the section's `backend`.
        samples: number of samples of each dataset, two at least in the first.
        stock: stock fields of the task, such as `dataset_args`.
        section: fields of the section, such as `worker_env`.
        answer: what the model says to everything.
        verdict: what the judge says to everything; None where the backend asks none.
    """

    backend: str
    samples: Mapping[str, int]
    stock: Mapping[str, Any] = field(default_factory=dict)
    section: Mapping[str, Any] = field(default_factory=dict)
    answer: str = "A"
    verdict: str | None = None

    def load(self) -> Backend:
        """The backend, by its entry point."""
        return load_backend(self.backend)


class Bench:
    """A subject, its model and its judge, and a run folder for each name that is asked for.

    Attributes:
        backend: the backend.
        model: the server of the model.
        judge: the server of the judge.
    """

    def __init__(self, subject: Subject, model: ModelServer, judge: ModelServer, folder: Path) -> None:
        self.subject, self.backend = subject, subject.load()
        self.model, self.judge = model, judge
        self._folder = folder

    def task(self, name: str, **section: Any) -> Task:
        """A task in a run folder of this name."""
        judge = {"model_id": JUDGE, "api_url": self.judge.url, "api_key": JUDGE_KEY, "generation_config": NO_PATIENCE}
        return Task.parse(
            {
                "model": MODEL, "api_url": self.model.url, "api_key": MODEL_KEY,
                "datasets": list(self.subject.samples), "work_dir": str(self._folder / name), "eval_batch_size": 1,
                "generation_config": {"max_tokens": 16, "temperature": 0.0, **NO_PATIENCE},
                **({"judge": {"models": [judge]}} if self.subject.verdict is not None else {}),
                **self.subject.stock,
                "evalflow": {
                    "backend": self.subject.backend, "deploy": {"engine": "remote"}, **self.subject.section, **section,
                },
            }
        )  # fmt: skip

    def saved(self, task: Task) -> Saved:
        """What the run folder holds now."""
        return self.backend.look(task, task.models[0])

    def answers(self, task: Task) -> dict[str, int]:
        """Number of saved answers by dataset."""
        saved = self.saved(task)
        return {dataset: saved.answers(dataset) for dataset in task.datasets}

    def run(self, task: Task) -> dict[str, DatasetResult]:
        """Run a task, as `evalflow run` does; its results by dataset."""
        return {item.dataset: item for item in sweep.run(task).models[0].datasets}

    @contextmanager
    def worker(self, task: Task, phases: Sequence[str]) -> Iterator[RunningWorker]:
        """A worker of its own, for the length of a block."""
        folder = task.folder(task.models[0])
        (folder / "evalflow").mkdir(parents=True, exist_ok=True)
        events: queue.Queue[Event] = queue.Queue()
        worker = Worker(
            self.backend.start_task(task, task.models[0], phases, max_num_seqs=1),
            env=Environment.find(task.flow.worker_env),
            api_key=MODEL_KEY,
            log=folder / "evalflow" / "worker.log",
            run_id=new_run_id(),
            on_event=events.put,
        )
        try:
            yield RunningWorker(worker, events, folder)
        finally:
            assert worker.stop() == []


class RunningWorker:
    """A worker, and what it has reported."""

    def __init__(self, process: Worker, events: queue.Queue[Event], folder: Path) -> None:
        self.process, self.events, self.folder = process, events, folder
        self.seen: list[Event] = []

    def wait_for(self, kind: type[EventT]) -> EventT:
        """The next event of this kind; a worker that fails or exits before it fails the test."""
        while True:
            event = self.events.get(timeout=EVENT_TIMEOUT_S)
            self.seen.append(event)
            if isinstance(event, DatasetAnswered):  # as a run does
                cells.update(self.folder, event.dataset, requested=event.requested, answered=event.answered)
            if isinstance(event, kind):
                return event
            if isinstance(event, (WorkerFailed, WorkerExited)):
                pytest.fail(f"instead of {kind.__name__}: {event}\n{self.process.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """Kill the worker's process, so that it has no time for anything."""
        assert self.process.process.leader is not None
        os.kill(self.process.process.leader, signal.SIGKILL)
        self.wait_for(WorkerExited)


class BackendConformance:
    """What holds of every stock backend.

    Attributes:
        subject: the backend and a task. Where only a fixture knows them, override the fixture `made`.
    """

    subject: ClassVar[Subject]

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls) -> Subject:
        """The subject."""
        return cls.subject

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, made: Subject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
        """The subject with a model and a judge that answer."""
        with ExitStack() as serving:
            model = serving.enter_context(ModelServer(MODEL, MODEL_KEY, made.answer).served())
            judge = serving.enter_context(ModelServer(JUDGE, JUDGE_KEY, made.verdict or "").served())
            yield Bench(made, model, judge, tmp_path_factory.mktemp("runs"))

    @pytest.fixture(scope="class")
    @classmethod
    def finished(cls, bench: Bench) -> tuple[Task, dict[str, DatasetResult], list[str]]:
        """A whole run: the task, its results, and the prompts that the model got."""
        task, before = bench.task("finished"), len(bench.model.prompts)
        return task, bench.run(task), bench.model.prompts[before:]

    # before a run

    def test_it_declares_the_version_of_the_interface_that_it_was_written_for(self, made: Subject) -> None:
        backend = made.load()
        kinds = type(backend).__mro__
        assert any("interface_version" in vars(kind) for kind in kinds[: kinds.index(Backend)])
        assert backend.interface_version == INTERFACE_VERSION
        assert backend.name == made.backend

    def test_it_recognises_its_datasets_and_no_others(self, bench: Bench) -> None:
        task = bench.task("recognised")
        args = task.stock.get("dataset_args") or {}
        env = task.flow.worker_env
        assert all(bench.backend.recognises(name, args.get(name) or {}, env) for name in task.datasets)
        assert not bench.backend.recognises("no-dataset-has-this-name", {}, env)

    def test_a_task_that_is_right_has_no_problems(self, bench: Bench) -> None:
        task = bench.task("checked")
        assert list(bench.backend.check_installed(task.flow.worker_env)) == []
        assert list(bench.backend.check(task)) == []

    def test_the_stock_task_is_made_from_the_task(self, bench: Bench) -> None:
        task = bench.task("made")
        stock = bench.backend.stock_task(task, task.models[0], 7)
        assert stock["work_dir"] == str(task.folder(task.models[0]))
        assert "api_url" not in stock
        text = json.dumps(stock, default=str)
        assert MODEL_KEY not in text
        assert all(dataset in text for dataset in task.datasets)

    def test_the_worker_half_imports_only_what_is_there(self, made: Subject, bench: Bench) -> None:
        """At module level: the standard library, what EvalFlow has for workers, and files beside it."""
        task = bench.task("halves")
        request = bench.backend.start_task(task, task.models[0], ["infer"], 1)
        path, _, name = request.worker_half.rpartition(":")
        folder = Path(path).parent
        home = type(bench.backend).__module__.rpartition(".")[0]
        left, looked = [Path(path)], set[Path]()
        assert f"class {name}" in Path(path).read_text(encoding="utf-8")
        while left:
            file = left.pop()
            looked.add(file)
            for module in _module_level_imports(file, home):
                if module.startswith(f"{home}.") and home:
                    beside = folder.joinpath(*module.removeprefix(f"{home}.").split(".")).with_suffix(".py")
                    assert beside.is_file(), f"{file.name} imports {module}"
                    left += [beside] if beside not in looked else []
                else:
                    allowed = module.startswith(WORKER_MODULES) or module.split(".")[0] in sys.stdlib_module_names
                    assert allowed, f"{file.name} imports {module}"

    # a whole run

    def test_a_run_answers_and_scores_every_sample(
        self, made: Subject, finished: tuple[Task, dict[str, DatasetResult], list[str]]
    ) -> None:
        _, results, prompts = finished
        for dataset, number in made.samples.items():
            result = results[dataset]
            assert result.complete, result
            assert (result.requested, result.succeeded, result.failed, result.failures) == (number, number, 0, {})
            assert result.report is not None
            assert result.report.is_file()
            assert result.metrics[0].score is not None
        assert len(prompts) == sum(made.samples.values())

    def test_what_is_saved_is_counted(
        self, made: Subject, bench: Bench, finished: tuple[Task, dict[str, DatasetResult], list[str]]
    ) -> None:
        task = finished[0]
        assert bench.answers(task) == dict(made.samples)
        saved = bench.saved(task)
        assert {dataset: saved.verdicts(dataset) for dataset in made.samples} == dict(made.samples)
        assert set(saved.stamps()) >= {result.report for result in finished[1].values()}
        assert all(result.report is None for result in saved.results(saved.stamps()))  # none is new

    def test_each_sample_is_told(
        self, made: Subject, bench: Bench, finished: tuple[Task, dict[str, DatasetResult], list[str]]
    ) -> None:
        """What `evalflow show` and `compare` read; a backend that tells none has nothing to be compared."""
        task, results, _ = finished
        model = task.models[0]
        for dataset, number in made.samples.items():
            found = list(bench.backend.samples(task.folder(model), model.name, dataset))
            if not found and type(bench.backend).samples is Backend.samples:
                continue
            assert [item.state for item in found] == ["scored"] * number
            assert {item.answer for item in found} == {made.answer}
            assert all(item.prompt and item.question and item.group for item in found)
            score = results[dataset].metrics[0].score
            assert sum(item.score or 0.0 for item in found) / number == pytest.approx(score, abs=1e-3)

    def test_no_key_is_in_any_file(self, finished: tuple[Task, object, object]) -> None:
        keys = MODEL_KEY.encode(), JUDGE_KEY.encode()
        files = [path for path in finished[0].work_dir.rglob("*") if path.is_file()]
        assert files
        assert [path for path in files if any(key in path.read_bytes() for key in keys)] == []

    def test_nothing_is_asked_again(self, bench: Bench, finished: tuple[Task, object, object]) -> None:
        """Not even where the worker, and not the parent, has to find out that nothing is left."""
        task, before = finished[0], len(bench.model.prompts)
        assert all(result.complete for result in bench.run(task).values())
        with bench.worker(task, ["infer"]) as worker:
            worker.process.go(bench.model.url)
            worker.wait_for(AnswersSaved)
        assert len(bench.model.prompts) == before

    # answers first, verdicts later

    def test_answers_survive_a_kill_and_are_not_asked_again(self, made: Subject, bench: Bench) -> None:
        task, model, total = bench.task("killed"), bench.model, sum(made.samples.values())
        before = len(model.prompts)
        with ModelServer(MODEL, MODEL_KEY, made.answer).served() as stuck:
            stuck.held_after = 1
            with bench.worker(task, ["infer"]) as worker:
                worker.process.go(stuck.url)
                worker.wait_for(WorkerAsking)
                assert stuck.holding.wait(ANSWER_TIMEOUT_S)
                worker.kill()
        assert sum(bench.answers(task).values()) == 1  # saved when it came: the second never did
        with bench.worker(task, ["infer"]) as worker:
            worker.process.go(model.url)
            worker.wait_for(AnswersSaved)
        answered = [event for event in worker.seen if isinstance(event, DatasetAnswered)]
        assert {event.dataset: (event.requested, event.answered) for event in answered} == {
            dataset: (number, number) for dataset, number in made.samples.items()
        }
        assert bench.answers(task) == dict(made.samples)
        assert len(model.prompts) - before == total - 1
        assert stuck.prompts[0] not in model.prompts[before:]

    def test_judging_asks_the_model_for_nothing(self, made: Subject, bench: Bench) -> None:
        task = bench.task("judged-later", mode="infer")
        assert all(result.complete and result.predicted_only for result in bench.run(task).values())
        before = len(bench.model.prompts)
        task = bench.task("judged-later", mode="judge")
        with bench.worker(task, ["judge"]) as worker:
            worker.process.judge()
            worker.wait_for(WorkerDone)
        assert len(bench.model.prompts) == before
        results = {result.dataset: result for result in bench.saved(task).results({})}
        assert {name: result.succeeded for name, result in results.items()} == dict(made.samples)

    def test_a_sample_that_fails_is_counted_and_not_asked_again_in_vain(
        self, made: Subject, bench: Bench, finished: tuple[Task, object, list[str]]
    ) -> None:
        task, model = bench.task("failed"), bench.model
        first = next(iter(made.samples))
        model.refused = finished[2][0]
        result = bench.run(task)[first]
        assert not result.complete
        assert (result.requested, result.answered or result.succeeded) == (made.samples[first], made.samples[first] - 1)
        assert result.failed == 1
        assert result.failures == {"context_too_long": 1}
        (failure,) = bench.saved(task).failures(first)
        assert not failure.transient
        assert "maximum context length" in failure.message
        before = len(model.prompts)
        again = bench.run(task)[first]
        model.refused = None
        assert (again.failed, again.failures) == (1, {"context_too_long": 1})
        assert len(model.prompts) == before

    def test_verdicts_are_archived_without_answers(self, made: Subject, bench: Bench, tmp_path: Path) -> None:
        task, first = bench.task("archived"), next(iter(made.samples))
        assert bench.run(task)[first].complete
        assert bench.backend.archive_verdicts(task, task.models[0], first, tmp_path)
        assert list(tmp_path.rglob("*"))
        saved = bench.saved(task)
        assert (saved.answers(first), saved.verdicts(first)) == (made.samples[first], 0)
        assert {item.dataset: item.report for item in saved.results({})}[first] is None
        before = len(bench.model.prompts)
        assert bench.run(task)[first].complete
        assert len(bench.model.prompts) == before

    def test_everything_is_archived_but_what_is_not_its_own(self, made: Subject, bench: Bench, tmp_path: Path) -> None:
        task = bench.task("archived")
        bench.run(task)
        folder = task.folder(task.models[0])
        (folder / "notes.txt").write_text("mine")
        assert bench.backend.archive(task, task.models[0], tmp_path)
        assert bench.answers(task) == dict.fromkeys(made.samples, 0)
        assert (folder / "notes.txt").read_text() == "mine"
        assert not bench.backend.archive(task, task.models[0], tmp_path / "again")


def _module_level_imports(file: Path, home: str) -> set[str]:
    """Full names of the modules that a file imports when it is loaded; `home` is the package that it is in."""
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while todo:
        for node in ast.iter_child_nodes(todo.pop()):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(f"{home}.{node.module}" if node.level else str(node.module))
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                todo.append(node)
    return found
