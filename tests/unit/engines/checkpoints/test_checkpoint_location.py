import json

import checkpoints
import pytest

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines import Address, command_of, default_engine, load_engine
from evalscope_evalflow.engines.checkpoints import checkpoint_folder as checkpoint
from evalscope_evalflow.engines.checkpoints.checkpoint_location import hub_snapshot, locate


def told(path, engine="vllm", **deploy):
    model = ModelConfig(name="m", path=str(path))
    return [str(problem) for problem in load_engine(engine).check(model, DeployConfig(**deploy))]


@pytest.mark.parametrize("name", ["model.gguf", "MODEL.Q4_K_M.GGUF", "sha256-0123456789abcdef"])
def test_a_gguf_file_is_one_whatever_its_name(make_gguf, name):
    """Ollama's blobs are named by their hash."""
    path = make_gguf(name)
    assert default_engine(str(path)) == "llamacpp"
    assert told(path, "llamacpp") == []


def test_a_folder_that_holds_one_gguf_stands_for_it(make_gguf, tmp_path):
    (tmp_path / "a").mkdir()
    file = make_gguf("a/model-00001-of-00002.gguf")
    make_gguf("a/model-00002-of-00002.gguf")
    make_gguf("a/mmproj-model.gguf")
    folder = tmp_path / "a"
    assert locate(str(folder)) == file
    assert default_engine(str(folder)) == "llamacpp"
    assert told(folder, "llamacpp") == []
    command = command_of(
        load_engine("llamacpp"), ModelConfig(path=str(folder)), DeployConfig(), Address("127.0.0.1", 1, None),
        Environment.find(None),
    )  # fmt: skip
    assert str(file) in command.argv


def test_a_folder_with_several_says_which(make_gguf, tmp_path):
    (tmp_path / "a").mkdir()
    make_gguf("a/one.gguf")
    make_gguf("a/two.GGUF")
    for engine in ("llamacpp", "vllm"):
        assert "holds 2 GGUF models: one.gguf, two.GGUF" in told(tmp_path / "a", engine)[0]


def test_a_gguf_file_with_another_engine_says_which_serves_it(make_gguf):
    assert "is a GGUF file, which llamacpp serves" in told(make_gguf("blob"))[0]


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A model in Hugging Face's cache: `main` is the older of two snapshots."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    root = tmp_path / "hf" / "hub" / "models--org--model"
    for name in ("aaa", "bbb"):
        folder = root / "snapshots" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
        (folder / "tokenizer.json").write_text("{}")
        checkpoints.write_file(folder / "model.safetensors", [("model.norm.weight", "BF16", (64,))])
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("aaa")
    return root


def test_a_hub_cache_folder_and_a_hub_name_stand_for_the_snapshot_of_main(cached):
    for path in (str(cached), "org/model"):
        assert locate(path) == cached / "snapshots" / "aaa"
        assert told(path) == []
        assert checkpoint.context_length(path) == 512
        argv = command_of(
            load_engine("vllm"), ModelConfig(path=path), DeployConfig(), Address("127.0.0.1", 1, None),
            Environment.find(None),
        ).argv  # fmt: skip
        assert str(cached / "snapshots" / "aaa") in argv  # not the name, which the engine would look up on the hub


def test_modelscopes_cache_counts_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    folder = tmp_path / "hub" / "models" / "Qwen" / "Qwen3-0___6B"
    folder.mkdir(parents=True)
    assert hub_snapshot("Qwen/Qwen3-0.6B") == folder


def test_a_hub_name_that_is_not_here_says_where_it_was_looked_for_and_how_to_fetch_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = told("org/model")[0]
    assert f"neither a folder ({tmp_path}/org/model) nor in the Hugging Face cache (" in message
    assert "Nothing is downloaded in a run. If it is a model on the hub: hf download org/model" in message


def test_an_adapter_is_told_so_with_what_to_do(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "org/base"}')
    (tmp_path / "adapter_model.safetensors").write_text("{}")
    message = told(tmp_path)[0]
    assert "is an adapter (LORA) of org/base, not a checkpoint of its own" in message
    assert "merge_and_unload()" in message


@pytest.mark.parametrize("words", [["--lora-modules", "sql=/a"], ['--lora_modules={"name": "sql", "path": "/a"}']])
def test_an_adapter_that_nobody_asks_is_refused(checkpoint_folder, words):
    message = told(checkpoint_folder, extra_args=["--enable-lora", *words, "--enforce-eager"])[0]
    assert "nobody asks the adapter sql: every request names m" in message
    assert "merge_and_unload()" in message


def test_an_adapter_with_the_models_own_name_is_refused(checkpoint_folder):
    assert "has the name of the model itself" in told(checkpoint_folder, extra_args=["--lora-modules", "m=/a"])[0]


@pytest.mark.parametrize(("engine", "option"), [("sglang", "--lora-paths"), ("lmdeploy", "--adapters")])
def test_other_engines_adapters_too(checkpoint_folder, engine, option):
    assert "nobody asks the adapter sql" in told(checkpoint_folder, engine, extra_args=[option, "sql=/a"])[0]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "lmdeploy"])
def test_a_checkpoint_without_a_tokenizer_is_refused(checkpoint_folder, engine):
    (checkpoint_folder / "tokenizer.json").unlink()
    assert "has no tokenizer" in told(checkpoint_folder, engine)[0]


def test_another_tokenizer_may_be_named(checkpoint_folder):
    (checkpoint_folder / "tokenizer.json").unlink()
    assert told(checkpoint_folder, extra_args=["--tokenizer=/other"]) == []
    (checkpoint_folder / "tekken.json").write_text("{}")
    assert told(checkpoint_folder) == []
