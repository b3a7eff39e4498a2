"""Whether a picture of a data file is there, and is one: by its first bytes."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
from pathlib import Path

_START = 32  # bytes that tell what a picture is
_MAGIC = (
    b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+", b"\x00\x00\x01\x00",
    b"\x00\x00\x02\x00", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ", b"8BPS", b"qoif", b"DDS ", b"\x0a\x05\x01",
)  # fmt: skip
_SMALLEST = 26  # bytes; the least that any format takes
_WHOLE = 1 << 24  # characters of base64 that are decoded where the first bytes do not tell
_HEADER = re.compile(r"data:[^,]*,")


def is_remote(value: str) -> bool:
    """Whether a value is an address or a picture itself, and no file."""
    return value.startswith(("http://", "https://", "data:"))


def file_problem(path: str | Path, *, picture: bool = True) -> str:
    """What is wrong with a picture's file, such as "does not exist"; empty if nothing is.

    Args:
        path: the file.
        picture: whether it has to be a picture; else it only has to be there.
    """
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError):  # the second: a zero byte in it
        return "does not exist"
    if os.path.isdir(path):
        return "is a folder"
    if not size:
        return "is empty"
    if not picture:
        return ""
    try:
        with open(path, "rb") as file:
            start = file.read(_START)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if _looks_right(start) or _opens(path) else "is no picture"


def base64_problem(text: str) -> str:
    """What is wrong with a picture in base64; empty if nothing is."""
    text = _HEADER.sub("", text, count=1) if text.startswith("data:") else text
    if not text.strip():
        return "is empty"
    if _looks_right(_decode(text[: 2 * _START])):
        return ""
    data = _decode(text[:_WHOLE])
    if len(data) < _SMALLEST:
        return "is no picture in base64"
    return "" if _looks_right(data) or _opens(io.BytesIO(data)) else "is base64, but of no picture"


def _decode(text: str) -> bytes:
    """As VLMEvalKit decodes: what is no letter of base64 is left out."""
    kept = re.sub(r"[^A-Za-z0-9+/]", "", text)
    try:
        return base64.b64decode(kept[: len(kept) - len(kept) % 4])
    except binascii.Error:
        return b""


def _looks_right(start: bytes) -> bool:
    container = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    portable = start[:1] == b"P" and start[1:2] in b"1234567fF" and start[2:3].isspace()
    return start.startswith(_MAGIC) or container or portable or start[4:8] == b"ftyp"


def _opens(file: str | Path | io.BytesIO) -> bool:
    """Whether Pillow takes it. Where that is not installed, nothing is known against the picture."""
    try:
        from PIL import Image
    except ImportError:
        return True
    try:
        with Image.open(file) as picture:
            return bool(picture.size[0] > 0)
    except Exception:  # noqa: BLE001 - any of a hundred decoders
        return False
