"""The fault matrix: every row of `fault_table.py`, made to happen."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fault_table as table
import psutil
import pytest
from fault_run import BIN, GONE_WITHIN_S, SCRIPTED, FaultRun, answers_in, count_answers, orphans_come_here, wait_for
from fault_table import ROWS, VLLM_ROWS, Row
from judge_server import JudgeServer
from private_disk import PrivateDisk

from evalscope_evalflow import Endpoint

pytestmark = pytest.mark.real
SAMPLES = {table.SCRIPTED: 12, table.LLAMACPP: 16}
JUDGING_S = 0.25  # how long a verdict takes
REPORT_VARIABLE = "EVALFLOW_FAULTS_JSON"  # file for the seconds that each row took; see fault_doc.py


@pytest.fixture(scope="module", autouse=True)
def _subreaper() -> Iterator[None]:
    with orphans_come_here():
        yield


@pytest.fixture(scope="module")
def seconds() -> Iterator[dict[str, dict[str, float | None]]]:
    """What was measured, by row; written to a file at the end, if one is named."""
    found: dict[str, dict[str, float | None]] = {}
    yield found
    if os.environ.get(REPORT_VARIABLE):
        Path(os.environ[REPORT_VARIABLE]).write_text(json.dumps(found, indent=2) + "\n")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a subset for each engine."""
    folder = tmp_path_factory.mktemp("samples")
    words = ["apple", "river", "stone", "cloud"]
    for engine in (table.SCRIPTED, table.LLAMACPP):
        count = SAMPLES[engine]
        with (folder / f"{engine}_val.jsonl").open("w") as file:
            for number in range(count):
                options = {letter: words[(number + step) % 4] for step, letter in enumerate("ABCD")}
                question = f"Sample number {number}: which is '{words[number % 3]}'?"
                file.write(json.dumps({"id": str(number), "question": question, **options, "answer": "A"}) + "\n")
    return folder


@pytest.fixture(scope="module")
def make_task(samples: Path, gguf: Path) -> Callable[..., dict[str, Any]]:
    """Makes the task of an engine; one request at a time, so that batching cannot change answers."""

    def make(engine: str, work: Path, script: tuple[str, ...] = (), /, **deploy: Any) -> dict[str, Any]:
        settings = {
            "local_path": str(samples),
            "subset_list": [engine],
            "prompt_template": "{question}\n{choices}\nReply with the letter alone, as in ANSWER: A",
        }
        if engine == table.SCRIPTED:
            deploy = {"engine": engine, "extra_args": list(script), **deploy}
        elif engine == table.LLAMACPP:
            deploy = {"max_model_len": 512, "max_num_seqs": 1, **deploy}
        else:
            settings["subset_list"] = [table.LLAMACPP]
        return {
            "datasets": ["general_mcq"],
            "dataset_args": {"general_mcq": settings},
            # vLLM would be done before two faults have struck.
            "generation_config": {
                "max_tokens": 32 if engine == table.VLLM else 6,
                "temperature": 0.0,
                "retries": 2,
                "retry_interval": 0,
            },
            "eval_batch_size": 1,
            "work_dir": str(work),
            "model": str(gguf),
            "model_id": "m",
            "eval_backend": "evalflow",
            "evalflow": {"backend": "Native", "judge_max_num_seqs": 1, "deploy": deploy},
        }

    return make


@dataclass(frozen=True)
class Results:
    """What a run has come to: every answer, the report's metrics, and how many the judge has judged."""

    answers: dict[int, str]
    metrics: dict[str, Any]
    judged: int | None


def results_of(work: Path) -> Results:
    found = json.loads((work / "evalflow" / "run.json").read_text())["results"]["general_mcq"]
    return Results(answers_in(work), found["metrics"], found.get("judged"))


@pytest.fixture(scope="module")
def own_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDisk]:
    """A /dev/shm that nobody else uses; the rows that fill or lock a disk have one of their own."""
    with PrivateDisk(tmp_path_factory.mktemp("disk")) as disk:
        yield disk


@pytest.fixture(scope="module")
def undisturbed(
    make_task: Callable[..., dict[str, Any]],
    judge: JudgeServer,
    own_disk: PrivateDisk,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, bool], Results]:
    """The results of a run that nothing happens to; one for each engine, with the judge and without."""
    found: dict[tuple[str, bool], Results] = {}

    def get(engine: str, judged: bool) -> Results:
        if (engine, judged) not in found:
            folder = tmp_path_factory.mktemp(f"undisturbed-{engine}")
            task = make_task(engine, folder / "work") | (judged_by(judge) if judged else {})
            run = FaultRun(task, folder, work=folder / "work", disk=own_disk)
            try:
                assert run.process.wait(300) == 0, run.output()
                assert run.left_behind() == []
                found[engine, judged] = results_of(run.work)
                assert len(found[engine, judged].answers) == SAMPLES[engine]
            finally:
                run.close()
        return found[engine, judged]

    return get


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeServer]:
    """A judge that takes its time, and whose verdicts are by what it is asked."""
    with JudgeServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _well(judge: JudgeServer) -> None:
    make_well(judge)


def make_well(judge: JudgeServer) -> None:
    """Whatever a row has done to it."""
    judge.asked.clear()

    def verdict(number: int) -> str:
        time.sleep(JUDGING_S)
        return json.dumps({"verdict": "AB"[sum(judge.asked[number - 1].encode()) % 2]})

    judge.reply = verdict


def judged_by(judge: JudgeServer) -> dict[str, Any]:
    """What makes it a task with a judge."""
    return {"judge": judge.settings}


def begin(row: Row, run: FaultRun) -> None:
    """Wait for the row's phase."""
    if row.phase == table.LOADING:
        run.wait_loading(row.script)
    elif row.phase == table.EVALUATING:
        run.wait_evaluating()
    elif row.phase == table.JUDGING:
        run.wait_judging()
    else:
        run.wait_releasing()


def strike(row: Row, run: FaultRun, disk: PrivateDisk | None, judge: JudgeServer) -> tuple[float | None, float | None]:
    """Do what the row says; return when, or None where the script does it, and when it was told, if at once."""
    if not row.strike and not row.act:
        return None, None
    begin(row, run)
    targets = [run.find(who) for who in row.strike]
    assert all(targets), [who for who, target in zip(row.strike, targets, strict=True) if target is None]
    struck = time.monotonic()
    for target in targets:
        assert target is not None
        target.send_signal(row.signal)
    if disk is not None:
        disk.fill() if row.act == table.FULL_DISK else disk.turn_read_only()
    if row.act == table.SICK_JUDGE:
        judge.reply = lambda _: 500
    if row.act == table.SECOND_RUN:
        file = run.work.parent / "task.yaml"
        second = subprocess.run(
            [BIN / "evalflow", "run", file], capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "PYTHONPATH": str(SCRIPTED)},
        )  # fmt: skip
        assert second.returncode == 2
        assert f"{run.work} is in use by another run" in second.stderr
        assert run.process.poll() is None
        return struck, time.monotonic()
    return struck, None


def follow(
    row: Row, run: FaultRun, struck: float | None, told: float | None = None, seconds: float = 300
) -> dict[str, float | None]:
    """Stay with the run until it and all of it are gone; return the seconds to its word, and to its recovery or end.

    Where the script does it, the server's log tells when; where the engine is not well from its start, it is that.
    """
    saved: int | None = count_answers(run.work) if struck is not None else None
    went_on: float | None = None

    def over() -> bool:
        nonlocal told, went_on, saved, struck
        run.look()
        now = time.monotonic()
        if struck is None:
            struck = run.struck_by_script() if row.script_tells else run.began
        answers = count_answers(run.work)
        if saved is None and struck is not None:
            saved = answers
        if told is None and row.is_told and row.says[0] in run.output():
            told = now
        if went_on is None and saved is not None and answers > saved:
            went_on = now
        return run.ended is not None and not run.tree()

    wait_for(over, f"the end of it; it says:\n{run.output()}", seconds)
    assert struck is not None
    return seconds_of(struck, told, went_on if row.goes_on else time.monotonic())


def seconds_of(struck: float, told: float | None, over: float | None) -> dict[str, float | None]:
    """What is written down of a row."""
    assert over is not None
    return {
        "told_s": None if told is None else max(0.0, round(told - struck, 2)),
        "over_s": max(0.0, round(over - struck, 2)),
    }


def clear_away(row: Row, run: FaultRun, start: Callable[..., FaultRun]) -> dict[str, float | None]:
    """The orchestrator and its guards are dead: what they have left goes with the row's command.

    Returns:
        The seconds from that command's start.
    """
    assert run.process.wait(GONE_WITHIN_S) == row.code
    left = run.tree()
    began = time.monotonic()
    if row.after == "clean":
        done = run.command("evalflow", "clean")
        assert done.returncode == 0, done.stderr
        wait_for(lambda: not any(map(lives, left)), f"they are gone: {left}", GONE_WITHIN_S)
        gone = time.monotonic()
    else:
        again = start((), {}, {})
        wait_for(lambda: not any(map(lives, left)), f"they are gone: {left}", 30)
        gone = time.monotonic()
        assert again.process.wait(300) == 0, again.output()
        assert len(again.answers()) == SAMPLES[row.engine]
    wait_for(lambda: not run.left_behind(), f"nothing is left, but there is {run.left_behind()}", GONE_WITHIN_S)
    return seconds_of(began, None, gone)


def test_table_is_large_enough() -> None:
    assert len({row.id for row in [*ROWS, *VLLM_ROWS]}) == len([*ROWS, *VLLM_ROWS]) >= 40


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_fault(
    row: Row,
    make_task: Callable[..., dict[str, Any]],
    undisturbed: Callable[[str, bool], Results],
    judge: JudgeServer,
    own_disk: PrivateDisk,
    gguf: Path,
    tmp_path: Path,
    seconds: dict[str, dict[str, float | None]],
) -> None:
    judged = judged_by(judge) if row.phase == table.JUDGING else {}
    whole = undisturbed(row.engine, bool(judged))
    with contextlib.ExitStack() as stack:
        disk = None
        folder = tmp_path
        if row.act in (table.FULL_DISK, table.READ_ONLY):
            (tmp_path / "disk").mkdir()
            disk = stack.enter_context(PrivateDisk(tmp_path / "disk"))
            folder = tmp_path / "disk"
        work = disk.path("work") if disk else tmp_path / "work"

        def start(script: tuple[str, ...], deploy: dict[str, Any], more: dict[str, Any]) -> FaultRun:
            run = FaultRun({**make_task(row.engine, folder / "work", script, **deploy), **more, **judged},
                           tmp_path, disk=disk or own_disk, work=work)  # fmt: skip
            stack.callback(run.close)
            return run

        def here(value: Any) -> Any:
            return value.replace("SCRATCH", str(tmp_path)) if isinstance(value, str) else value

        task = {name: here(value) for name, value in row.task.items()}
        if "model" in task:
            Path(task["model"]).write_bytes(gguf.read_bytes().replace(b"token_embd.weight", b"token_embd.xeight", 1))
        run = start(tuple(map(here, row.script)), dict(row.deploy), task)
        struck, told = strike(row, run, disk, judge)
        if row.after:
            seconds[row.id] = clear_away(row, run, start)
            return
        measured = follow(row, run, struck, told)
        assert run.process.returncode == row.code, run.output()
        # Who is killed can wait for nobody; whoever ends in order has waited.
        in_time = GONE_WITHIN_S if row.code < 0 else 0.5
        assert run.ended is not None
        wait_for(lambda: not run.left_behind(), f"nothing is left, but there is {run.left_behind()}", in_time)
        if row.code < 0:
            assert measured["over_s"] is not None
            assert measured["over_s"] < GONE_WITHIN_S
        for words in row.says:
            assert words in run.output()
        assert "\nTraceback" not in run.output()  # an engine's own, indented, may be shown
        if row.state is not None:
            assert run.record()["state"] == row.state
            assert run.record().get("left", []) == []
        answers = run.answers()
        assert answers.items() <= whole.answers.items(), "what is saved is what would have been"
        if row.lost is not None:
            asked = int(row.task.get("limit", len(whole.answers)))
            assert len(answers) == asked - row.lost
        if row.lost == 0:
            assert results_of(work) == whole
        if row.lost == 0 and table.STOPPED in row.says:
            # Each sample once, but for what was in flight at an end; and each start asks for one token.
            starts = run.output().count("is ready at")
            assert run.requests() <= len(whole.answers) + starts + (starts - 1)
        seconds[row.id] = measured
        if row.resumes:
            if disk is not None:
                disk.make_room() if row.act == table.FULL_DISK else disk.turn_writable()
            saved = count_answers(work)
            make_well(judge)
            again = start((), {}, {})
            assert again.process.wait(300) == 0, again.output()
            assert results_of(work) == whole
            assert count_answers(work) >= saved


@pytest.mark.timeout(1800)  # five starts of vLLM, each up to 135 s beside other tests
def test_faults_of_vllm(
    vllm: Endpoint,
    vlm: Path,
    vllm_deploy: dict[str, Any],
    own_disk: PrivateDisk,
    judge: JudgeServer,
    make_task: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[str, dict[str, float | None]],
) -> None:
    """What only vLLM can show: its processes are several. One task for all rows, as each start takes a minute."""
    model = {"model": vllm.model, "model_id": vllm.model}
    monkeypatch.setenv("FAULTS_VLLM_KEY", vllm.api_key)
    asked = make_task(table.VLLM, tmp_path / "undisturbed")
    asked |= {**model, "api_url": vllm.api_url, "api_key": "${FAULTS_VLLM_KEY}"}
    asked["evalflow"]["deploy"] = {"engine": "remote"}
    task = make_task(table.VLLM, tmp_path / "work", **vllm_deploy)
    task |= {**model, "model": str(vlm)}
    *of_the_orchestrator, of_the_core, of_the_server = VLLM_ROWS
    evalscope = ("evalscope", "eval", "--eval-backend", "evalflow", "--eval-config")
    with contextlib.ExitStack() as stack:

        def start(task: dict[str, Any], *command: str) -> FaultRun:
            run = FaultRun(task, tmp_path, work=Path(task["work_dir"]), disk=own_disk, command=command)
            stack.callback(run.close)
            return run

        run = start(asked, "evalflow", "run")
        assert run.process.wait(400) == 0, run.output()
        whole = results_of(run.work)

        for row in of_the_orchestrator:
            run = start(task, *evalscope)
            if row.phase == table.EVALUATING:
                run.wait_evaluating(seconds=400)
            struck, _ = strike(row, run, None, judge)
            seconds[row.id] = follow(row, run, struck)
            assert run.process.returncode == row.code
            wait_for(
                lambda run=run: not run.left_behind(),
                f"nothing is left, but there is {run.left_behind()}",
                GONE_WITHIN_S,
            )

        run = start(task, *evalscope)
        for row in (of_the_core, of_the_server):
            saved = count_answers(run.work)
            run.wait_evaluating(saved + 3, 400)
            targets = [run.find(who) for who in (table.ENGINE, table.ENGINE_CORE)]
            assert all(targets)
            struck, _ = strike(row, run, None, judge)
            saved = count_answers(run.work)
            wait_for(lambda row=row: all(words in run.output() for words in row.says), run.output(), 60)
            told = time.monotonic()
            # Without us, the other one of the two lives on: see test_vllm_leak.py.
            wait_for(lambda old=targets: not any(map(lives, old)), "the end of both", GONE_WITHIN_S)
            wait_for(lambda saved=saved: count_answers(run.work) > saved, f"it goes on:\n{run.output()}", 400)
            assert struck is not None
            seconds[row.id] = seconds_of(struck, told, time.monotonic())
        assert run.process.wait(400) == 0, run.output()
        assert run.left_behind() == []
        assert "16/16" in run.output()
        assert run.record()["state"] == "complete"
        assert run.record()["release"]["released"] is True
        assert results_of(run.work) == whole


def lives(process: psutil.Process) -> bool:
    """Whether a process lives; one that nobody has collected yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
