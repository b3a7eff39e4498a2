import json
import os
import struct

import checkpoints
import pytest

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines import load_engine
from evalscope_evalflow.engines.checkpoints import checkpoint_folder as checkpoint
from evalscope_evalflow.engines.checkpoints import gguf
from evalscope_evalflow.engines.checkpoints.checkpoint_location import hub_snapshot


def told(path):
    return [str(problem) for problem in checkpoint.check(path, "model m")]


def test_a_folder_with_config_and_weights_is_a_checkpoint(checkpoint_folder):
    assert told(str(checkpoint_folder)) == []


def test_nothing_at_all_is_no_checkpoint():
    assert told(None) == told("") == ["model m: no checkpoint is given\n    Set the folder of the checkpoint."]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub with one model, in two snapshots."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    snapshots = tmp_path / "hf" / "hub" / "models--org--model" / "snapshots"
    for age, (name, length) in enumerate([("new", 8192), ("old", 1024)]):
        (snapshots / name).mkdir(parents=True)
        (snapshots / name / "config.json").write_text(json.dumps({"max_position_embeddings": length}))
        checkpoints.write_file(snapshots / name / "model.safetensors", [("model.norm.weight", "BF16", (64,))])
        os.utime(snapshots / name, (1000 - age, 1000 - age))
    return snapshots


def test_a_hub_id_is_found_in_the_cache(hub):
    assert told("org/model") == []
    assert hub_snapshot("org/model") == hub / "new"
    assert checkpoint.context_length("org/model") == 8192


def test_the_caches_own_variable_is_respected(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert hub_snapshot("org/model") is None


def test_a_hub_model_that_is_not_whole_says_how_to_fetch_the_rest(hub):
    (hub / "new" / "model.safetensors").unlink()
    assert "no weights" in told("org/model")[0]
    assert "hf download org/model" in told("org/model")[0]


def test_a_hub_id_that_is_not_here_says_how_to_fetch_it():
    assert "hf download org/model" in told("org/model")[0]


@pytest.mark.parametrize("path", ["/models/none", "./org/model", "a/b/c", "model"])
def test_a_path_that_does_not_exist_is_not_taken_for_a_hub_id(path):
    at = "" if os.path.isabs(path) else f" (looked for at {os.path.abspath(path)})"
    assert told(path) == [f"model m: {path} does not exist{at}\n    Give the checkpoint's folder."]


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024, "max_position_embeddings": None}, 1024),
        ({"text_config": {"max_position_embeddings": 512}, "max_position_embeddings": 9}, 512),
        ({"text_config": {}, "max_position_embeddings": None}, None),
        ({"max_position_embeddings": "long"}, None),
    ],
)
def test_the_longest_context_is_the_language_models(make_checkpoint, config, length):
    assert checkpoint.context_length(str(make_checkpoint(**config))) == length


def test_a_checkpoint_that_cannot_be_read_states_no_context(tmp_path):
    assert checkpoint.context_length(str(tmp_path)) is None


def test_a_path_from_home_is_understood(make_checkpoint, monkeypatch, tmp_path):
    make_checkpoint("mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert told("~/mine") == []
    assert checkpoint.context_length("~/mine") == 4096


def test_a_gguf_header_is_read_whatever_stands_before_what_is_wanted(make_gguf):
    found = gguf.read_metadata(make_gguf())
    assert found["general.architecture"] == "llama"
    assert found["llama.rope.scaling.finetuned"] is False
    assert "tokenizer.ggml.tokens" not in found  # arrays are large, and nobody asks for them
    assert gguf.context_length(found) == 2048


def test_the_context_is_that_of_the_files_own_architecture(make_gguf):
    metadata = {"general.architecture": "qwen2", "llama.context_length": 1, "qwen2.context_length": 32768}
    assert gguf.context_length(gguf.read_metadata(make_gguf(metadata=metadata))) == 32768


def test_a_header_without_a_context_states_none(make_gguf):
    assert gguf.context_length(gguf.read_metadata(make_gguf(metadata={"general.architecture": "llama"}))) is None


def test_nested_arrays_are_passed_over(make_gguf):
    metadata = {"nested": [["a", "b"], ["c"]], "llama.context_length": 7, "general.architecture": "llama"}
    assert gguf.context_length(gguf.read_metadata(make_gguf(metadata=metadata))) == 7


@pytest.mark.parametrize("last", ["a string at the end", ["an", "array"], [1.0, 2.0], 7])
def test_a_header_that_is_cut_short_anywhere_is_told(tmp_path, gguf_header, last):
    whole = gguf_header(last=last)
    path = tmp_path / "cut.gguf"
    for length in (*range(4, len(whole) - 24, 7), *range(len(whole) - 24, len(whole))):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="ends within its own header"):
            gguf.read_metadata(path)


@pytest.mark.parametrize("alignment", [None, 64])
def test_a_file_without_its_last_tensor_is_told(tmp_path, gguf_header, alignment):
    """As after a download that was broken off."""
    more = {} if alignment is None else {"general.alignment": alignment}
    head = gguf_header(tensors=[("b.weight", 64), ("a.weight", 0)], **more)
    begin = -(-len(head) // (alignment or 32)) * (alignment or 32)
    path = tmp_path / "model.gguf"
    path.write_bytes(head.ljust(begin, b"\0") + bytes(64 + 32))
    assert gguf.why_not_whole(path) == ""
    path.write_bytes(head.ljust(begin, b"\0") + bytes(64))
    lacks = f"it has {begin + 64} bytes, and its last tensor begins behind byte {begin + 64}"
    assert gguf.why_not_whole(path) == lacks
    model = ModelConfig(name="m", path=str(path))
    (problem,) = load_engine("llamacpp").check(model, DeployConfig(engine="llamacpp"))
    assert str(problem) == f"model m: {path} is cut short: {lacks}\n    Download it again, or copy it again."


def test_a_file_that_ends_within_its_list_of_tensors_is_told(tmp_path, gguf_header):
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf_header(tensors=[("a.weight", 0)])[:-3])
    with pytest.raises(ValueError, match="ends within its own header"):
        gguf.why_not_whole(path)


def test_an_old_version_is_told(make_gguf):
    with pytest.raises(ValueError, match="GGUF version 1 is too old"):
        gguf.read_metadata(make_gguf(version=1))


@pytest.mark.parametrize(
    "pair",
    [
        struct.pack("<Q", 1) + b"a" + struct.pack("<I", 99),
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 4, 2**63),
    ],
    ids=["unknown type", "endless name", "endless array"],
)
def test_a_damaged_header_is_told_like_any_other(tmp_path, pair):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + pair)
    with pytest.raises(ValueError):
        gguf.read_metadata(path)
