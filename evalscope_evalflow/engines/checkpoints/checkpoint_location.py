"""Where a checkpoint is: what the paths that people give stand for.

A path may be a folder with config.json, a GGUF file (under any name, as Ollama's blobs are), a folder that holds one,
a model's folder in a hub's cache, or a model's name on a hub, if it is in the cache. Nothing is ever downloaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from evalscope_evalflow.config.one_pass import remembered
from evalscope_evalflow.config.user_paths import user_path

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_BARE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_GGUF_MAGIC = b"GGUF"


def locate(path: str) -> Path:
    """The folder or file that a path stands for; what leads nowhere stays as it is."""
    return remembered(("checkpoint", path), lambda: _locate(path))


def _locate(path: str) -> Path:
    given = user_path(path)
    if os.path.isdir(given):
        return _inside(given)
    if not os.path.exists(given) and (HUB_NAME.fullmatch(path) or _BARE_NAME.fullmatch(path)):
        cached = hub_snapshot(path)
        return _inside(cached) if cached is not None else given
    return given


def is_gguf(path: str) -> bool:
    """Whether a path stands for a GGUF file, by its name or by its first bytes."""
    place = locate(path)
    if os.path.isdir(place):
        return False
    if place.suffix.lower() == ".gguf":
        return True
    if not os.path.isfile(place):
        return False
    try:
        with place.open("rb") as file:
            return file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC
    except OSError:
        return False


def gguf_files(folder: Path) -> list[Path]:
    """The models in a folder's GGUF files: of one in several parts the first, and no projectors of images."""
    files = sorted(file for file in _entries(folder) if file.suffix.lower() == ".gguf")
    return [file for file in files if not _LATER_PART.search(file.name) and not file.name.startswith("mmproj")]


def hub_snapshot(name: str) -> Path | None:
    """The folder of a hub model in the local caches: Hugging Face's, or ModelScope's."""
    found = snapshot_in(Path(huggingface_cache(), "models--" + name.replace("/", "--")))
    if found is None and "/" in name:
        owner, _, model = name.partition("/")
        root = user_path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope")
        for folder in ("hub/models", "models", "hub"):
            there = root / folder / owner / model.replace(".", "___")
            if os.path.isdir(there):
                return there
    return found


def snapshot_in(folder: Path) -> Path | None:
    """The snapshot that a model's folder in Hugging Face's cache stands for: that of `main`, or else the newest."""
    try:
        main = (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        main = ""
    if main and os.path.isdir(folder / "snapshots" / main):
        return folder / "snapshots" / main
    snapshots = [item for item in _entries(folder / "snapshots") if os.path.isdir(item)]
    return max(snapshots, key=os.path.getmtime, default=None)


def huggingface_cache() -> str:
    """The folder of Hugging Face's cache."""
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    return os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")


def _inside(folder: Path) -> Path:
    if os.path.isfile(folder / "config.json"):
        return folder
    snapshot = snapshot_in(folder)
    if snapshot is not None:
        return _inside(snapshot)
    found = gguf_files(folder)
    return found[0] if len(found) == 1 else folder


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except OSError:
        return
