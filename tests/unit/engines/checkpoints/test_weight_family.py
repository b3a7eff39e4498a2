"""Which checkpoints differ in weights alone, file by file."""

import json

import checkpoints
import pytest

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines.base import Engine
from evalscope_evalflow.engines.checkpoints.weight_family import differences, family


class Server(Engine):
    name = "server"

    def check(self, model, deploy):
        return ()


CONFIG = checkpoints.dense(64, 2, 4, 2, 128, vocab_size=256, tie_word_embeddings=True)


def checkpoint(folder, config=None, tensors=None, **files):
    config = {**CONFIG, **(config or {})}
    checkpoints.write(folder, config, list(checkpoints.tensors(config)) if tensors is None else tensors)
    for name, text in {"tokenizer.json": "{}", **files}.items():
        (folder / name).write_text(text)
    return folder


def of(folder, **deploy):
    return family(Server(), ModelConfig(name="m", path=str(folder)), DeployConfig(**deploy))


@pytest.fixture
def first(tmp_path):
    return of(checkpoint(tmp_path / "first"))


def test_weights_alone_differ(tmp_path, first):
    other = checkpoint(
        tmp_path / "other", {"_name_or_path": "/elsewhere", "transformers_version": "5.1"},
        **{"README.md": "another", "training_args.bin": "x", "trainer_state.json": "{}", "optimizer.pt": "x"},
    )  # fmt: skip
    (other / "global_step10").mkdir()
    (other / "global_step10" / "states.json").write_text("{}")
    assert first
    assert first.why_not == ""
    assert of(other).key == first.key
    assert differences(first, of(other)) == []


def test_how_the_tensors_lie_in_files_does_not_count(tmp_path, first, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARD_BYTES", 20_000)
    other = checkpoint(tmp_path / "other")
    assert len(list(other.glob("*.safetensors"))) > 1
    assert of(other).key == first.key


@pytest.mark.parametrize(
    ("config", "files", "words"),
    [
        ({"max_position_embeddings": 65536}, {}, ["max_position_embeddings differs"]),
        ({"rope_scaling": {"factor": 2.0}}, {}, ["rope_scaling.factor differs"]),
        ({"torch_dtype": "float16"}, {}, ["torch_dtype differs"]),
        ({}, {"tokenizer.json": '{"a": 1}'}, ["tokenizer.json differs"]),
        ({}, {"chat_template.jinja": "x"}, ["chat_template.jinja is one more"]),
        ({}, {"modeling.py": "x"}, ["modeling.py is one more"]),
    ],
)
def test_what_else_differs_is_told(tmp_path, first, config, files, words):
    other = of(checkpoint(tmp_path / "other", config, **files))
    assert other.key != first.key
    assert differences(first, other) == words


def test_tensors_that_are_missing_or_misshapen(tmp_path, first):
    tensors = list(checkpoints.tensors(CONFIG))
    name, kind, shape = tensors[-1]
    missing = of(checkpoint(tmp_path / "missing", tensors=tensors[:-1]))
    assert differences(first, missing) == [f"the tensor {name} is missing"]
    other = of(checkpoint(tmp_path / "shape", tensors=[*tensors[:-1], (name, kind, (*shape, 1))]))
    assert differences(first, other) == [f"the tensor {name} has the shape {[*shape, 1]}, not {list(shape)}"]
    other = of(checkpoint(tmp_path / "type", tensors=[*tensors[:-1], (name, "F32", shape)]))
    assert differences(first, other) == [f"the tensor {name} is of type F32, not {kind}"]
    assert missing.key
    assert missing.key != first.key


def test_a_file_that_changes_is_read_again(tmp_path, first):
    folder = checkpoint(tmp_path / "other")
    assert of(folder).key == first.key
    (folder / "tokenizer.json").write_text('{"changed": true}')
    assert of(folder).key != first.key


def test_the_version_in_the_generation_settings_does_not_count(tmp_path):
    keys = set()
    for version in ("4.1", "5.0"):
        settings = json.dumps({"transformers_version": version, "eos_token_id": 2})
        keys.add(of(checkpoint(tmp_path / version, **{"generation_config.json": settings})).key)
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"quantization_config": checkpoints.AWQ}, "quantised"),
        ({"num_experts": 2, "moe_intermediate_size": 64}, "mixture of experts"),
        ({"vision_config": {"depth": 2}}, "multimodal"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "code of its own"),
    ],
)
def test_what_is_never_swapped(tmp_path, config, why):
    found = of(checkpoint(tmp_path / "other", config))
    assert not found
    assert why in found.why_not


def test_the_engine_may_have_reasons_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(Server, "why_no_swap", lambda self, deploy: f"extra_args has {deploy.extra_args[0]}")
    found = of(checkpoint(tmp_path / "other"), extra_args=["--quantization"])
    assert (bool(found), found.why_not) == (False, "extra_args has --quantization")


def test_quantised_tensors_and_other_files(tmp_path):
    tensors = list(checkpoints.tensors(CONFIG))
    found = of(checkpoint(tmp_path / "int", tensors=[*tensors, ("scale", "U8", (2,))]))
    assert "quantised (U8)" in found.why_not
    damaged = checkpoint(tmp_path / "damaged")
    (damaged / "config.json").write_text("{")
    assert "cannot be read" in of(damaged).why_not
    assert of(tmp_path / "nowhere").why_not
