"""What several models may share: devices of a driver that says what a test wrote, and slots without a driver."""

import json

import checkpoints
import pytest
from fake_nvml import Driver, gpu, process

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.devices.claims import MACHINE, Claim, claim, settle
from evalscope_evalflow.engines import load_engine

ASK = """
import dataclasses, json, sys
from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines import load_engine
from evalscope_evalflow.devices.claims import claim, settle

found = []
for engine, path, deploy, free, waiting in json.loads(sys.argv[1]):
    engine, model, deploy = load_engine(engine), ModelConfig(name="m", path=path), DeployConfig(**deploy)
    claimed = claim(engine, model, deploy)
    free = list(claimed.devices) if free is None else free
    found.append([dataclasses.asdict(claimed), settle(engine, model, deploy, claimed, free, waiting)])
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("claimed")
    return {name: str(checkpoints.make(folder / name, name)) for name in ("7b", "72b")}


@pytest.fixture
def ask(tmp_path_factory, tmp_path, models):
    """(claim, settings) of cases on a box with these lines of devices."""
    driver = Driver(tmp_path_factory.getbasetemp() / "nvml", tmp_path)

    def answer(lines, *cases):
        driver.write(*lines)
        full = [
            [engine, models.get(path, path), {"max_model_len": 8192, **deploy}, free, waiting]
            for engine, path, deploy, free, waiting in cases
        ]
        return driver.python(ASK, json.dumps(full))

    return answer


BOX = [gpu(f"GPU-{number}") for number in range(4)]


def test_a_model_claims_as_few_devices_as_hold_it_and_may_have_any_idle_one(ask):
    (small, alone), (large, _), (_, pair) = ask(
        BOX,
        ("vllm", "7b", {}, None, 1),
        ("vllm", "72b", {}, None, 1),
        ("vllm", "72b", {}, ["1", "2", "3"], 1),
    )
    assert (small["devices"], small["needs"], small["measured"]) == (["0", "1", "2", "3"], 1, True)
    assert large["needs"] == 2
    assert alone == {"devices": "0", "tensor_parallel": 1, "data_parallel": 1}
    assert pair == {"devices": "2,3", "tensor_parallel": 2, "data_parallel": 1}  # neighbours, in a block
    assert ask(BOX, ("vllm", "72b", {}, ["3"], 1))[0][1] is None  # one is too few


def test_what_nobody_waits_for_becomes_replicas(ask):
    [(_, settings)] = ask(BOX, ("vllm", "7b", {}, ["2", "3"], 0))
    assert settings == {"devices": "2,3", "tensor_parallel": 1, "data_parallel": 2}


def test_devices_that_others_use_are_none_to_claim_nor_to_be_given(ask):
    taken = [gpu("GPU-0", 40000), *BOX[1:], process("GPU-0", 1, 39000)]
    (claimed, settings), (named, given) = ask(
        taken, ("vllm", "7b", {}, None, 1), ("vllm", "7b", {"devices": "0,1"}, None, 1)
    )
    assert claimed["devices"] == ["1", "2", "3"]
    assert settings["devices"] == "1"
    assert named["devices"] == ["0", "1"]
    assert given["devices"] == "1"


def test_sizes_that_are_given_are_kept(ask):
    [(claimed, settings)] = ask(BOX, ("vllm", "7b", {"tensor_parallel": 2, "devices": "0,1,2,3"}, None, 1))
    assert claimed["needs"] == 2
    assert settings == {"devices": "0,1", "tensor_parallel": 2, "data_parallel": 1}


def test_llamacpp_takes_as_few_as_hold_the_file(ask, gguf_file):
    [(claimed, settings)] = ask(BOX, ("llamacpp", str(gguf_file), {"devices": "0,1", "max_model_len": 512}, None, 1))
    assert claimed["needs"] == 1
    assert settings == {"devices": "0"}


def test_llamacpp_waits_for_devices_that_others_have_taken_meanwhile(ask, gguf_file):
    taken = [gpu("GPU-0", 40000), *BOX[1:], process("GPU-0", 1, 39000)]
    [(_, settings)] = ask(taken, ("llamacpp", str(gguf_file), {"max_model_len": 512}, ["0"], 1))
    assert settings is None


def asked(path, engine="vllm", **deploy):
    model, settings = ModelConfig(name="m", path=path), DeployConfig(**deploy)
    return claim(load_engine(engine), model, settings)


class TestWithoutADriver:
    def test_names_are_slots_and_sizes_that_are_given_say_how_many_it_takes(self, checkpoint_folder):
        path = str(checkpoint_folder)
        assert asked(path, devices="0,1,2,3", tensor_parallel=2) == Claim(("0", "1", "2", "3"), 2, assigned=True)
        assert asked(path, devices="0,1", tensor_parallel=2, data_parallel=2) == Claim(("0", "1"), 2, assigned=True)

    def test_sizes_that_nobody_knows_take_all(self, checkpoint_folder):
        assert asked(str(checkpoint_folder), devices="0,1,2,3").needs == 4

    def test_without_names_the_machine_is_one(self, checkpoint_folder, gguf_file):
        for path, engine in ((str(checkpoint_folder), "vllm"), (str(gguf_file), "llamacpp")):
            for devices in (None, "all", ""):
                assert asked(path, engine, devices=devices) == Claim((MACHINE,), 1)

    def test_a_model_on_slots_is_told_which(self, gguf_file):
        engine, model = load_engine("llamacpp"), ModelConfig(name="m", path=str(gguf_file))
        deploy = DeployConfig(devices="0,1")
        claimed = claim(engine, model, deploy)
        assert claimed == Claim(("0", "1"), 1, assigned=True)
        assert settle(engine, model, deploy, claimed, ["1"], waiting=0) == {"devices": "1"}
        assert settle(engine, model, deploy, claimed, [], waiting=0) is None

    def test_a_variable_of_the_users_is_taken_as_it_is(self, checkpoint_folder):
        deploy = DeployConfig(env_vars={"CUDA_VISIBLE_DEVICES": "1,3"})
        engine, model = load_engine("vllm"), ModelConfig(name="m", path=str(checkpoint_folder))
        claimed = claim(engine, model, deploy)
        assert claimed == Claim(("1", "3"), 2)
        assert settle(engine, model, deploy, claimed, ["1", "3"], waiting=0) == {}
