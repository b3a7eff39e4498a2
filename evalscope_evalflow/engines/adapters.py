"""LoRA adapters: whether one fits its base and its engine, and those that `extra_args` name and nobody would ask."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.model_name import name_of
from evalscope_evalflow.engines.checkpoints import safetensors_headers
from evalscope_evalflow.engines.checkpoints.checkpoint_folder import ADAPTER_TODO, read_adapter
from evalscope_evalflow.engines.checkpoints.checkpoint_location import locate
from evalscope_evalflow.engines.checkpoints.safetensors_headers import Damaged
from evalscope_evalflow.errors import Problem

CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# Parts of PEFT's LoRA that change what the weights mean, and that engines do not compute.
_UNKNOWN_TO_ENGINES = (
    "use_dora",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "use_bdlora",
    "use_qalora",
)


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in PEFT's layout, by its files' words and headers; no weight is read.

    Attributes:
        config: its adapter_config.json.
        rank: the largest rank of its matrices.
        shapes: the shape that the base's weight has to have, by its name: what the adapter's matrices multiply to.
            Empty where the weights are pickled.
    """

    config: dict[str, Any]
    rank: int
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)


def read(path: str) -> Adapter:
    """An adapter's folder.

    Raises:
        ValueError: it is none, or it is damaged; the message says why.
    """
    folder = locate(path)
    if not os.path.isdir(folder):
        raise ValueError(f"{path} is no folder" if os.path.exists(folder) else f"{path} does not exist")
    config = read_adapter(folder)
    if config is None:
        inside = ", ".join(sorted(item.name for item in folder.iterdir())[:5]) or "nothing"
        raise ValueError(f"{path} is no adapter: it has no {CONFIG} that is JSON (it holds {inside})")
    kind = str(config.get("peft_type") or "LORA").upper()
    if kind != "LORA":
        raise ValueError(f"{path} is an adapter of the kind {kind}; engines serve LORA")
    of_parts = config.get("rank_pattern") or {}
    if not isinstance(of_parts, dict):
        raise ValueError(f"{path} has a `rank_pattern` in its {CONFIG} that is no mapping")
    ranks = [config.get("r"), *of_parts.values()]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise ValueError(f"{path} has no rank: `r` in its {CONFIG} is {config.get('r')!r}")
    file = next((folder / name for name in _WEIGHTS if os.path.isfile(folder / name)), None)
    if file is None:
        raise ValueError(f"{path} has a {CONFIG}, but no weights ({' or '.join(_WEIGHTS)})")
    shapes, ranks_there = _products(file) if file.suffix == ".safetensors" else ({}, [])
    return Adapter(config, max([*ranks, *ranks_there]), shapes)


def check_adapter(model: ModelConfig, most_rank: int) -> Iterable[Problem]:
    """Whether a model's adapter is whole, of this base, and of a kind that engines serve.

    Args:
        model: the model; nothing is found where it has no adapter.
        most_rank: the largest rank that the engine takes.
    """
    if not model.adapter:
        return
    where = f"model {model.name}"
    try:
        adapter = read(model.adapter)
    except ValueError as error:
        yield Problem(where, str(error), f"Give the adapter's folder, with {CONFIG} and its weights.")
        return
    except OSError as error:
        yield Problem(where, f"{error.filename} cannot be read: {error.strerror}")
        return
    config = adapter.config
    unknown = [name for name in _UNKNOWN_TO_ENGINES if config.get(name)]
    unknown += ["bias"] if config.get("bias", "none") != "none" else []
    unknown += ["modules_to_save"] if config.get("modules_to_save") else []
    if unknown:
        what = f"the adapter {model.adapter} uses {', '.join(unknown)}, which engines do not compute beside LoRA"
        yield Problem(where, what, "Merge it into its base model (peft: merge_and_unload()), and give that folder.")
    if adapter.rank > most_rank:
        what = f"the adapter {model.adapter} has the rank {adapter.rank}, and the engine takes {most_rank} at most"
        yield Problem(where, what, "Merge it into its base model (peft: merge_and_unload()), and give that folder.")
    named = config.get("base_model_name_or_path")
    if model.path and named and not _same_base(str(named), model.path):
        yield Problem(
            where,
            f"{model.adapter} is an adapter of {named} (its {CONFIG}), and `path` is {model.path}",
            "Give that base as `path`. If it is the same model elsewhere, write its path into that file.",
        )
    elif model.path and (why := _why_no_fit(adapter, model.path)):
        yield Problem(where, f"the adapter {model.adapter} does not fit {model.path}: {why}", "Is it of another base?")


def base_of(path: str) -> str | None:
    """The base that an adapter's folder names, where it is on this machine; None: it is no adapter, or it is not."""
    config = read_adapter(locate(path))
    named = str((config or {}).get("base_model_name_or_path") or "")
    for base in (named, os.path.join(path, named)) if named else ():
        if os.path.exists(locate(base)):
            return base
    return None


def is_adapter(path: str) -> bool:
    """Whether a path is the folder of an adapter, and no checkpoint."""
    folder = locate(path)
    return os.path.isdir(folder) and not os.path.isfile(folder / "config.json") and read_adapter(folder) is not None


def is_whole(path: str) -> bool:
    """Whether a path is the folder of a whole adapter."""
    try:
        read(path)
    except (ValueError, OSError):
        return False
    return True


def named_paths(model: ModelConfig, json_keys: tuple[str, str] = ("name", "path")) -> list[str]:
    """The adapters of an engine as its option takes them: `NAME=PATH`, or JSON where a name has an equals sign."""
    key, place = json_keys
    return [
        json.dumps({key: name, place: path}) if "=" in name else f"{name}={path}"
        for name, path in sorted(model.served_adapters.items())
    ]


def largest_rank(model: ModelConfig) -> int:
    """The largest rank among the adapters of the model's engine; 0 where none can be read."""
    found = [0]
    for path in model.served_adapters.values():
        try:
            found.append(read(path).rank)
        except (ValueError, OSError):  # the check of it reports that
            continue
    return max(found)


def _same_base(named: str, path: str) -> bool:
    """Whether the base that an adapter names is the checkpoint at a path, as far as files and names tell."""
    theirs, ours = locate(named), locate(path)
    if os.path.exists(theirs):
        return os.path.realpath(theirs) == os.path.realpath(ours) or _stamp(theirs) == _stamp(ours)
    name = name_of(named).lower()
    return name in {name_of(part).lower() for part in Path(os.path.abspath(os.path.expanduser(path))).parts}


def _stamp(folder: Path) -> list[tuple[str, int]]:
    """What two copies of a checkpoint have in common: names and sizes of weights, and the text of the config."""
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
        return [(file.name, file.stat().st_size) for file in files] + [((folder / "config.json").read_text(), 0)]
    except (OSError, ValueError):
        return [(str(folder), -1)]


def _why_no_fit(adapter: Adapter, base: str) -> str:
    """Why an adapter's matrices cannot be of this base, in words; empty: nothing speaks against it."""
    try:
        stored = safetensors_headers.tensors(locate(base))
        weights = {_inner(name): shape for name, (_, shape) in stored.items()}
    except (Damaged, OSError):  # the check of the base reports that
        return ""
    missing = []
    for name, shape in adapter.shapes.items():
        found = weights.get(_inner(name))
        if found is None:
            missing.append(name)
        elif len(found) == 2 and found != shape:
            return f"its {name} is for a weight of {shape[0]}×{shape[1]}, and the base has {found[0]}×{found[1]}"
    # Engines and Transformers may call some modules otherwise, or fuse them; of another base, all layers are missing.
    layers = {number for name in missing if (number := _layer(name)) is not None}
    beyond = layers - {number for name in weights if (number := _layer(name)) is not None}
    if weights and beyond:
        return f"it has matrices for layer {max(beyond)}, which the base has not"
    if weights and adapter.shapes and len(missing) == len(adapter.shapes):
        return f"the base has none of the weights that it changes, such as {missing[0]}"
    return ""


def _inner(name: str) -> str:
    """A weight's name from its layer's number on: what stands before that differs between wrappers."""
    return name.partition("layers.")[2] or name.rpartition("model.")[2]


def _layer(name: str) -> int | None:
    number = (name.partition("layers.")[2] or _inner(name)).partition(".")[0]
    return int(number) if number.isdigit() else None


def _products(file: Path) -> tuple[dict[str, tuple[int, int]], list[int]]:
    """For each pair of matrices, the base's weight and its shape; and the ranks.

    Raises:
        ValueError: the file is no adapter's, or it is damaged.
    """
    shapes = _shapes(file)
    found, ranks = {}, []
    for name, down in shapes.items():
        if ".lora_A." not in name or len(down) != 2:
            continue
        up = shapes.get(name.replace(".lora_A.", ".lora_B."))
        if up is None or len(up) != 2 or up[1] != down[0]:
            raise ValueError(f"{file} has {name} without a lora_B that fits it")
        ranks.append(down[0])
        found[name.partition(".lora_A.")[0].removeprefix("base_model.model.") + ".weight"] = (up[0], down[1])
    if not found and not any("lora_" in name for name in shapes):
        raise ValueError(f"{file} has no matrices of LoRA")
    return found, ranks


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a safetensors file.

    Raises:
        Damaged: it is not whole.
    """
    return {name: shape for name, (_, shape) in safetensors_headers.tensors_of(file).items()}


def check_adapters(model: ModelConfig, deploy: DeployConfig, option: str) -> Iterable[Problem]:
    """Whether `extra_args` name adapters that no request would reach.

    Args:
        model: what is asked, by its name.
        deploy: how it is served.
        option: the engine's option for adapters, such as "--lora-modules".
    """
    names = list(adapter_names(deploy.extra_args, option))
    if not names:
        return
    if model.name in names:
        what = f"{option}: the adapter {model.name} has the name of the model itself, under which the base is served"
    else:
        what = (
            f"{option}: nobody asks the adapter {', '.join(names)}: every request names {model.name}, "
            "so that all answers would be the base model's"
        )
    yield Problem("deploy.extra_args", what, ADAPTER_TODO)


def adapter_names(words: Sequence[str], option: str) -> Iterator[str]:
    """The names that are given to adapters: `NAME=PATH`, JSON with `name`, or a path alone."""
    inside = False
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("-"):
            inside = name.replace("_", "-") == option
            if inside and equals:
                yield _name(value)
        elif inside:
            yield _name(word)


def _name(word: str) -> str:
    try:
        return str(json.loads(word)["name"])
    except (ValueError, KeyError, TypeError):
        return word.partition("=")[0]
