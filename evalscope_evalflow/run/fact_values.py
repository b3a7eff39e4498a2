"""Values as `cells.json` has them: files by their content, secrets as keyed hashes, numbers and JSON in one form."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from evalscope_evalflow.config import keys, secret_names
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.engines.checkpoints.checkpoint_location import locate
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.state.keyed_hashes import keyed_hash

UNKNOWN = "unknown"  # stands for a value that cannot be told: it differs from nothing
HUB = "hub"  # a checkpoint of which only its name on a hub is known
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_HASHED_BYTES = 4 * 1024**2  # of smaller files the content counts; of weights, size, time and samples
_PLACES, _BLOCK_BYTES = 8, 16 * 1024  # samples of a large file
# Files beside a checkpoint that no engine reads: what training left, and words about it.
_NOT_READ = (
    "*.md", "LICENSE*", "USE_POLICY*", "*.log", "*.png", "*.jpg", "*.svg", "*.pdf", "optimizer*.pt", "optimizer*.bin",
    "scheduler*.pt", "rng_state*.pth", "trainer_state.json", "training_args.*", "all_results.json",
    "train_results.json", "eval_results.json", "events.out.tfevents.*", "STABLE",
)  # fmt: skip
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_NAME_AND_VALUE = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)


def checkpoint(path: str) -> dict[str, str]:
    """A fingerprint of each file of a checkpoint: content of small ones, size and time of weights.

    The path is not in it, so a checkpoint may be moved; one that training has written again is another. A model of a
    hub counts by its files in the local cache, or by its name where it is not there.
    """
    root = locate(path)
    if not os.path.exists(root):
        return {HUB: path}
    found = {}
    for name, file in _files(root):
        try:
            found[name] = file_content(file)
        except OSError as error:  # the engine cannot read it, either: preflight says so, or its start
            found[name] = f"cannot be read: {error.strerror}"
    return found


def is_read(name: str) -> bool:
    """Whether an engine may read a file of this name beside the weights."""
    return not any(fnmatchcase(name, pattern) for pattern in _NOT_READ)


def file_content(file: Path) -> str:
    """A file by its content; a large one, or weights, by size, time, and what stands at some places of it.

    The time alone says too little: archives and mounts of object stores give all files the same one, and checkpoints of
    one architecture have the same size. The places alone say too little, too: a single tensor may be another.

    Raises:
        OSError: it cannot be read.
    """
    found = file.stat()
    if file.suffix in _WEIGHTS or found.st_size > _HASHED_BYTES:
        samples = _samples(str(file), found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return f"{found.st_size} bytes of {found.st_mtime_ns}, samples {samples}"
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


@lru_cache(maxsize=4096)  # every dataset of a model asks
def _samples(file: str, size: int, *times: int) -> str:
    """A digest of `_PLACES` blocks, spread over a file from its first byte to its last; read anew at another time."""
    digest = hashlib.sha256()
    with open(file, "rb", buffering=0) as raw:
        for place in range(_PLACES):
            raw.seek(max(0, size - _BLOCK_BYTES) * place // (_PLACES - 1))
            digest.update(raw.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]


def template(text: str | None) -> str | None:
    """A template by what it says: its path may change."""
    if text is None or not os.path.isfile(os.path.expanduser(text)):
        return text
    return hashlib.sha256(user_path(text).read_bytes()).hexdigest()[:16]


def argument(text: str) -> str:
    """A word of `extra_args`: the content of a file that it names, a number or JSON in one form; else as it is."""
    if _NUMBER.fullmatch(text):
        number = float(text)
        return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
    if text.startswith(("{", "[")):
        try:
            return json.dumps(_strings(json.loads(text)), sort_keys=True, ensure_ascii=False)
        except ValueError:
            return text
    content = _content(text)
    if content is not None:
        return content
    named = _NAME_AND_VALUE.fullmatch(text)  # an adapter: NAME=PATH
    inner = _content(named[2]) if named else None
    return f"{named[1]}={inner}" if named and inner else text


def variable(name: str, value: str) -> str:
    """An environment variable's value; a keyed hash of it, if it is secret or refers to another variable."""
    try:
        found = keys.reveal(value, name)
    except ConfigError:
        return UNKNOWN
    secret = found != value.strip() or secret_names.is_secret_name(name)
    return keyed_hash(found or "") if secret else value


def endpoint(url: str) -> str:
    """An API's address: without user info, query, a final slash, and the path of chat completions."""
    try:
        parts = urlsplit(url.strip())
        port = f":{parts.port}" if parts.port not in (None, {"http": 80, "https": 443}.get(parts.scheme)) else ""
    except ValueError:
        return UNKNOWN
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return f"{parts.scheme}://{host}{port}{path}"


def without_secrets(tree: Any) -> Any:
    """A copy of settings with keyed hashes in place of secrets. API keys and headers that hold one are left out."""

    def convert(node: Any, name: str, headers: bool) -> Any:
        if isinstance(node, Mapping):
            inside = "headers" in name.lower()
            kept = {str(key): value for key, value in node.items() if not _is_key(str(key), inside)}
            return {key: convert(value, key, inside) for key, value in kept.items()}
        if isinstance(node, (list, tuple)):
            return [convert(item, name, headers) for item in node]
        if isinstance(node, SecretStr):
            return keyed_hash(node.get_secret_value())
        if isinstance(node, str) and secret_names.is_secret_name(name) and node != secret_names.MASK:
            return variable(name, node)
        return node

    return convert(tree, "", False)


def plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON; what is unset counts like what is not there."""
    made = json.loads(json.dumps(without_secrets(found), sort_keys=True, default=str))
    return {name: value for name, value in made.items() if value not in (None, {}, [])}


def _is_key(name: str, in_headers: bool) -> bool:
    """Whether a setting of this name is an API's key, which is free to change."""
    plain_name = name.lower().replace("-", "_")
    return plain_name == "api_key" or (in_headers and (secret_names.is_secret_name(name) or plain_name == "x_api_key"))


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    if os.path.isfile(root):
        yield "file", root
        return
    if not os.path.isdir(root):  # a pipe, or a device
        return
    for file in sorted(root.iterdir()):
        if os.path.isfile(file) and not file.name.startswith(".") and is_read(file.name):
            yield file.name, file


def _content(text: str) -> str | None:
    """A file, or the folder of a model or an adapter, by its content; None where the text names none."""
    try:
        path = user_path(text)
        if os.path.isfile(path):
            return f"file {file_content(path)}"
        if os.sep in text and os.path.isdir(path) and (any(path.glob("*.json")) or any(path.glob("*.gguf"))):
            listed = json.dumps(checkpoint(text), sort_keys=True)
            return f"folder {hashlib.sha256(listed.encode()).hexdigest()[:16]}"
        return os.path.abspath(path) if os.sep in text and os.path.exists(path) else None
    except (OSError, RuntimeError, ValueError):  # too long for a path, no such user, a NUL
        return None


def _strings(tree: Any) -> Any:
    """JSON in which strings that name files are replaced by their content."""
    if isinstance(tree, dict):
        return {key: _strings(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_strings(value) for value in tree]
    return (_content(tree) or tree) if isinstance(tree, str) and os.sep in tree else tree
