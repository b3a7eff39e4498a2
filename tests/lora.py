"""Adapters of SmolLM2-135M for real engines: random numbers of a chosen size, in PEFT's layout and as GGUF."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

LAYERS, WIDTH, RANK = 30, 576, 8


def peft_adapter(folder: Path, base: Path, size: float, seed: int = 0) -> Path:
    """A folder as PEFT saves it, for the query projections.

    Args:
        folder: to be made.
        base: the checkpoint.
        size: of the numbers of the second matrix; 0: the adapter changes nothing.
        seed: of the numbers.
    """
    folder.mkdir(parents=True)
    header: dict[str, Any] = {}
    data = b""
    for layer, (down, up) in enumerate(_matrices(size, seed)):
        stem = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        for name, shape, numbers in (
            (f"{stem}.lora_A.weight", [RANK, WIDTH], down),
            (f"{stem}.lora_B.weight", [WIDTH, RANK], up),
        ):
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(numbers)]}
            data += numbers
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": RANK, "lora_alpha": 16, "bias": "none",
              "target_modules": ["q_proj"]}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def gguf_adapter(path: Path, size: float, seed: int = 0, architecture: str = "llama") -> Path:
    """The same as a GGUF file, version 3: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""
    tensors = []
    for layer, (down, up) in enumerate(_matrices(size, seed)):
        tensors += [(f"blk.{layer}.attn_q.weight.lora_a", (WIDTH, RANK), down),
                    (f"blk.{layer}.attn_q.weight.lora_b", (RANK, WIDTH), up)]  # fmt: skip
    words = {"general.architecture": architecture, "general.type": "adapter", "adapter.type": "lora"}
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(words) + 1)
    for name, value in words.items():
        head += _text(name) + struct.pack("<I", 8) + _text(value)
    head += _text("adapter.lora.alpha") + struct.pack("<If", 6, 16.0)
    data = b""
    for name, shape, numbers in tensors:
        head += _text(name) + struct.pack("<IQQIQ", 2, *shape, 0, len(data))
        data += numbers + bytes(-len(numbers) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _matrices(size: float, seed: int) -> list[tuple[bytes, bytes]]:
    chance = random.Random(seed)
    count = RANK * WIDTH
    pairs = []
    for _ in range(LAYERS):
        down, up = ([chance.gauss(0, scale) for _ in range(count)] for scale in (0.05, size))
        pairs.append((struct.pack(f"<{count}f", *down), struct.pack(f"<{count}f", *up)))
    return pairs
