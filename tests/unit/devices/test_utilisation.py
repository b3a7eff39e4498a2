"""How busy devices are, as NVIDIA's driver says: read at its own interface, by the stand-in of nvml/nvml.c."""

import json

import pytest
from fake_nvml import Driver, gpu, utilisation

# Watches devices until so many readings came, and says which threads and uses of the driver are left then.
WATCH = """
import json, sys, threading, time, pynvml
from evalscope_evalflow.devices.utilisation import UtilisationSampler
names, wanted = json.loads(sys.argv[1])
opened, init, shutdown = [], pynvml.nvmlInit, pynvml.nvmlShutdown
pynvml.nvmlInit = lambda: (init(), opened.append(1))
pynvml.nvmlShutdown = lambda: (opened.append(-1), shutdown())
sampler, readings, enough = UtilisationSampler(0.01), [], threading.Event()
def take(share):
    readings.append(share)
    if len(readings) >= wanted:
        enough.set()
ends = [sampler.watch(group, take) for group in names]
threads = [thread for thread in threading.enumerate() if thread.name == "evalflow-nvml"]
alone = len(threads)
enough.wait(1.0 if wanted else 0.1)
for end in ends + ends:
    end()
for thread in threads:
    thread.join(5)
left = [thread.name for thread in threading.enumerate() if thread.name == "evalflow-nvml"]
print(json.dumps({"readings": readings[:wanted], "threads": alone, "left": left, "open": sum(opened),
                  "daemon": all(thread.daemon for thread in threads)}))
"""


@pytest.fixture
def driver(tmp_path_factory, tmp_path):
    return Driver(tmp_path_factory.getbasetemp() / "nvml", tmp_path)


def watch(driver, *names, wanted):
    return driver.python(WATCH, json.dumps([names, wanted]))


def test_it_is_the_mean_of_the_devices_that_are_held(driver):
    driver.write(
        gpu("GPU-a"), gpu("GPU-b"), gpu("GPU-c"),
        utilisation("GPU-a", 100), utilisation("GPU-b", 50), utilisation("GPU-c", 3),
    )  # fmt: skip
    found = watch(driver, ["0", "GPU-b"], wanted=3)
    assert found["readings"] == [0.75] * 3
    assert (found["left"], found["open"], found["daemon"]) == ([], 0, True)


def test_one_thread_reads_for_all_engines_and_ends_with_the_last(driver):
    driver.write(gpu("GPU-a"), gpu("GPU-b"), utilisation("GPU-a", 20), utilisation("GPU-b", 60))
    found = watch(driver, ["0"], ["1"], wanted=6)
    assert set(found["readings"]) == {0.2, 0.6}
    assert (found["threads"], found["left"], found["open"]) == (1, [], 0)


@pytest.mark.parametrize(
    "lines",
    [
        [gpu("GPU-a"), gpu("MIG-a", kind="mig")],  # NVML does not say it of an instance
        [gpu("GPU-a")],
        [gpu("GPU-a"), utilisation("GPU-a", 9), "error nvmlDeviceGetUtilizationRates * 15"],
        [gpu("GPU-a"), utilisation("GPU-a", 9), "error nvmlDeviceGetHandleByIndex * 15"],
        ["init 9"],
        ["init 999"],
        [],
    ],
    ids=["mig", "not supported", "lost", "off the bus", "no driver loaded", "broken driver", "no device"],
)
def test_where_the_driver_does_not_say_there_is_no_reading_and_nothing_is_left(driver, lines):
    driver.write(*lines)
    found = watch(driver, ["0"], wanted=0)
    assert (found["readings"], found["left"], found["open"]) == ([], [], 0)
