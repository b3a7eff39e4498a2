"""The head of a GGUF file: its metadata, and where its tensors are.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (magic, version, counts, key-value
pairs, tensors).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

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
ALIGNMENT = 32  # where the file does not say another


def read_metadata(path: Path) -> dict[str, Any]:
    """The scalar metadata of a GGUF file, such as `general.architecture`; arrays are left out.

    Raises:
        ValueError: it is no GGUF file, or it is cut short.
    """
    return dict(_read(path)[0])


def why_not_whole(path: Path) -> str:
    """What of its tensors a file lacks, such as after a download that was broken off; empty if it has all their starts.

    Raises:
        ValueError: it is no GGUF file, or its header is cut short.
    """
    size, least = path.stat().st_size, _read(path)[1]
    return f"it has {size} bytes, and its last tensor begins behind byte {least}" if size <= least else ""


def _read(path: Path) -> tuple[dict[str, Any], int]:
    stat = path.stat()
    return _read_head(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1024)  # a sweep looks at each of its models several times
def _read_head(path: Path, changed: int, size: int) -> tuple[dict[str, Any], int]:
    """Metadata, and the byte that the last tensor begins at; once for each state of the file."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError("it does not start with GGUF's magic bytes")
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            try:
                header = _Header(data)
                metadata = header.pairs()
                return metadata, header.last_tensor(int(metadata.get("general.alignment", ALIGNMENT)))
            except (struct.error, EOFError):
                raise ValueError("it ends within its own header") from None
            except (KeyError, OverflowError, MemoryError, ZeroDivisionError):
                raise ValueError("its header is damaged") from None


def context_length(metadata: dict[str, Any]) -> int | None:
    """The context length, in tokens, that the model was trained with."""
    value = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return int(value) if value else None


class _Header:
    """The bytes of a file, read from its beginning."""

    def __init__(self, data: mmap) -> None:
        self._data, self._end, self._at = data, len(data), 4  # behind the magic bytes
        self._tensors = 0

    def pairs(self) -> dict[str, Any]:
        """Its keys, and those of its values that are no arrays."""
        version, self._tensors, pairs = self._scalar("<I"), self._scalar("<Q"), self._scalar("<Q")
        if version < 2:
            raise ValueError(f"GGUF version {version} is too old")
        found = {}
        for _ in range(pairs):
            name = self._string()
            value = self._value(self._scalar("<I"))
            if value is not None:
                found[name] = value
        return found

    def last_tensor(self, alignment: int) -> int:
        """The byte that the last tensor's data begins at; 0 if there are none. To be called after `pairs`."""
        offsets = [-1]
        for _ in range(self._tensors):
            self._skip(self._scalar("<Q"))  # name
            self._skip(8 * self._scalar("<I") + 4)  # dimensions, and type
            offsets.append(self._scalar("<Q"))
        begin = -(-self._at // alignment) * alignment
        return begin + max(offsets) if self._tensors else 0

    def _skip(self, count: int) -> int:
        """Go on by so many bytes; where they began."""
        begin = self._at
        self._at += count
        if self._at > self._end:
            raise EOFError
        return begin

    def _scalar(self, form: str) -> Any:
        return struct.unpack_from(form, self._data, self._skip(struct.calcsize(form)))[0]

    def _string(self) -> str:
        begin = self._skip(self._scalar("<Q"))
        return self._data[begin : self._at].decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._scalar(_SCALARS[kind])
        inner, count = self._scalar("<I"), self._scalar("<Q")
        if inner in _SCALARS:
            self._skip(count * struct.calcsize(_SCALARS[inner]))
        elif inner == _STRING:
            self._skip_strings(count)
        else:
            for _ in range(count):
                self._value(inner)
        return None

    def _skip_strings(self, count: int) -> None:
        """A vocabulary is 50 to 250 thousand of them."""
        data, end, at, length = self._data, self._end, self._at, struct.Struct("<Q").unpack_from
        for _ in range(count):
            at += 8 + length(data, at)[0]
            if at > end:
                raise EOFError
        self._at = at
