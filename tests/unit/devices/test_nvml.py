"""Devices as NVIDIA's driver tells of them, and what a user is told of those that were asked for."""

import getpass
import json
import os
import re
import subprocess
import sys

import pytest
from fake_nvml import Driver, gpu, process
from serving_fixtures import wait_until

from evalscope_evalflow import deploy
from evalscope_evalflow.devices import nvml as module

ALL = """
import dataclasses, json; from evalscope_evalflow.devices.nvml import devices
print(json.dumps([dataclasses.asdict(device) for device in devices()]))
"""
CHECK = """
import json, sys; from evalscope_evalflow.devices.nvml import check_devices
text, variables, idle, needs_gpu = json.loads(sys.argv[1])
problems = check_devices(text, variables, idle=idle, needs_gpu=needs_gpu)
print(json.dumps([[found.where, found.what, found.todo] for found in problems]))
"""
NOBODY = 4194303  # above every PID that Linux gives
MIB = 1 << 20


@pytest.fixture
def driver(tmp_path_factory, tmp_path):
    return Driver(tmp_path_factory.getbasetemp() / "nvml", tmp_path)


def check(driver, text, variables=None, idle=True, needs_gpu=False):
    return driver.python(CHECK, json.dumps([text, variables or {}, idle, needs_gpu]))


def whats(found):
    return [what for _, what, _ in found]


@pytest.fixture
def bob():
    """Somebody's training, alive, with a key on its command line."""
    code = "import sys, time; time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-IS", "-c", code, "--api-key", "sk-of-bob"])
    yield other
    assert other.poll() is None, "it was ended"
    other.kill()
    other.wait()


def test_in_one_look_the_driver_is_asked_once_and_afterwards_anew(driver):
    driver.write(gpu("GPU-a"), gpu("GPU-b", used_mib=9000))
    code = """
import json, pathlib, sys, pynvml; from evalscope_evalflow.devices.nvml import check_devices, cached_reads, read
asked, init = [], pynvml.nvmlInit
pynvml.nvmlInit = lambda: (asked.append(1), init())
def look():
    return len(list(check_devices("1", {}))), [device.used_bytes for device in read(None).values()]
with cached_reads():
    first = [look() for _ in range(100)]
    number = len(asked)
    state = pathlib.Path(sys.argv[1])
    state.write_text(state.read_text().replace(" 9000 ", " 4 "))
    with cached_reads():
        first += [look()]
print(json.dumps([number, len(asked), all(item == first[0] for item in first), first[0], look()]))
"""
    number, later, same, first, afterwards = driver.python(code, str(driver.state))
    assert (number, later, same) == (2, 2, True)
    assert first == [1, [4 * MIB, 9000 * MIB]]
    assert afterwards == [0, [4 * MIB, 4 * MIB]]


class TestList:
    def test_no_library(self):
        """As on this machine."""
        assert module.devices() == []

    def test_no_library_costs_no_import(self):
        code = (
            "import sys; from evalscope_evalflow.devices import nvml as devices\n"
            "devices.devices(); print('pynvml' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"

    def test_library_without_a_driver(self, driver):
        driver.write("init 9")
        assert driver.python(ALL) == []

    def test_driver_that_does_not_answer(self, driver):
        driver.write("init 18", gpu("GPU-a"))
        assert driver.python(ALL) == []

    def test_idle(self, driver):
        driver.write(gpu("GPU-a"), gpu("GPU-b", 5))
        first, second = driver.python(ALL)
        assert first == {
            "index": 0, "uuid": "GPU-a", "name": "NVIDIA H100 80GB HBM3", "total_bytes": 81559 * MIB,
            "used_bytes": 4 * MIB, "processes": [], "trouble": "",
        }  # fmt: skip
        assert (second["index"], second["uuid"], second["used_bytes"]) == (1, "GPU-b", 5 * MIB)

    def test_processes_are_the_union_of_three_lists(self, driver):
        driver.write(
            gpu("GPU-a"), process("GPU-a", 30, 10), process("GPU-a", 30, 12, "graphics"),
            process("GPU-a", 20, "none", "mps"), process("GPU-a", 10, "none"), process("GPU-a", 10, 7, "mps"),
        )  # fmt: skip
        (device,) = driver.python(ALL)
        assert [(item["pid"], item["used_bytes"]) for item in device["processes"]] == [
            (10, 7 * MIB),
            (20, None),
            (30, 12 * MIB),
        ]

    def test_lists_that_a_device_does_not_have(self, driver):
        driver.write(
            gpu("GPU-a"), process("GPU-a", 10, 1),
            "error nvmlDeviceGetMPSComputeRunningProcesses * 3", "error nvmlDeviceGetGraphicsRunningProcesses * 3",
        )  # fmt: skip
        (device,) = driver.python(ALL)
        assert (len(device["processes"]), device["trouble"]) == (1, "")

    def test_one_that_fails_does_not_hide_the_others(self, driver):
        driver.write(
            gpu("GPU-a"), gpu("GPU-b"), gpu("GPU-c"), process("GPU-b", 10, 1),
            "error nvmlDeviceGetHandleByIndex GPU-a 15", "error nvmlDeviceGetComputeRunningProcesses GPU-b 999",
        )  # fmt: skip
        found = driver.python(ALL)
        assert [device["trouble"] for device in found] == ["GPU is lost", "Unknown Error", ""]
        assert [device["index"] for device in found] == [0, 1, 2]

    def test_old_driver(self, driver):
        """Before 510 there is one kind of memory reading only."""
        driver.write(gpu("GPU-a", 7), "error nvmlDeviceGetMemoryInfo_v2 * 13")
        assert driver.python(ALL)[0]["used_bytes"] == 7 * MIB

    @pytest.mark.parametrize("code", [3, 4, 13])
    def test_driver_that_lists_no_processes(self, driver, code):
        """As on WSL, in a vGPU's guest, or an old one: such a device can be used, and its memory tells."""
        driver.write(gpu("GPU-a", 7), gpu("GPU-b", 40000), f"error nvmlDeviceGetComputeRunningProcesses * {code}")
        assert [(found["trouble"], found["processes"]) for found in driver.python(ALL)] == [("", [])] * 2
        assert check(driver, "0") == []
        assert "cannot be seen from here" in whats(check(driver, "1"))[0]

    def test_memory_that_is_shared_with_the_cpu(self, driver):
        driver.write(gpu("GPU-a", total="none"), process("GPU-a", 10, 1))
        (device,) = driver.python(ALL)
        assert (device["total_bytes"], device["used_bytes"], len(device["processes"])) == (0, 0, 1)

    def test_mig_instances_stand_for_their_gpu(self, driver):
        """Its own lists are for administrators alone."""
        driver.write(
            gpu("GPU-a"), gpu("GPU-b"), gpu("MIG-1", 3, "9856", "mig"), gpu("MIG-2", 4, "9856", "mig"),
            process("MIG-2", 10, 1), "error nvmlDeviceGetComputeRunningProcesses GPU-b 4",
        )  # fmt: skip
        found = driver.python(ALL)
        assert [(device["index"], device["uuid"]) for device in found] == [(0, "GPU-a"), (1, "MIG-1"), (1, "MIG-2")]
        assert [len(device["processes"]) for device in found] == [0, 0, 1]
        assert not any(device["trouble"] for device in found)


class TestCheck:
    @pytest.mark.parametrize("text", [None, "", "-1", "0", "0,1", "7", "GPU-a", "MIG-GPU-a/1/0", "anything"])
    def test_no_driver(self, text):
        """An engine on CPUs does not mind, and AMD's understand the same list."""
        assert list(module.check_devices(text, {})) == []

    @pytest.mark.parametrize("text", [None, "", "-1", "0", "0,1", " 1 , 0 ", "GPU-a1", "GPU-b,0"])
    def test_there_and_idle(self, driver, text):
        driver.write(gpu("GPU-a1"), gpu("GPU-b2"))
        assert check(driver, text) == []

    @pytest.mark.parametrize("name", ["2", "GPU-c", "MIG-1", "all", "0-1", "a1"])
    def test_not_there(self, driver, name):
        driver.write(gpu("GPU-a1"), gpu("GPU-b2"))
        ((where, what, todo),) = check(driver, f"0,{name}")
        assert (where, what) == ("deploy.devices", f"there is no device {name}")
        assert todo == "Here are 0: NVIDIA H100 80GB HBM3, 80 GiB; 1: NVIDIA H100 80GB HBM3, 80 GiB."

    def test_driver_without_devices(self, driver):
        driver.write()
        ((_, what, todo),) = check(driver, "0")
        assert (what, todo) == (
            "there is no device 0",
            "The driver knows none at all: leave it out to run on CPUs.",
        )

    def test_driver_without_devices_and_an_engine_that_needs_one(self, driver):
        driver.write()
        ((_, _, todo),) = check(driver, "0", needs_gpu=True)
        assert todo == "The driver knows none at all: see what nvidia-smi says."

    def test_driver_that_does_not_answer(self, driver):
        driver.write("init 18")
        ((_, what, todo),) = check(driver, "0")
        assert what == "NVIDIA's driver does not answer: RM has detected an NVML/RM version mismatch."
        assert "nvidia-smi" in todo

    def test_device_that_does_not_answer(self, driver):
        driver.write(gpu("GPU-a"), "error nvmlDeviceGetMemoryInfo_v2 * 15")
        assert whats(check(driver, "0")) == ["device 0 does not answer: GPU is lost"]

    def test_named_twice(self, driver):
        driver.write(gpu("GPU-a"))
        assert whats(check(driver, "0,0")) == ["device 0 is named 2 times"]

    def test_somebodys_process(self, driver, bob):
        """It is named, with its user and its program, and without its arguments; so is what is idle."""
        driver.write(gpu("GPU-a", 40004), gpu("GPU-b"), process("GPU-a", bob.pid, 40000))
        wait_until(lambda: module.describe_process(bob.pid).split(", ")[1].startswith("python"), "its program")
        ((_, what, todo),) = check(driver, "0")
        assert re.fullmatch(
            rf"device 0 \(NVIDIA H100 80GB HBM3, 80 GiB\) is in use: PID {bob.pid} "
            rf"\({getpass.getuser()}, python[0-9.]*, 39\.1 GiB\)",
            what,
        )
        assert todo.startswith("Idle here: 1. ")
        assert "CUDA_VISIBLE_DEVICES in `env_vars`" in todo
        assert check(driver, "1") == []
        assert whats(check(driver, "0,1")) == [what]

    def test_somebodys_process_that_cannot_be_seen(self, driver):
        driver.write(gpu("GPU-a", 40004), process("GPU-a", NOBODY, "none"))
        ((_, what, todo),) = check(driver, "0")
        assert what.endswith(f"is in use: PID {NOBODY} (cannot be seen from here)")
        assert todo.startswith("No device is idle.")

    def test_memory_without_any_process(self, driver):
        """As in a container that is not shown other people's processes."""
        driver.write(gpu("GPU-a", 40000))
        assert whats(check(driver, "0"))[0].endswith("39.1 GiB, by processes that cannot be seen from here")

    def test_a_screen_is_no_use(self, driver, bob):
        driver.write(
            gpu("GPU-a", 600), process("GPU-a", bob.pid, 300, "graphics"), process("GPU-a", 7, 200, "graphics")
        )
        assert check(driver, "0") == []

    @pytest.mark.parametrize(("used", "busy"), [(4000, False), (4100, True)])
    def test_limit_of_a_large_device(self, driver, used, busy):
        driver.write(gpu("GPU-a", used), process("GPU-a", NOBODY, used))
        assert bool(check(driver, "0")) is busy

    def test_engine_that_may_share(self, driver):
        driver.write(gpu("GPU-a", 40000))
        assert check(driver, "0", idle=False) == []
        assert whats(check(driver, "1", idle=False)) == ["there is no device 1"]

    def test_the_users_own_variable_wins(self, driver):
        driver.write(gpu("GPU-a", 40000))
        assert check(driver, "0", {"CUDA_VISIBLE_DEVICES": "0"}) == []

    def test_mig(self, driver):
        """An index means the first instance, as for CUDA; the older kind of name only CUDA understands."""
        driver.write(
            gpu("GPU-a"), gpu("MIG-1", 4, "9856", "mig"), gpu("MIG-2", 8000, "9856", "mig"),
            process("MIG-2", NOBODY, 8000),
        )  # fmt: skip
        assert check(driver, "0") == []
        assert check(driver, "MIG-1") == []
        assert check(driver, "MIG-GPU-a/7/0") == []
        ((_, what, todo),) = check(driver, "MIG-2")
        assert f"is in use: PID {NOBODY}" in what
        assert todo.startswith("Idle here: MIG-1.")


def test_this_very_process(driver):
    """A notebook that holds the memory itself."""
    code = f"""
import json, os; from pathlib import Path; from evalscope_evalflow.devices.nvml import check_devices
with open(os.environ["NVML_STATE"], "w") as state:
    state.write("{gpu("GPU-a", 40000)}" + chr(10) + f"process GPU-a compute {{os.getpid()}} 39000" + chr(10))
print(json.dumps([[p.what, os.getpid()] for p in check_devices("0", {{}})]))
"""
    ((what, pid),) = driver.python(code)
    assert what.endswith(f"PID {pid} (this process, 38.1 GiB)")


def test_what_a_process_runs_is_told_without_its_arguments(bob, tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import time; time.sleep(600)")
    user = getpass.getuser()
    for argv, shown in [
        ([sys.executable, str(script), "sk-of-bob"], "train.py"),
        ([sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1"], "-m http.server"),
    ]:
        other = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            whole = f"{user}, {os.path.basename(sys.executable)} {shown}"
            wait_until(lambda pid=other.pid, text=whole: module.describe_process(pid) == text, "its program")
        finally:
            other.kill()
            other.wait()
    assert "sk-of-bob" not in module.describe_process(bob.pid)


def test_preflight_and_deploy_ask(driver, tmp_path):
    """Through the doors that users have: `evalflow check`, and `deploy()`."""
    driver.write(gpu("GPU-a"))
    task = tmp_path / "task.json"
    section = {
        "backend": "Native",
        "models": [{"name": "m", "path": "any"}],
        "deploy": {"engine": "scripted", "devices": [0, 3]},
    }
    task.write_text(json.dumps({"datasets": ["general_qa"], "work_dir": str(tmp_path / "w"), "evalflow": section}))
    scripted = os.path.join(os.path.dirname(__file__), "..", "..", "scripted")
    done = subprocess.run(
        [sys.executable, "-m", "evalscope_evalflow", "check", str(task)],
        env={**driver.env, "PYTHONPATH": scripted}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("evalflow: deploy.devices: there is no device 3\n    Here are 0: NVIDIA H100")
    code = """
import json; from evalscope_evalflow import ConfigError, deploy
try: deploy("any", engine="scripted", devices="3")
except ConfigError as error: print(json.dumps(str(error)))
"""
    assert "there is no device 3" in driver.python(code, env={"PYTHONPATH": scripted})
    deploy("any", engine="scripted", devices="3")  # here is no driver
