"""Checkpoints of a wanted size that take no room: configuration and headers as real ones have, and holes for data."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "tests"))
import checkpoints

GB = 1e9
# Hidden size, heads, heads of keys and values, and intermediate size of known models (Qwen2.5), up to so many bytes.
_SHAPES = (
    (3 * GB, (896, 14, 2, 4864)),
    (10 * GB, (2048, 16, 2, 11008)),
    (30 * GB, (3584, 28, 4, 18944)),
    (50 * GB, (5120, 40, 8, 27648)),
    (math.inf, (8192, 64, 8, 29568)),
)
_VOCABULARY = {896: 151936}  # with one matrix for both of its ends, as small models have it


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that could be written.

    Attributes:
        shape: hidden size, heads, heads of keys and values, intermediate size.
        layers: of them.
        stored_bytes: in its files, headers left out.
    """

    shape: tuple[int, int, int, int]
    layers: int
    stored_bytes: int

    @classmethod
    def of(cls, wanted_bytes: float) -> Checkpoint:
        """The one whose size comes next to the wanted one."""
        shape = next(shape for most, shape in _SHAPES if wanted_bytes <= most)
        base, layer = _size(shape, 0), _size(shape, 1) - _size(shape, 0)
        layers = max(1, round((wanted_bytes - base) / layer))
        return cls(shape, layers, base + layers * layer)

    def write(self, folder: Path) -> Path:
        """Write it; the files are as long as they say, and sparse."""
        config = _config(self.shape, self.layers)
        return checkpoints.write(folder, config, list(checkpoints.tensors(config)))


@lru_cache
def _size(shape: tuple[int, int, int, int], layers: int) -> int:
    return sum(
        checkpoints.SIZES[kind] * math.prod(size) for _, kind, size in checkpoints.tensors(_config(shape, layers))
    )


def _config(shape: tuple[int, int, int, int], layers: int) -> dict[str, Any]:
    hidden, heads, kv_heads, intermediate = shape
    more = {"vocab_size": _VOCABULARY[hidden], "tie_word_embeddings": True} if hidden in _VOCABULARY else {}
    return checkpoints.dense(hidden, layers, heads, kv_heads, intermediate, **more)
