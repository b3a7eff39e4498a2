"""A fingerprint of what a file holds, the same in both halves of a backend."""

from __future__ import annotations

import hashlib
from pathlib import Path


def content_of(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; of any size, as it is read in blocks."""
    found = hashlib.sha256()
    with file.open("rb") as opened:
        for block in iter(lambda: opened.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()
