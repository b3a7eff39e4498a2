"""What a model needs of each device's memory, and what an engine has room for there."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

from evalscope_evalflow.engines.checkpoints import checkpoint_folder as checkpoint
from evalscope_evalflow.engines.checkpoints import gguf, shape
from evalscope_evalflow.engines.checkpoints import safetensors_headers as weights
from evalscope_evalflow.engines.checkpoints.checkpoint_location import locate
from evalscope_evalflow.engines.checkpoints.safetensors_headers import Damaged, Weights
from evalscope_evalflow.engines.checkpoints.shape import Shape

GIB = 1 << 30
# The context of CUDA, the libraries, communication, graphs and activations: 1 to 2 GiB with the engines' defaults.
RESERVE_BYTES = 2 * GIB
UNKNOWN_CONTEXT = 8192  # tokens, where neither the user nor the checkpoint tells


@dataclass(frozen=True)
class Memory:
    """What an engine does with a device's memory.

    Attributes:
        share: what part of it the engine uses at all.
        option: the option that says so.
        reserve_bytes: what of that part is for neither weights nor keys and values.
        of_rest: what part of the rest, beside the weights, is for keys and values.
        kv_bytes: size of a number among keys and values.
        float_bytes: size of a number that weights are loaded as.
        sequences: how many sequences must have room at once.
        windows: whether it keeps no more than a window where the model looks at no more.
        pipeline: devices that the layers are shared out over, beside tensor parallelism.
        of_free: whether its share is one of the memory that is free at its start, so that others take from it; if not,
            the engine stops where its share of the whole device is not free.
    """

    share: float = 0.9
    option: str = ""
    reserve_bytes: int = RESERVE_BYTES
    of_rest: float = 1.0
    kv_bytes: float = 2.0
    float_bytes: int = 2
    sequences: int = 1
    windows: bool = True
    pipeline: int = 1
    of_free: bool = True

    def kv_room(self, total_bytes: int, weight_bytes: int) -> int:
        """Bytes for keys and values on a device of this size, beside these weights."""
        return int(self.of_rest * (self.share * total_bytes - self.reserve_bytes - weight_bytes))

    def describe(self, total_bytes: int) -> str:
        """What there is for weights, keys and values, in words."""
        room = gib(self.share * total_bytes - self.reserve_bytes)
        whence = f"{self.share:g} of {gib(total_bytes)}" + (f" by {self.option}" if self.option else "")
        if self.reserve_bytes:
            whence += f", less {gib(self.reserve_bytes)} for the engine itself"
        if self.of_rest != 1:
            whence += f"; {self.of_rest:g} of what the weights leave is for KV cache"
        return f"{room} ({whence})"


@dataclass(frozen=True)
class Need:
    """What one device needs.

    Attributes:
        weight_bytes: for its part of the weights.
        kv_bytes: for its part of the keys and values.
    """

    weight_bytes: int
    kv_bytes: int


@dataclass(frozen=True)
class Demand:
    """What serving a model takes.

    Attributes:
        weights: its weights; None where they cannot be measured.
        shape: its attention.
        tokens: length of the sequences that must have room.
        memory: what the engine does with a device's memory.
    """

    weights: Weights | None
    shape: Shape
    tokens: int
    memory: Memory

    @property
    def weight_bytes(self) -> int:
        """All weights, as they are loaded."""
        if self.weights is None:
            return 0
        quantised = bool(self.shape.quantisation)
        return self.weights.loaded_bytes(self.memory.float_bytes, quantised=quantised)

    def on_each(self, tensor_parallel: int) -> Need:
        """What each of so many devices needs."""
        parts = tensor_parallel * self.memory.pipeline
        kv = self.shape.kv_bytes(self.tokens, tensor_parallel, self.memory.kv_bytes, windows=self.memory.windows)
        return Need(-(-self.weight_bytes // parts), kv * self.memory.sequences // self.memory.pipeline)

    def sequences(self, tensor_parallel: int, total_bytes: int) -> float:
        """How many times the sequences that must have room have it, on devices of this size; below 1: it does not fit.

        Negative where not even the weights fit.
        """
        need = self.on_each(tensor_parallel)
        room = self.memory.kv_room(total_bytes, need.weight_bytes)
        if room < 0:
            return -1.0
        return room / need.kv_bytes if need.kv_bytes else float("inf")

    def tokens_that_fit(self, tensor_parallel: int, total_bytes: int) -> int:
        """The longest sequence that has room, in steps of 256 tokens; 0 if none has."""
        need = self.on_each(tensor_parallel)
        room = self.memory.kv_room(total_bytes, need.weight_bytes)
        low, high = 0, self.tokens // 256
        while low < high:
            middle = (low + high + 1) // 2
            kv = self.shape.kv_bytes(middle * 256, tensor_parallel, self.memory.kv_bytes, windows=self.memory.windows)
            if kv * self.memory.sequences // self.memory.pipeline <= room:
                low = middle
            else:
                high = middle - 1
        return low * 256

    def describe_weights(self) -> str:
        """The weights in words, such as "131.4 GiB of weights (BF16)"."""
        kind = self.shape.quantisation or (self.weights.main_type if self.weights else "?")
        if self.weights and not self.shape.quantisation and self.weights.stored_bytes != self.weight_bytes:
            kind += f", loaded with {self.memory.float_bytes} bytes a number"
        return f"{gib(self.weight_bytes)} of weights" + ("" if kind == "?" else f" ({kind})")


def demand(path: str | None, tokens: int | None, memory: Memory) -> Demand:
    """What a checkpoint takes.

    Args:
        path: its folder, GGUF file, or name on the hub.
        tokens: length of a sequence; default: the model's own.
        memory: what the engine does with a device's memory.
    """
    where = locate(path) if path else None
    if where is None or not os.path.exists(where):
        return Demand(None, Shape(), tokens or UNKNOWN_CONTEXT, memory)
    try:
        found = weights.read(where)
    except (Damaged, OSError):  # the checks of the checkpoint report that
        found = None
    if os.path.isfile(where):
        try:
            head = gguf.read_metadata(where)
        except (ValueError, OSError):
            head = {}
        own = gguf.context_length(head)
        return Demand(found, shape.of_gguf(head), tokens or own or UNKNOWN_CONTEXT, memory)
    config = checkpoint.read_config(str(where)) or {}
    own = checkpoint.context_length(str(where))
    return Demand(found, shape.of_config(config), tokens or own or UNKNOWN_CONTEXT, memory)


def gib(count: float) -> str:
    """Bytes as people read them."""
    return f"{count / GIB:.2f} GiB" if abs(count) < GIB / 10 else f"{count / GIB:.1f} GiB"


class Options:
    """The values of a few options among an engine's arguments, abbreviated or not; the engine checks them itself."""

    def __init__(self, words: Sequence[str], types: Mapping[str, type]) -> None:
        """Read them.

        Args:
            words: `deploy.extra_args`.
            types: the options, and what their values are.
        """
        plain = [_dashes(word) for word in words]
        found = _given(tuple(plain), tuple(types)) if plain else {}
        self._values: dict[str, Any] = {}
        for name, kind in types.items():
            try:
                if found.get(name) is not None:
                    self._values[name] = kind(found[name])
            except ValueError:
                pass

    def get(self, name: str, default: Any) -> Any:
        """The value of an option, if one is given that makes sense."""
        return self._values.get(name, default)


@lru_cache(maxsize=64)  # the models of a sweep have the same ones
def _given(words: tuple[str, ...], names: tuple[str, ...]) -> Mapping[str, str | None]:
    parser = _Parser(add_help=False)
    for name in names:
        parser.add_argument(name, dest=name)
    try:
        return vars(parser.parse_known_args(words)[0])
    except ValueError:
        return {}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _dashes(word: str) -> str:
    """Underscores in an option's name as dashes, as vLLM understands them."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def float_bytes(dtype: str | None) -> int:
    """Size of a number with an engine's `--dtype`."""
    return 4 if dtype in ("float", "float32") else 2


def kv_bytes(dtype: str | None, float_size: int) -> float:
    """Size of a number among keys and values with an engine's `--kv-cache-dtype`."""
    if dtype is None or dtype == "auto":
        return float(float_size)
    if "fp4" in dtype or "int4" in dtype:
        return 0.5
    return 1.0 if "8" in dtype else 2.0
