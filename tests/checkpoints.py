"""Checkpoints of any size that take no room: configuration, index and headers as real ones have, and holes for data.

Names, shapes and types of the tensors are those of the models that the configurations were copied from.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZES = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "I32": 4, "U8": 1}
SHARD_BYTES = 5 * 10**9
Tensor = tuple[str, str, tuple[int, ...]]

DENSE = {"vocab_size": 152064, "max_position_embeddings": 32768, "torch_dtype": "bfloat16", "model_type": "qwen2"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def dense(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, **more: Any) -> dict[str, Any]:
    """The configuration of a model in the manner of Qwen2."""
    return {
        **DENSE, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": intermediate, **more,
    }  # fmt: skip


# By the sizes of well-known models: Qwen2.5 0.5B to 72B, Llama 3.1 405B, DeepSeek V3, Qwen3 30B-A3B.
MODELS: dict[str, dict[str, Any]] = {
    "tiny": dense(512, 12, 8, 4, 1408, vocab_size=32000, tie_word_embeddings=True),
    "smol": dense(576, 30, 9, 3, 1536, vocab_size=49152, tie_word_embeddings=True),
    "0.5b": dense(896, 24, 14, 2, 4864, vocab_size=151936, tie_word_embeddings=True),
    "7b": dense(3584, 28, 28, 4, 18944),
    "7b-awq": dense(3584, 28, 28, 4, 18944, quantization_config=AWQ),
    "32b": dense(5120, 64, 40, 8, 27648),
    "72b": dense(8192, 80, 64, 8, 29568),
    "72b-fp8": dense(8192, 80, 64, 8, 29696, quantization_config=FP8),
    "72b-awq": dense(8192, 80, 64, 8, 29696, quantization_config=AWQ),
    "405b-fp8": dense(
        16384, 126, 128, 8, 53248, vocab_size=128256, max_position_embeddings=131072, quantization_config=FP8
    ),
    "30b-a3b": dense(2048, 48, 32, 4, 6144, head_dim=128, num_experts=128, moe_intermediate_size=768),
    "deepseek-v3": {
        **dense(7168, 61, 128, 128, 18432, vocab_size=129280, max_position_embeddings=163840, model_type="deepseek_v3"),
        "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
        "num_nextn_predict_layers": 1,
        "n_routed_experts": 256, "n_shared_experts": 1, "moe_intermediate_size": 2048, "first_k_dense_replace": 3,
        "quantization_config": FP8,
    },
}  # fmt: skip


def make(folder: Path, name: str) -> Path:
    """One of MODELS, on disk."""
    return write(folder, MODELS[name], list(tensors(MODELS[name])))


def tensors(config: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors of a model with this configuration."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    kv = config["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", "BF16", (config["vocab_size"], hidden)
    if not config.get("tie_word_embeddings"):
        yield "lm_head.weight", "BF16", (config["vocab_size"], hidden)
    yield "model.norm.weight", "BF16", (hidden,)
    for number in range(config["num_hidden_layers"] + config.get("num_nextn_predict_layers", 0)):
        layer = f"model.layers.{number}"
        yield f"{layer}.input_layernorm.weight", "BF16", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", "BF16", (hidden,)
        if "kv_lora_rank" in config:
            latent, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
            nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
            attention = {
                "q_a_proj": (config["q_lora_rank"], hidden),
                "q_b_proj": (heads * (nope + rope), config["q_lora_rank"]),
                "kv_a_proj_with_mqa": (latent + rope, hidden),
                "kv_b_proj": (heads * (nope + value), latent),
                "o_proj": (hidden, heads * value),
            }
        else:
            attention = {
                "q_proj": (heads * head, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden),
                "o_proj": (hidden, heads * head),
            }  # fmt: skip
        for part, shape in attention.items():
            yield from _linear(config, f"{layer}.self_attn.{part}", shape)
        experts = config.get("n_routed_experts") or config.get("num_experts") or 0
        if experts and number >= config.get("first_k_dense_replace", 0):
            yield f"{layer}.mlp.gate.weight", "BF16", (experts, hidden)
            for expert in [*map(str, range(experts))]:
                yield from _mlp(config, f"{layer}.mlp.experts.{expert}", config["moe_intermediate_size"])
            if config.get("n_shared_experts"):
                yield from _mlp(config, f"{layer}.mlp.shared_experts", config["moe_intermediate_size"])
        else:
            yield from _mlp(config, f"{layer}.mlp", config["intermediate_size"])


def _mlp(config: dict[str, Any], name: str, intermediate: int) -> Iterator[Tensor]:
    hidden = config["hidden_size"]
    wide = (intermediate, hidden)
    for part, shape in (("gate_proj", wide), ("up_proj", wide), ("down_proj", wide[::-1])):
        yield from _linear(config, f"{name}.{part}", shape)


def _linear(config: dict[str, Any], name: str, shape: tuple[int, int]) -> Iterator[Tensor]:
    """A matrix, quantised or not, as AWQ's and DeepSeek's own tools write it."""
    rows, columns = shape
    method = config.get("quantization_config", {}).get("quant_method")
    if method == "awq":
        yield f"{name}.qweight", "I32", (columns, rows // 8)
        yield f"{name}.qzeros", "I32", (columns // 128, rows // 8)
        yield f"{name}.scales", "F16", (columns // 128, rows)
    elif method == "fp8":
        yield f"{name}.weight", "F8_E4M3", shape
        yield f"{name}.weight_scale_inv", "F32", (math.ceil(rows / 128), math.ceil(columns / 128))
    else:
        yield f"{name}.weight", "BF16", shape


def write(folder: Path, config: dict[str, Any], found: list[Tensor]) -> Path:
    """A folder with these tensors, in files of at most SHARD_BYTES and an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"], **config}))
    (folder / "tokenizer.json").write_text("{}")
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in found:
        count = SIZES[tensor[1]] * math.prod(tensor[2])
        if shards[-1] and size + count > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += count
    if len(shards) == 1:
        write_file(folder / "model.safetensors", shards[0])
        return folder
    places, total = {}, 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        total += write_file(folder / file, shard)
        places.update({name: file for name, _, _ in shard})
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_random(folder: Path, config: dict[str, Any], found: list[Tensor]) -> Path:
    """The same in one file, and small: with data that depends on the folder's name."""
    write(folder, config, found)
    file = folder / "model.safetensors"
    raw = file.read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    data = hashlib.sha256(folder.name.encode()).digest() * (len(raw) // 32 + 1)
    file.write_bytes(raw[:start] + data[: len(raw) - start])
    return folder


def weights_hash(folder: str | Path) -> str:
    """What the scripted server that swaps tells of such a checkpoint's weights."""
    return hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()[:16]


def write_file(path: Path, found: list[Tensor]) -> int:
    """A safetensors file whose data is a hole. Returns the data's size in bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, kind, shape in found:
        begin, end = end, end + SIZES[kind] * math.prod(shape)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return end
