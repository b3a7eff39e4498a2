"""What the heads of a checkpoint's files tell of its size and of its attention."""

import json
import struct

import checkpoints
import pytest

from evalscope_evalflow.engines.checkpoints import checkpoint_folder as checkpoint
from evalscope_evalflow.engines.checkpoints import safetensors_headers as weights
from evalscope_evalflow.engines.checkpoints import shape
from evalscope_evalflow.engines.checkpoints.memory import Memory, Options, demand, float_bytes, kv_bytes

GB = 10**9
GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "gigabytes", "main"),
    [  # as the models weigh on the hub
        ("tiny", 0.103, "BF16"), ("smol", 0.27, "BF16"), ("7b", 15.23, "BF16"), ("7b-awq", 5.57, "I32"),
        ("72b", 145.4, "BF16"), ("72b-awq", 41.6, "I32"), ("30b-a3b", 61.1, "BF16"),
        ("deepseek-v3", 685, "F8_E4M3"),
    ],
)  # fmt: skip
def test_size_and_type_of_well_known_models(tmp_path, name, gigabytes, main):
    found = weights.read(checkpoints.make(tmp_path / name, name))
    assert found.stored_bytes / GB == pytest.approx(gigabytes, rel=0.01)
    assert found.main_type == main
    assert sum(file.stat().st_blocks for file in (tmp_path / name).iterdir()) * 512 < 0.2 * GB


def test_float32_is_loaded_as_half_of_it_and_the_scales_of_quantised_weights_are_not(tmp_path):
    tensors = [("a", "F32", (1000,)), ("b", "BF16", (1000,)), ("c", "I32", (1000,))]
    found = weights.read(checkpoints.write(tmp_path / "m", {}, tensors))
    assert found.loaded_bytes(2, quantised=False) == 2000 + 2000 + 4000
    assert found.loaded_bytes(4, quantised=False) == 4000 + 4000 + 4000
    assert found.loaded_bytes(2, quantised=True) == 4000 + 2000 + 4000


def test_a_second_copy_in_mistrals_own_layout_is_not_counted(tmp_path):
    tensors = [("a", "BF16", (1000,))]
    folder = checkpoints.write(tmp_path / "m", {}, tensors)
    checkpoints.write_file(folder / "consolidated.safetensors", tensors)
    assert weights.read(folder).stored_bytes == 2000
    (folder / "model.safetensors").unlink()
    assert weights.read(folder).stored_bytes == 2000


def test_files_that_the_index_does_not_name_are_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARD_BYTES", 1500)
    folder = checkpoints.write(tmp_path / "m", {}, [("a", "BF16", (500,)), ("b", "BF16", (500,))])
    checkpoints.write_file(folder / "adapter.safetensors", [("c", "BF16", (500,))])
    assert weights.read(folder).stored_bytes == 2000


def test_pickled_weights_are_as_large_as_their_files(tmp_path):
    for name, size in (("pytorch_model-1.bin", 100), ("pytorch_model-2.bin", 50), ("training_args.bin", 7)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert weights.read(tmp_path).stored_bytes == 150
    assert weights.read(tmp_path).loaded_bytes(2, quantised=False) == 150


def test_parts_of_a_gguf_file_are_added_up(tmp_path):
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(b"x" * 100)
    (tmp_path / "other.gguf").write_bytes(b"x")
    assert weights.read(tmp_path / "m-00001-of-00002.gguf").stored_bytes == 200
    assert weights.read(tmp_path / "other.gguf").stored_bytes == 1


def test_a_folder_without_weights_has_no_size(tmp_path):
    assert weights.read(tmp_path) is None


def damage_cut(folder):
    file = folder / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    return "model-00002-of-00002.safetensors is cut short: "


def damage_empty(folder):
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")
    return "is no safetensors file, or it is cut short (0 bytes)"


def damage_missing(folder):
    (folder / "model-00001-of-00002.safetensors").unlink()
    return "1 of the 2 files that model.safetensors.index.json names are missing, such as model-00001-of"


def damage_pointer(folder):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (folder / "model-00001-of-00002.safetensors").write_text(text)
    return "is a Git LFS pointer, not the weights: run `git lfs pull` there"


def damage_header(folder):
    (folder / "model-00001-of-00002.safetensors").write_bytes(struct.pack("<Q", 4) + b"[1] ")
    return "has a header that is no safetensors header"


def damage_index(folder):
    (folder / "model.safetensors.index.json").write_text("[]")
    return "is no index of safetensors files"


@pytest.mark.parametrize(
    "damage", [damage_cut, damage_empty, damage_missing, damage_pointer, damage_header, damage_index]
)
def test_a_download_that_is_not_whole_is_told_before_anything_starts(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(checkpoints, "SHARD_BYTES", 1500)
    folder = checkpoints.write(tmp_path / "m", {}, [("a", "BF16", (500,)), ("b", "BF16", (500,))])
    assert list(checkpoint.check(str(folder))) == []
    says = damage(folder)
    (problem,) = checkpoint.check(str(folder))
    assert says in problem.what
    assert demand(str(folder), None, Memory()).weights is None


def kv_gib(config, tokens=32768, size=1, **options):
    return shape.of_config(config).kv_bytes(tokens, size, 2, **options) / GIB


@pytest.mark.parametrize(
    ("name", "tensor_parallel", "expected"),
    [
        ("7b", 1, 1.75),  # 28 layers × 4 heads × 2 × 128 × 2 bytes × 32768
        ("7b", 4, 0.4375),
        ("0.5b", 1, 0.375),
        ("0.5b", 2, 0.1875),
        ("72b", 8, 1.25),
        ("deepseek-v3", 1, 2.14453125),  # 61 layers × (512 + 64) × 2 bytes × 32768
        ("deepseek-v3", 8, 2.14453125),  # a latent is on every device
    ],
)
def test_kv_cache_of_one_sequence(name, tensor_parallel, expected):
    assert kv_gib(checkpoints.MODELS[name], size=tensor_parallel) == expected


def test_devices_beyond_the_heads_of_keys_keep_copies():
    config = checkpoints.dense(4096, 32, 32, 2, 11008)
    assert kv_gib(config, size=2) == kv_gib(config, size=8) == kv_gib(config) / 2


LAYERS = checkpoints.dense(4096, 48, 32, 8, 11008)


@pytest.mark.parametrize(
    ("more", "full", "windowed"),
    [
        ({}, 48, 0),
        ({"layer_types": ["full_attention", "sliding_attention"] * 24, "sliding_window": 128}, 24, 24),
        ({"layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 12}, 12, 0),
        ({"full_attention_interval": 4}, 12, 0),
        ({"sliding_window": 1024, "sliding_window_pattern": 6}, 8, 40),
        ({"sliding_window": 4096, "model_type": "mistral"}, 0, 48),
        ({"sliding_window": None, "model_type": "mistral"}, 48, 0),
        ({"sliding_window": 131072, "use_sliding_window": False}, 48, 0),
        ({"hybrid_override_pattern": "M-M*-M*-"}, 2, 0),
        ({"attn_layer_indices": [3, 9]}, 2, 0),
    ],
)
def test_layers_that_keep_less_than_the_whole_sequence(more, full, windowed):
    found = shape.of_config({**LAYERS, **more})
    assert (found.full_layers, found.window_layers) == (full, windowed)


def test_a_window_is_kept_with_the_tokens_that_are_read_at_once():
    config = {**LAYERS, "sliding_window": 4096, "model_type": "mistral"}
    found = shape.of_config(config)
    layer = 2 * 8 * 128 * 2 * 48
    assert found.kv_bytes(131072, 1, 2) == layer * (4096 + 8192)
    assert found.kv_bytes(8192, 1, 2) == layer * 8192
    assert found.kv_bytes(131072, 1, 2, windows=False) == layer * 131072


@pytest.mark.parametrize("outer", ["text_config", "llm_config", "language_config"])
def test_a_vlms_language_model_is_what_counts(outer):
    config = {outer: checkpoints.MODELS["7b"], "vision_config": {"num_attention_heads": 16, "num_hidden_layers": 27}}
    assert shape.of_config(config) == shape.of_config(checkpoints.MODELS["7b"])


def test_other_names_for_the_same():
    falcon = {"n_head": 71, "hidden_size": 4544, "n_layer": 32, "multi_query": True}
    found = shape.of_config(falcon)
    assert (found.heads, found.kv_heads, found.head_elements, found.full_layers) == (71, 1, 128, 32)
    gpt2 = shape.of_config({"n_head": 12, "n_embd": 768, "n_layer": 12})
    assert (gpt2.heads, gpt2.kv_heads, gpt2.head_elements) == (12, 12, 128)
    assert shape.of_config({}).kv_bytes(1000, 1, 2) == 0


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("smol", [1]),  # 9 heads
        ("0.5b", [1, 2]),  # 14 heads
        ("7b", [1, 2, 4]),  # 28 heads
        ("7b-awq", [1, 2, 4]),
        ("72b", [1, 2, 4, 8, 16]),
        ("72b-awq", [1, 2, 4, 8]),  # 29696 columns in groups of 128 make 232, which 16 does not divide
        ("deepseek-v3", [1, 2, 4, 8, 16]),
    ],
)
def test_tensor_parallel_sizes_that_divide_the_model(name, sizes):
    found = shape.of_config(checkpoints.MODELS[name])
    assert [size for size in (1, 2, 4, 8, 16) if not found.why_not(size)] == sizes


def test_experts_in_quantised_blocks_limit_the_size():
    config = {**checkpoints.MODELS["30b-a3b"], "quantization_config": checkpoints.FP8}
    assert "768 quantised columns, in groups of 128" in shape.of_config(config).why_not(4)
    assert shape.of_config(config).why_not(2) == ""


def test_a_gguf_files_head(make_gguf):
    path = make_gguf(
        metadata={
            "general.architecture": "llama", "llama.context_length": 2048, "llama.block_count": 30,
            "llama.embedding_length": 576, "llama.attention.head_count": 9, "llama.attention.head_count_kv": 3,
        }
    )  # fmt: skip
    found = demand(str(path), None, Memory())
    assert found.tokens == 2048
    assert found.on_each(1).kv_bytes == 30 * 3 * 2 * 64 * 2 * 2048
    assert found.weight_bytes == path.stat().st_size


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--gpu-memory-utilization", "0.5"], 0.5),
        (["--gpu_memory_utilization=0.5"], 0.5),
        (["--gpu-memory-util=0.5", "--dtype", "half"], 0.5),
        (["--other", "--gpu-memory-utilization", "much"], 0.9),
        (["--gpu-memory-utilization"], 0.9),
        ([], 0.9),
    ],
)
def test_an_option_among_the_users(words, expected):
    found = Options(words, {"--gpu-memory-utilization": float, "--dtype": str})
    assert found.get("--gpu-memory-utilization", 0.9) == expected


def test_sizes_of_numbers():
    assert [float_bytes(name) for name in (None, "auto", "bfloat16", "float32", "float")] == [2, 2, 2, 4, 4]
    assert [kv_bytes(name, 2) for name in (None, "auto", "fp8", "fp8_e4m3", "nvfp4", "bfloat16")] == [
        2,
        2,
        1,
        1,
        0.5,
        2,
    ]


def test_the_longest_sequence_that_fits(tmp_path):
    found = demand(str(checkpoints.make(tmp_path / "m", "7b")), 32768, Memory(share=1.0, reserve_bytes=0))
    total = found.weight_bytes + GIB  # 1 of the 1.75 GiB that 32768 tokens take
    assert found.sequences(1, total) == pytest.approx(1 / 1.75)
    assert found.tokens_that_fit(1, total) == 18688  # 18724, in steps of 256
    assert found.tokens_that_fit(1, found.weight_bytes - 1) == 0
    assert found.sequences(1, found.weight_bytes - 10**6) == -1


def test_context_that_nobody_states_is_the_models_own(tmp_path):
    folder = checkpoints.make(tmp_path / "m", "7b")
    assert demand(str(folder), None, Memory()).tokens == 32768
    (folder / "config.json").write_text(json.dumps({}))
    assert demand(str(folder), None, Memory()).tokens == 8192
