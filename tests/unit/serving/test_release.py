"""Release: what is told of an engine that was ended, and of the devices that it used."""

import json
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from fake_nvml import Driver, gpu, process
from serving_fixtures import SCRIPTED, SLEEP, guarded

from evalscope_evalflow.processes import guard, ports
from evalscope_evalflow.serving import DeviceRelease, Release
from evalscope_evalflow.serving import release as module

# What the driver lists before, while and after an engine runs, and what is said of its devices then.
WATCH = """
import dataclasses, json, os, subprocess, sys, threading, time
from evalscope_evalflow.processes import guard; from evalscope_evalflow.serving import release
release.HELD_WAIT_S, release.UNSURE_WAIT_S = 1.5, 0.5
names, before, during, after, late_s = json.loads(sys.argv[1])
engine = subprocess.Popen(json.loads(sys.argv[2]))
tree = {engine.pid: guard.stat(engine.pid)[2]}
def write(lines):
    new = os.environ["NVML_STATE"] + ".new"
    with open(new, "w") as file:
        file.writelines(line.replace("OURS", str(engine.pid)) + chr(10) for line in lines)
    os.replace(new, os.environ["NVML_STATE"])
write(before)
watch = release.DeviceWatch(names)
write(during)
watch.poll()
engine.kill(); engine.wait()
if late_s:
    threading.Timer(late_s, write, [after]).start()
else:
    write(after)
began = time.monotonic()
found = watch.prove(tree)
print(json.dumps([[dataclasses.asdict(item) for item in found], time.monotonic() - began, engine.pid]))
"""
HOST = 4194303  # a PID that does not exist here
BY = os.getpid()  # a process that exists, and is none of the engine's
FREE = [gpu("GPU-a")]
OURS = [gpu("GPU-a", 40004), process("GPU-a", "OURS", 40000)]
BOTH = [*OURS, process("GPU-a", BY, 30000)]
BOBS = [gpu("GPU-a", 30004), process("GPU-a", BY, 30000)]
HOSTS = [gpu("GPU-a", 40004), process("GPU-a", HOST, 40000)]


@pytest.fixture
def driver(tmp_path_factory, tmp_path):
    return Driver(tmp_path_factory.getbasetemp() / "nvml", tmp_path)


def watch(driver, before, during, after, names=None, late_s=0):
    """([device], seconds until it was said, PID of the engine)."""
    driver.write(*before)
    return driver.python(WATCH, json.dumps([names, before, during, after, late_s]), json.dumps(SLEEP))


OTHERS = """
import json, os, subprocess, sys
from evalscope_evalflow.serving import release
before, after, tree = json.loads(sys.argv[1])
def write(lines):
    with open(os.environ["NVML_STATE"], "w") as file:
        file.writelines(line + chr(10) for line in lines)
write(before)
watch = release.DeviceWatch(None)
write(after)
watch.poll()
print(json.dumps(watch.others({int(pid): 1 for pid in tree})))
"""


@pytest.mark.parametrize(
    ("before", "after", "tree", "says"),
    [
        pytest.param(FREE, [gpu("GPU-a", 40004), process("GPU-a", 7, 40000)], [7], "", id="ours alone"),
        pytest.param(
            FREE,
            [gpu("GPU-a", 70004), process("GPU-a", 7, 40000), process("GPU-a", BY, 30000)],
            [7],
            f"device 0 is held by PID {BY} (",
            id="somebody else came",
        ),
        pytest.param(BOBS, BOBS, [7], f"device 0 is held by PID {BY} (", id="somebody else was there before"),
        pytest.param(FREE, HOSTS, [7], "", id="in a container: what came may be ours"),
        pytest.param(
            [gpu("GPU-a", 30004)],
            [gpu("GPU-a", 30004)],
            [7],
            "device 0 is held: 29.3 GiB, by processes that cannot",
            id="unseen",
        ),
    ],
)
def test_who_else_holds_a_device(driver, before, after, tree, says):
    driver.write(*before)
    found = driver.python(OTHERS, json.dumps([before, after, tree]))
    assert len(found) == bool(says)
    assert "".join(found).startswith(says)


def test_no_driver():
    found = module.DeviceWatch(["0"])
    found.poll()
    assert found.prove({1: 1}) == ()


@pytest.mark.parametrize(
    ("before", "during", "after"),
    [
        pytest.param(FREE, FREE, FREE, id="never used"),
        pytest.param(FREE, OURS, FREE, id="ours has gone"),
        pytest.param(BOBS, BOTH, BOBS, id="somebody else was there before and stays"),
        pytest.param(FREE, BOTH, BOBS, id="somebody else came meanwhile and stays"),
        pytest.param(FREE, FREE, BOBS, id="somebody else came after"),
        pytest.param(FREE, HOSTS, FREE, id="in a container: the new one has gone"),
        pytest.param(HOSTS, HOSTS, HOSTS, id="in a container: somebody else was there before and stays"),
        pytest.param(FREE, FREE, HOSTS, id="in a container: somebody else came after"),
        pytest.param(
            FREE, [*OURS, process("GPU-a", HOST, 9)], HOSTS, id="somebody in a container came; ours are ours by number"
        ),
        pytest.param(FREE, [gpu("GPU-a", 40000)], [gpu("GPU-a", 200)], id="nothing is listed; memory is free again"),
        pytest.param(FREE, FREE, [gpu("GPU-a", 40000)], id="nothing is listed; memory was taken after"),
    ],
)
def test_released_at_once(driver, before, during, after):
    """Other people's processes are not waited for."""
    found, seconds, _ = watch(driver, before, during, after)
    assert found == [{"name": "0", "state": "released", "pids": [], "why": ""}]
    assert seconds < 1.2


@pytest.mark.parametrize("kind", ["compute", "graphics", "mps"])
@pytest.mark.parametrize("mib", ["40000", "none"])
def test_held(driver, kind, mib):
    """The driver still lists what was ours, and somebody else's, which is not called ours."""
    listed = [gpu("GPU-a", 40004), process("GPU-a", "OURS", mib, kind), process("GPU-a", BY, 100)]
    ((found,), seconds, pid) = watch(driver, FREE, listed, listed)
    assert found == {"name": "0", "state": "held", "pids": [pid], "why": ""}
    assert 1.4 < seconds < 6


def test_held_although_nobody_looked(driver):
    """The engine died before it was ready: its processes are known all the same."""
    ((found,), _, pid) = watch(driver, FREE, FREE, OURS)
    assert (found["state"], found["pids"]) == ("held", [pid])


def test_released_a_little_later(driver):
    """The driver takes its time."""
    ((found,), seconds, _) = watch(driver, FREE, OURS, FREE, late_s=0.6)
    assert found["state"] == "released"
    assert 0.5 < seconds < 1.5


def test_host_pids_of_a_container(driver):
    """What came while the engine ran, and stays, may be its own: nobody can tell, and nobody waits for long."""
    ((found,), seconds, _) = watch(driver, FREE, HOSTS, HOSTS)
    assert (found["state"], found["pids"]) == ("unsure", [HOST])
    assert found["why"].startswith(f"PID {HOST} came while the engine ran")
    assert seconds < 1.4


def test_memory_that_nobody_is_listed_for(driver):
    more = [gpu("GPU-a", 40004)]
    ((found,), _, _) = watch(driver, FREE, more, more)
    assert (found["state"], found["pids"]) == ("unsure", [])
    assert found["why"] == "39.1 GiB more are in use than before the start, by no process that the driver lists"


@pytest.mark.parametrize("mib", ["30000", "none"])
def test_memory_of_somebody_who_came_meanwhile(driver, mib):
    """It explains the reading, where the driver gives its amount; else it cannot be told."""
    listed = [gpu("GPU-a", 30004), process("GPU-a", BY, mib)]
    ((found,), _, _) = watch(driver, FREE, listed, listed)
    assert found["state"] == ("unsure" if mib == "none" else "released")


LOST = "error nvmlDeviceGetComputeRunningProcesses * 15"


@pytest.mark.parametrize(
    ("before", "during", "after", "why"),
    [
        (FREE, OURS, [*FREE, LOST], "NVIDIA's driver says: GPU is lost"),
        ([*FREE, LOST], OURS, FREE, "NVIDIA's driver says: GPU is lost"),
        (FREE, OURS, [], "it is not there any more"),
        (FREE, OURS, ["init 18"], "NVIDIA's driver does not answer: RM has detected an NVML/RM version mismatch."),
        (["init 18"], OURS, FREE, "NVIDIA's driver does not answer: RM has detected an NVML/RM version mismatch."),
        (FREE, OURS, ["error nvmlDeviceGetCount * 999", *FREE], "NVIDIA's driver does not answer: Unknown Error"),
    ],
)
def test_errors_of_the_driver(driver, before, during, after, why):
    ((found,), _, _) = watch(driver, before, during, after)
    assert (found["state"], found["why"]) == ("unsure", why)


def test_an_error_that_passes(driver):
    ((found,), _, _) = watch(driver, FREE, [*OURS, LOST], FREE)
    assert found["state"] == "released"


def test_only_the_devices_that_were_asked_for(driver):
    """By any of their names; on another one, somebody may do as he likes."""
    two = [gpu("GPU-a"), gpu("GPU-b"), gpu("MIG-1", 4, "9856", "mig"), gpu("MIG-2", 4, "9856", "mig")]
    used = [*two, process("GPU-a", HOST, 9), process("MIG-1", "OURS", 9), process("MIG-2", HOST, 9)]
    found, _, pid = watch(driver, two, used, used, names=["MIG-1"])
    assert [(item["name"], item["state"], item["pids"]) for item in found] == [("MIG-1", "held", [pid])]
    found, _, _ = watch(driver, two, used, used, names=["0", "MIG-2"])
    assert [(item["name"], item["state"]) for item in found] == [("0", "unsure"), ("MIG-2", "unsure")]
    found, _, _ = watch(driver, two, used, two)
    assert [(item["name"], item["state"]) for item in found] == [
        ("0", "released"), ("MIG-1", "released"), ("MIG-2", "released"),
    ]  # fmt: skip


def test_a_pid_that_another_process_has_by_now(driver):
    """It is not ours because it has the number of one of ours."""
    code = WATCH.replace("found = watch.prove(tree)", f"found = watch.prove({{{BY}: 1}})")
    taken = [gpu("GPU-a", 400), process("GPU-a", BY, 396)]
    driver.write(*FREE)
    ((found,), _, _) = driver.python(code, json.dumps([None, FREE, FREE, taken, 0]), json.dumps(SLEEP))
    assert found["state"] == "released"


class TestOfAnEngine:
    """`deploy()` in a child process that changes the driver's state as it goes."""

    HEAD = """
import json, os, sys, warnings; from evalscope_evalflow import ConfigError, EngineError, deploy
from evalscope_evalflow.serving import release
release.HELD_WAIT_S, release.UNSURE_WAIT_S = 1.0, 0.5
def write(*lines):
    with open(os.environ["NVML_STATE"] + ".new", "w") as file:
        file.writelines(line + chr(10) for line in lines)
    os.replace(file.name, os.environ["NVML_STATE"])
deployment = deploy("any", engine="scripted", devices="0", log_dir=sys.argv[1])
free, told = "device GPU-a 81559 4 H100", ""
def block(pid, after):
    global told
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            with deployment:
                pid = pid or deployment.process.leader
                write("device GPU-a 81559 40004 H100", f"process GPU-a compute {pid} 40000")
                if after:
                    deployment.process.stop(); write(free)
        except EngineError as error:
            told = str(error)
    return pid, told, [str(warning.message) for warning in seen], bool(deployment.release())
"""

    def run(self, driver, tmp_path, code):
        driver.write(*FREE)
        return driver.python(self.HEAD + code, str(tmp_path / "logs"), env={"PYTHONPATH": str(SCRIPTED)})

    def test_released(self, driver, tmp_path):
        _, told, warned, released = self.run(driver, tmp_path, "print(json.dumps(block(None, True)))")
        assert (told, warned, released) == ("", [], True)

    def test_held(self, driver, tmp_path):
        pid, told, warned, released = self.run(driver, tmp_path, "print(json.dumps(block(None, False)))")
        assert told == f"scripted was ended, but device 0 is still held by PID {pid}"
        assert (warned, released) == ([], False)

    def test_unsure(self, driver, tmp_path):
        _, told, warned, released = self.run(driver, tmp_path, f"print(json.dumps(block({HOST}, False)))")
        assert told == ""
        assert len(warned) == 1
        assert f"cannot be told: PID {HOST} came while the engine ran" in warned[0]
        assert released

    def test_somebody_elses(self, driver, tmp_path):
        """It comes while the engine runs, and stays; a next engine is not started beside it."""
        code = f"""
found = block({BY}, False)
try: deploy("any", engine="scripted", devices="0")
except ConfigError as error: print(json.dumps([found, str(error)]))
"""
        (_, told, warned, released), refused = self.run(driver, tmp_path, code)
        assert (told, warned, released) == ("", [], True)
        assert f"device 0 (H100, 80 GiB) is in use: PID {BY} (" in refused


def test_words():
    """What is left for certain, and what may be, is told apart."""
    nothing = Release()
    assert nothing
    assert (nothing.problems(), nothing.warnings()) == ([], [])
    sure = Release(
        processes=(7, 8), port=80, port_free=False, port_holder=7, port_is_ours=True, files=("/tmp/x",),
        devices=(DeviceRelease("0", "held", (7,)), DeviceRelease("1", "released")),
    )  # fmt: skip
    assert not sure
    assert sure.problems() == [
        "processes survive SIGKILL: PIDs 7, 8",
        "port 80 is still held by PID 7",
        "/tmp/x could not be deleted",
        "device 0 is still held by PID 7",
    ]
    assert sure.warnings() == []
    doubtful = Release(
        port=80, port_free=False, removed=("/dev/shm/x",), devices=(DeviceRelease("1", "unsure", (9,), "why"),)
    )
    assert doubtful
    assert doubtful.warnings() == [
        "whether device 1 is released cannot be told: why",
        "port 80 has been taken by a process that cannot be seen from here",
    ]


class TestOfAProcess:
    def prove(self, process, port):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return module.prove(process, "127.0.0.1", port, module.DeviceWatch(None))

    def test_port_that_somebody_else_has_taken(self, tmp_path):
        lease = ports.lease("127.0.0.1")
        lease.release()
        with guarded(SLEEP, tmp_path / "log") as engine, socket.create_server(("127.0.0.1", lease.port)):
            engine.stop()
            found = self.prove(engine, lease.port)
        assert found
        assert (found.port_free, found.port_holder, found.port_is_ours) == (False, os.getpid(), False)

    def test_process_that_has_got_away(self, tmp_path):
        """Nobody ends it here; that it is there is told."""
        lease = ports.lease("127.0.0.1")
        lease.release()
        code = (
            "import socket, sys, time; server = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
            "print('up', flush=True); time.sleep(600)"
        )
        away = subprocess.Popen([sys.executable, "-c", code, str(lease.port)], stdout=subprocess.PIPE)
        try:
            assert away.stdout.readline() == b"up\n"
            with guarded(SLEEP, tmp_path / "log") as engine:
                engine.stop()
                engine.tree[away.pid] = guard.stat(away.pid)[2]
                found = self.prove(engine, lease.port)
            assert not found
            assert (found.processes, found.port_holder, found.port_is_ours) == ((away.pid,), away.pid, True)
            engine.tree[away.pid] -= 1  # another process with its PID
            assert self.prove(engine, lease.port)
        finally:
            away.kill()
            away.wait()

    def test_folder_that_is_still_there(self, tmp_path):
        with guarded(SLEEP, tmp_path / "log") as engine:
            engine.stop()
            engine.scratch.mkdir()
            try:
                found = self.prove(engine, 1)
            finally:
                engine.scratch.rmdir()
        assert found.files == (str(engine.scratch),)
        assert not found
        assert Path(found.files[0]).name.startswith("evalflow-")
