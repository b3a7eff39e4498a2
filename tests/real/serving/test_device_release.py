"""`evalflow` on a machine with a GPU, whose driver says what the test has written: refused, released, held, unsure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_nvml import Driver, gpu, process
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent
SCRIPTED = Path(__file__).parents[2] / "scripted"
BY = os.getpid()  # somebody else: it lives, and is no process of the engine
HOST = 4194303  # a PID that does not exist here, as the host's in a container
FREE = gpu("GPU-a")


@pytest.fixture
def driver(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Driver:
    return Driver(tmp_path_factory.getbasetemp() / "nvml", tmp_path)


@pytest.fixture
def evalflow(driver: Driver, stock_task: dict[str, Any], tmp_path: Path) -> Callable[..., Any]:
    """Runs the command on a task of 8 questions for device 0; `came` is called with the engine's PID.

    Gives the exit code, what it printed on standard error, and run.json.
    """

    def run(came: Callable[[int], None] | None = None, **deploy: Any) -> tuple[int, str, Any]:
        section = {
            "backend": "Native",
            "deploy": {
                "engine": "scripted",
                "devices": "0",
                "max_restarts": 0,
                "extra_args": ["--answer", "ANSWER: A"],
                **deploy,
            },
        }
        file = tmp_path / "task.json"
        task = {**stock_task, "model": "any", "model_id": "m", "eval_backend": "evalflow", "evalflow": section}
        file.write_text(json.dumps(task))
        path = os.pathsep.join([str(SCRIPTED), os.environ.get("PYTHONPATH", "")])
        command = subprocess.Popen(
            [str(BIN / "evalflow"), "run", str(file)], env={**driver.env, "PYTHONPATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            if came is not None:
                came(engine_below(command))
            _, told = command.communicate(timeout=300)
        finally:
            command.kill()
            command.wait()
        record = Path(stock_task["work_dir"]) / "evalflow" / "run.json"
        return command.returncode, told, json.loads(record.read_text()) if record.exists() else None

    return run


def engine_below(command: subprocess.Popen[str]) -> int:
    """PID of the scripted server that a command has started."""

    def look() -> int | None:
        assert command.poll() is None, "it ended before its engine came"
        for child in psutil.Process(command.pid).children(recursive=True):
            words = child.cmdline()
            if len(words) > 1 and words[1].endswith("scripted_server.py"):
                return child.pid
        return None

    poll = Retrying(retry=retry_if_result(lambda pid: pid is None), stop=stop_after_delay(60), wait=wait_fixed(0.02))
    found: int = poll(look)
    return found


def gone(pid: int) -> None:
    """Wait for the end of a process."""
    Retrying(retry=retry_if_result(bool), stop=stop_after_delay(300), wait=wait_fixed(0.02))(psutil.pid_exists, pid)


def test_a_device_that_somebody_uses_is_refused(driver: Driver, evalflow: Callable[..., Any]) -> None:
    driver.write(gpu("GPU-a", 40004), process("GPU-a", BY, 40000), gpu("GPU-b"))
    code, told, record = evalflow()
    assert code == 2
    assert f"deploy.devices: device 0 (NVIDIA H100 80GB HBM3, 80 GiB) is in use: PID {BY} (" in told
    assert "39.1 GiB" in told
    assert "Idle here: 1." in told
    assert record is None, "nothing was begun"


def test_idle_devices_are_chosen_given_to_the_engine_and_written_down(
    driver: Driver, evalflow: Callable[..., Any]
) -> None:
    driver.write(gpu("GPU-a", 40004), process("GPU-a", BY, 40000), gpu("GPU-b"), gpu("GPU-c"))
    seen = []
    code, told, record = evalflow(
        lambda pid: seen.append(psutil.Process(pid).environ()["CUDA_VISIBLE_DEVICES"]),
        devices="auto",
        tensor_parallel=2,
    )
    assert (code, seen) == (0, ["1,2"]), told
    placement = record["placement"]
    assert (placement["devices"], placement["tensor_parallel"], placement["data_parallel"]) == (["1", "2"], 2, 1)
    assert placement["lines"][0].startswith("devices 1,2 (NVIDIA H100 80GB HBM3, 80 GiB) of 3 here: tensor_parallel 2")
    assert [device["name"] for device in record["release"]["devices"]] == ["1", "2"]


def test_released_beside_somebody_who_came_meanwhile(driver: Driver, evalflow: Callable[..., Any]) -> None:
    """He is not waited for, and his memory is not ours."""
    driver.write(FREE)
    other = process("GPU-a", BY, 30000)

    def came(engine: int) -> None:
        driver.write(gpu("GPU-a", 70004), process("GPU-a", engine, 40000), other)
        gone(engine)
        driver.write(gpu("GPU-a", 30004), other)

    code, told, record = evalflow(came)
    assert code == 0, told
    assert "scripted and all it started are gone" in told
    assert record["state"] == "complete"
    release = record["release"]
    assert release["released"] is True
    assert release["devices"] == [{"name": "0", "state": "released", "pids": [], "why": ""}]
    assert (release["processes"], release["port_free"], release["files"]) == ([], True, [])
    assert record["phases_s"]["release"] < 15


def test_what_is_held_is_told_and_the_exit_code_shows_it(driver: Driver, evalflow: Callable[..., Any]) -> None:
    """The results are there all the same."""
    driver.write(FREE)
    pids = []

    def came(engine: int) -> None:
        pids.append(engine)
        driver.write(gpu("GPU-a", 70004), process("GPU-a", engine, 40000), process("GPU-a", BY, 30000))

    code, told, record = evalflow(came)
    assert code == 1
    assert f"scripted was ended, but device 0 is still held by PID {pids[0]}" in told
    assert str(BY) not in told
    assert record["state"] == "failed"
    assert record["error"] == f"scripted was ended, but device 0 is still held by PID {pids[0]}"
    assert record["results"]["general_mcq"]["succeeded"] == 8
    assert record["release"]["released"] is False
    assert record["release"]["devices"] == [{"name": "0", "state": "held", "pids": pids, "why": ""}]


def test_what_cannot_be_told_is_a_warning(driver: Driver, evalflow: Callable[..., Any]) -> None:
    driver.write(FREE)
    code, told, record = evalflow(lambda _: driver.write(gpu("GPU-a", 70004), process("GPU-a", HOST, 40000)))
    assert code == 0, told
    assert f"whether device 0 is released cannot be told: PID {HOST} came while the engine ran" in told
    assert record["state"] == "complete"
    assert [(item["state"], item["pids"]) for item in record["release"]["devices"]] == [("unsure", [HOST])]
