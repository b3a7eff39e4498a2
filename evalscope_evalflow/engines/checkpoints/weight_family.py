"""Which checkpoints differ in their weights alone, so that an engine that runs could take one's in place of another's.

Everything in the folder that an engine may read counts: the configuration but for what names the checkpoint, tokenizer,
chat template and generation settings byte by byte, and the names, shapes and types of all tensors. How the tensors are
shared out over files does not. What was left behind by training is not read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines.checkpoints import safetensors_headers, shape
from evalscope_evalflow.engines.checkpoints.checkpoint_location import locate
from evalscope_evalflow.events import any_json

if TYPE_CHECKING:
    from evalscope_evalflow.engines.base import Engine

CONFIG = "config.json"
# What a checkpoint's configuration says of where it comes from; nothing is computed from it.
_NAMES = ("_name_or_path", "transformers_version")
# What no engine reads of a checkpoint's folder: documentation, what training left behind, and other tools' data.
_NEVER_READ = (
    "*.md", "LICENSE*", "NOTICE*", "USE_POLICY*", ".*", "*.png", "*.jpg", "*.jpeg", "*.pdf", "*.log",
    "training_args.*", "trainer_state.json", "trainer_log.jsonl", "optimizer*", "scheduler*", "rng_state*",
    "scaler.pt", "latest", "zero_to_fp32.py", "all_results.json", "train_results.json", "eval_results.json",
    "events.out.tfevents*", "model-card*", "*.index.json",
)  # fmt: skip
_FOLDERS_NEVER_READ = (".*", "checkpoint-*", "global_step*", "runs", "logs", "wandb", "original", "figures", "assets")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx")
# Parts of a configuration, and files, that only models of images or sound have.
_MULTIMODAL = ("vision", "audio", "image", "video", "speech", "mm_")
_MULTIMODAL_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_PLAIN_TYPES = frozenset({"F64", "F32", "F16", "BF16"})
_SHOWN = 3  # differences in words; of the others only the number


@dataclass(frozen=True)
class Family:
    """What a checkpoint has in common with others that differ from it in weights alone.

    Attributes:
        key: the same for all members of a family; empty where there is a reason against swapping.
        why_not: why weights of this checkpoint are never swapped, a clause such as "it is quantised"; empty: nothing
            speaks against it.
        config: config.json without the checkpoint's name, nested settings as `a.b`.
        files: hashes of the other files that an engine may read, by their paths in the folder.
        tensors: type and shape, by name.
    """

    key: str = ""
    why_not: str = ""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    tensors: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self.key)


def family(engine: Engine, model: ModelConfig, deploy: DeployConfig) -> Family:
    """The family of a model's checkpoint, as its files are now; false where its weights must not be swapped.

    Headers of weights are read, and other files; no weights. What was read is remembered as long as it is unchanged.

    Args:
        engine: what serves it.
        model: the model.
        deploy: how it is served.
    """
    if not engine.local or not model.path:
        return Family(why_not="it is no checkpoint that is deployed here")
    if model.adapter or model.adapters:
        return Family(why_not="it has adapters")
    why_not = engine.why_no_swap(deploy)
    if why_not:
        return Family(why_not=why_not)
    folder = locate(model.path)
    if not (folder / CONFIG).is_file():
        return Family(why_not="it is no folder with config.json and safetensors files")
    try:
        return _read(folder)
    except (OSError, ValueError) as error:
        return Family(why_not=f"it cannot be read: {error}")


def differences(one: Family, other: Family) -> list[str]:
    """How `other` differs from `one` in more than weights, in words; the first few, and how many more there are.

    Args:
        one: a family.
        other: another.
    """
    found = [f"{name} differs" for name in _different(one.config, other.config)]
    for name in _different(one.files, other.files):
        found.append(f"{name} differs" if name in one.files and name in other.files else _only(name, one.files))
    for name in _different(one.tensors, other.tensors):
        if name not in one.tensors or name not in other.tensors:
            found.append(f"the tensor {_only(name, one.tensors)}")
            continue
        (kind, size), (its_kind, its_size) = one.tensors[name], other.tensors[name]
        if size != its_size:
            found.append(f"the tensor {name} has the shape {list(its_size)}, not {list(size)}")
        else:
            found.append(f"the tensor {name} is of type {its_kind}, not {kind}")
    more = len(found) - _SHOWN
    return [*found[:_SHOWN], f"and {more} more"] if more > 1 else found


def _only(name: str, known: Mapping[str, Any]) -> str:
    return f"{name} is missing" if name in known else f"{name} is one more"


def _different(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    nothing = object()
    return [name for name in dict.fromkeys([*one, *other]) if one.get(name, nothing) != other.get(name, nothing)]


def _read(folder: Path) -> Family:
    """
    Raises:
        OSError: a file cannot be read.
        ValueError: config.json is no JSON, or a file of weights is damaged.
    """
    raw = any_json.load_file(folder / CONFIG, any_json.MOST_BYTES)
    if not isinstance(raw, dict):
        raise ValueError(f"{folder / CONFIG} is no JSON object")
    config = {name: value for name, value in _flat(raw) if name.rpartition(".")[2] not in _NAMES}
    files = {str(file.relative_to(folder)): _hash_of(file) for file in _files(folder)}
    tensors = safetensors_headers.tensors(folder)
    why_not = _why_not(folder, raw, config, files, tensors)
    text = json.dumps([config, files, tensors], sort_keys=True, default=str)
    key = "" if why_not else hashlib.sha256(text.encode()).hexdigest()
    return Family(key, why_not, config, files, tensors)


def _why_not(
    folder: Path,
    raw: Mapping[str, Any],
    config: Mapping[str, Any],
    files: Mapping[str, str],
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
) -> str:
    """What speaks against swapping: only what tests have shown equal to a fresh start is swapped."""
    described = shape.of_config(raw)
    odd = sorted({kind for kind, _ in tensors.values()} - _PLAIN_TYPES)
    if not tensors:
        return "it has no safetensors files"
    if described.quantisation or any("quant" in name for name in (*config, *files)) or odd:
        return f"it is quantised ({described.quantisation or ', '.join(odd) or 'by its files'})"
    if described.experts or any(".experts." in name for name in tensors):
        return "it is a mixture of experts"
    if any(name.startswith(_MULTIMODAL) for name in raw) or any(name in _MULTIMODAL_FILES for name in files):
        return "it is multimodal"
    if shape.language_config(raw) is not raw:
        return "it is made of several models"
    if raw.get("auto_map"):
        return "it brings code of its own"
    if described.latent_elements:
        return "its engine computes other weights from those of the file (latent attention)"
    if next(folder.glob("consolidated*"), None) is not None:
        return "it holds its weights in two layouts"
    return ""


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _flat(inner, f"{before}{name}.")
        else:
            yield f"{before}{name}", inner


def _files(folder: Path) -> Iterator[Path]:
    """What an engine may read of a checkpoint's folder, but for config.json and weights."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _matches(name, _FOLDERS_NEVER_READ))
        for name in sorted(names):
            if not _matches(name, _NEVER_READ) and not _matches(name, _WEIGHTS):
                file = Path(place, name)
                if file != folder / CONFIG:
                    yield file


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _hash_of(file: Path) -> str:
    state = file.stat()
    return _hashed(str(file), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache(maxsize=4096)
def _hashed(file: str, inode: int, size: int, changed: int, touched: int) -> str:
    content = Path(file).read_bytes()
    if os.path.basename(file) == "generation_config.json":  # as config.json, it says which version has written it
        try:
            found = any_json.loads(content)
            if isinstance(found, dict):
                named = (*_NAMES, "_from_model_config")
                kept = {name: value for name, value in found.items() if name not in named}
                content = json.dumps(kept, sort_keys=True).encode()
        except ValueError:
            pass
    return hashlib.sha256(content).hexdigest()
