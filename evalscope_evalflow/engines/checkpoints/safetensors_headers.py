"""How large a checkpoint's weights are, by the headers of its files; no weight is read.

A safetensors file begins with the length of its header (8 bytes, little-endian) and the header, JSON that gives every
tensor's type and place: https://huggingface.co/docs/safetensors/index#format.
"""

from __future__ import annotations

import os
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from evalscope_evalflow.config.one_pass import remembered
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.events import any_json

INDEX = "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
_PICKLED = ("pytorch_model*.bin", "*.bin", "*.pt", "*.pth")
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
_LFS = b"version https://git-lfs"


class Damaged(ValueError):
    """A file of weights that is missing, cut short, or something else; the message says which and why."""


@dataclass(frozen=True)
class Weights:
    """The weights of a checkpoint.

    Attributes:
        by_type: bytes on disk, by the type of numbers as safetensors names it (`BF16`, `F8_E4M3`, `I32`, …); "?" where
            files do not tell.
    """

    by_type: Mapping[str, int]

    @property
    def stored_bytes(self) -> int:
        """All of it, on disk."""
        return sum(self.by_type.values())

    @property
    def main_type(self) -> str:
        """The type that most of it has."""
        return max(self.by_type, key=lambda name: self.by_type[name], default="?")

    def loaded_bytes(self, float_bytes: int, *, quantised: bool) -> int:
        """What it takes in a device's memory.

        Args:
            float_bytes: size of a number that the engine computes with: 2, or 4 with `--dtype float32`.
            quantised: whether the checkpoint is; then what is not quantised (scales, norms) stays as it is.
        """
        if quantised:
            return self.stored_bytes
        sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
        return sum(size * float_bytes // sizes.get(name, float_bytes) for name, size in self.by_type.items())


def read(path: str | Path) -> Weights | None:
    """The weights in a checkpoint's folder, or in a GGUF file (with its other parts).

    Returns:
        None where there are none that can be measured.

    Raises:
        Damaged: one of its files is.
    """
    return remembered(("weights", str(path)), lambda: _read(user_path(path)))


def _read(folder: Path) -> Weights | None:
    if os.path.isfile(folder):
        return Weights({"?": sum(part.stat().st_size for part in _parts(folder))})
    files = _safetensors(folder)
    if files:
        total: Counter[str] = Counter()
        for file in files:
            total.update(dict(_measure(file)))
        return Weights(dict(total))
    for pattern in (*_PICKLED, "*.gguf"):
        found = [file for file in folder.glob(pattern) if not file.name.startswith(("training_args", "optimizer"))]
        if found:
            return Weights({"?": sum(file.stat().st_size for file in found)})
    return None


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor of a checkpoint, by its name; empty where it has no safetensors files.

    Raises:
        Damaged: one of its files is.
        OSError: one cannot be read.
    """
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in _safetensors(folder):
        found.update(tensors_of(file))
    return dict(sorted(found.items()))


def tensors_of(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor of a safetensors file, by its name.

    Raises:
        Damaged: it is not whole.
        OSError: it cannot be read.
    """
    state = file.stat()
    return dict(_header(str(file), state.st_size, state.st_mtime_ns).tensors)


def files(path: str | Path) -> list[Path]:
    """The files of weights in a checkpoint's folder that an engine reads, or of a GGUF file.

    Raises:
        Damaged: one of them is missing.
    """
    place = user_path(path)
    return _parts(place) if os.path.isfile(place) else _safetensors(place)


def _safetensors(folder: Path) -> list[Path]:
    """The files that make up the model, by the index where there is one."""
    index = folder / INDEX
    if os.path.isfile(index):
        try:
            names = set(any_json.load_file(index, any_json.MOST_BYTES)["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError):
            raise Damaged(f"{index} is no index of safetensors files") from None
        strange = [
            name for name in names if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts
        ]
        if strange:
            raise Damaged(f"{index} names {str(strange[0])[:200]!r}, which is no file of this folder")
        missing = sorted(name for name in names if not os.path.isfile(folder / name))
        if missing:
            raise Damaged(
                f"{len(missing)} of the {len(names)} files that {INDEX} names are missing, such as {missing[0]}"
            )
        return [folder / name for name in sorted(names)]
    found = sorted(folder.glob("*.safetensors"))
    # Mistral's checkpoints hold everything twice: in their own layout, and in that of Transformers.
    return [file for file in found if not file.name.startswith("consolidated")] or found


def _parts(file: Path) -> list[Path]:
    """A GGUF file and the others that it was split into."""
    match = _PART.search(file.name)
    if match is None:
        return [file]
    stem, count = file.name[: match.start()], match.group(1)
    return sorted(file.parent.glob(f"{stem}-*-of-{count}.gguf"))


def _measure(file: Path) -> tuple[tuple[str, int], ...]:
    state = file.stat()
    return _header(str(file), state.st_size, state.st_mtime_ns).by_type


@dataclass(frozen=True)
class _Header:
    """What a file's header tells: bytes by type; and each tensor's name, type and shape."""

    by_type: tuple[tuple[str, int], ...]
    tensors: tuple[tuple[str, tuple[str, tuple[int, ...]]], ...]


@lru_cache(maxsize=4096)  # a large checkpoint has hundreds of files, and is asked for several times in a run
def _header(file: str, size: int, changed: int) -> _Header:
    """The header of a safetensors file."""
    with open(file, "rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if (start + opened.read(len(_LFS) - 8)) == _LFS:
            raise Damaged(f"{file} is a Git LFS pointer, not the weights: run `git lfs pull` there")
        if not 0 < length <= min(LONGEST_HEADER, size):
            raise Damaged(f"{file} is no safetensors file, or it is cut short ({size} bytes)")
        opened.seek(8, os.SEEK_SET)
        text = opened.read(length)
    try:
        header: dict[str, Any] = any_json.loads(text)
        header.pop("__metadata__", None)
        end = max((item["data_offsets"][1] for item in header.values()), default=0)
        total: Counter[str] = Counter()
        for item in header.values():
            total[item["dtype"]] += item["data_offsets"][1] - item["data_offsets"][0]
        found = tuple((name, (item["dtype"], tuple(item["shape"]))) for name, item in header.items())
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise Damaged(f"{file} has a header that is no safetensors header") from None
    if size < 8 + length + end:
        raise Damaged(f"{file} is cut short: {size} bytes of {8 + length + end}")
    return _Header(tuple(total.items()), found)
