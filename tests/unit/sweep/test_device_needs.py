"""How many devices a job needs of those that an executor offers, wherever it is submitted."""

import json
from pathlib import Path

import checkpoints
import pytest

from evalscope_evalflow.config.task import Task
from evalscope_evalflow.devices import nvml
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.sweep.device_needs import Offer
from evalscope_evalflow.sweep.job import Job, single_model_task
from evalscope_evalflow.sweep.size import Size

GIB = 2**30
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 8192, "hidden_size": 4096,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint with 16 GB of weights, all of them holes."""
    folder = tmp_path / "llama-8b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    checkpoints.write_file(folder / "model.safetensors", [("model.layers.weight", "BF16", (8_000_000_000,))])
    return folder


def job(path: Path, work_dir: Path, phases=("infer", "judge"), **deploy):
    section = {"models": [{"name": "m", "path": str(path)}], "deploy": {"engine": "vllm", **deploy}}
    task = Task.parse({"datasets": ["gsm8k"], "work_dir": str(work_dir), "evalflow": section})
    return Job(single_model_task(task, task.models[0]), Size(), phases)


@pytest.mark.parametrize(("gib", "devices"), [(80, 1), (24, 1), (16, 2), (10, 4)])
def test_the_smaller_the_devices_the_more_of_them(checkpoint, tmp_path, gib, devices):
    assert job(checkpoint, tmp_path).needs(Offer(8, gib * GIB)) == devices


def test_what_fits_nowhere_is_refused_with_what_was_offered(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=r"m does not fit on 2 devices of 8\.0 GiB"):
        job(checkpoint, tmp_path).needs(Offer(2, 8 * GIB))


def test_numbers_of_the_user_are_kept_and_refused_where_they_are_too_large(checkpoint, tmp_path):
    found = job(checkpoint, tmp_path, tensor_parallel=2, data_parallel=2)
    assert found.needs(Offer(8, 80 * GIB)) == 4
    with pytest.raises(ConfigError, match="m needs 4 devices, and 2 are offered to one job"):
        found.needs(Offer(2, 80 * GIB))


def test_where_memory_is_not_known_one_will_do(checkpoint, tmp_path):
    assert job(checkpoint, tmp_path).needs(Offer(8)) == 1


def test_what_is_only_judged_and_what_runs_on_cpus_needs_none(checkpoint, tmp_path):
    assert job(checkpoint, tmp_path, phases=("judge",)).needs(Offer(8, 80 * GIB)) == 0
    assert job(checkpoint, tmp_path, devices="").needs(Offer(8, 80 * GIB)) == 0


def test_an_engine_that_shares_out_layers_takes_as_many_as_hold_them(tmp_path, gguf_file):
    found = job(gguf_file, tmp_path, engine="llamacpp")
    assert (found.needs(Offer(4, 8 * GIB)), found.needs(Offer(0)), found.needs(Offer(4))) == (1, 0, 1)


def test_the_devices_of_this_machine_are_not_looked_at(checkpoint, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the driver was asked")

    monkeypatch.setattr(nvml, "read", refuse)
    monkeypatch.setattr(nvml, "devices", refuse)
    assert job(checkpoint, tmp_path).needs(Offer(8, 80 * GIB)) == 1
