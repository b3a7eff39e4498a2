"""The metadata at the head of a GGUF file.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (magic, version, counts, key-value pairs).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9


def read_metadata(path: Path) -> dict[str, Any]:
    """The scalar metadata of a GGUF file, such as `general.architecture`; arrays are left out.

    Raises:
        ValueError: it is no GGUF file, or it is cut short.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError("it does not start with GGUF's magic bytes")
            version, _tensors, pairs = struct.unpack("<IQQ", file.read(20))
            if version < 2:
                raise ValueError(f"GGUF version {version} is too old")
            found: dict[str, Any] = {}
            for _ in range(pairs):
                name = _string(file)
                value = _value(file, _scalar(file, 4))
                if value is not None:
                    found[name] = value
            return found
    except (struct.error, EOFError):
        raise ValueError("it ends within its own header") from None
    except (KeyError, OverflowError, MemoryError):
        raise ValueError("its header is damaged") from None


def context_length(metadata: dict[str, Any]) -> int | None:
    """The context length, in tokens, that the model was trained with."""
    value = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return int(value) if value else None


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _scalar(file: BinaryIO, kind: int) -> Any:
    form = _SCALARS[kind]
    return struct.unpack(form, _read(file, struct.calcsize(form)))[0]


def _string(file: BinaryIO) -> str:
    return _read(file, _scalar(file, 10)).decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _scalar(file, kind)
    inner, count = _scalar(file, 4), _scalar(file, 10)
    if inner in _SCALARS:
        size = count * struct.calcsize(_SCALARS[inner])
        if file.tell() + size > os.fstat(file.fileno()).st_size:
            raise EOFError
        file.seek(size, os.SEEK_CUR)
    else:
        for _ in range(count):
            _value(file, inner)
    return None
