"""Marks, fingerprints and comparisons of tensors, for what runs in an engine's processes.

It is imported by the engine's interpreter, which need not have EvalFlow: only PyTorch and safetensors are there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch

# NaNs that no training writes, and the integers that have their size.
MARKS = {
    torch.bfloat16: (torch.int16, 0x7FE5),
    torch.float16: (torch.int16, 0x7FA5),
    torch.float32: (torch.int32, 0x7FE5A5A5),
}
CHUNK = 1 << 22  # elements that are looked at together: a device is nearly full of the KV cache
ODD = 0x1E3779B97F4A7C15  # factor of the weights of a fingerprint
SHOWN = 3  # names in a message
_WEIGHTS: dict[str, torch.Tensor] = {}  # of the places in a chunk, by device


class SwapError(RuntimeError):
    """The weights in this engine are doubtful from now on."""


def mark(tensor: torch.Tensor) -> torch.Tensor:
    """Mark the first element of every row.

    Returns:
        What was there.
    """
    kind, value = MARKS[tensor.dtype]
    column = tensor.detach().view(kind)[..., :1] if tensor.dim() else tensor.detach().view(kind)
    saved = column.clone()
    column.fill_(value)
    return saved


def left_of_marks(tensor: torch.Tensor) -> bool:
    """Whether any element has the mark."""
    kind, value = MARKS[tensor.dtype]
    return any(bool((chunk == value).any()) for chunk in chunks(tensor.detach().view(kind)))


def restore(tensor: torch.Tensor, saved: torch.Tensor, name: str) -> None:
    """Put back what was there before a tensor was marked.

    Raises:
        SwapError: a part of it was filled.
    """
    kind, value = MARKS[tensor.dtype]
    column = tensor.detach().view(kind)[..., :1] if tensor.dim() else tensor.detach().view(kind)
    if not bool((column == value).all()):
        raise SwapError(f"only a part of {name} was filled")
    column.copy_(saved)
    if left_of_marks(tensor):
        raise SwapError(f"only a part of {name} was filled")


def chunks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Flat pieces of a tensor, in its order and of one size; none is a copy where the tensor is contiguous."""
    if tensor.is_contiguous():
        flat = tensor.view(-1)
        for start in range(0, flat.numel(), CHUNK):
            yield flat[start : start + CHUNK]
        return
    width = tensor[0].numel()
    for start in range(0, tensor.numel(), CHUNK):
        end = min(start + CHUNK, tensor.numel())
        first = start // width
        yield tensor[first : -(-end // width)].contiguous().view(-1)[start - first * width : end - first * width]


def fingerprint(tensor: torch.Tensor) -> str:
    """A fingerprint: the sum of its words of 64 bits times odd weights that depend on the place.

    A change of one word always changes it. It is computed where the tensor is, and is the same on every device.
    """
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    weights = _weights(tensor.device)
    factor = 1
    for chunk in chunks(tensor if tensor.dim() else tensor.view(1)):
        words = _words(chunk)
        total += (words * weights[: words.numel()]).sum() * _signed(factor)
        factor = factor * ODD % (1 << 64)
    return f"{int(total) % (1 << 64):016x}"


def _weights(device: torch.device) -> torch.Tensor:
    """Odd numbers of 64 bits, one for each place in a chunk."""
    if str(device) not in _WEIGHTS:
        place = torch.arange(1, CHUNK + 1, dtype=torch.int64, device=device) * ODD
        _WEIGHTS[str(device)] = (place ^ (place >> 31)) | 1
    return _WEIGHTS[str(device)]


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _words(flat: torch.Tensor) -> torch.Tensor:
    """The bytes of a flat tensor as integers of 64 bits; where they do not fill those up, one for each element."""
    size = flat.element_size()
    if flat.numel() * size % 8 == 0 and flat.dtype != torch.bool:
        aligned = flat if flat.storage_offset() * size % 8 == 0 else flat.clone()
        return aligned.view(torch.int64)
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    return flat.view(kind).to(torch.int64)


def together(prints: dict[str, str]) -> str:
    """One fingerprint of many."""
    return hashlib.sha256(json.dumps(prints, sort_keys=True).encode()).hexdigest()


def checksum(tensor: torch.Tensor) -> str:
    """The SHA-256 of its bytes."""
    found = hashlib.sha256()
    for chunk in chunks(tensor if tensor.dim() else tensor.view(1)):
        found.update(chunk.view(torch.uint8).cpu().numpy())
    return found.hexdigest()


class CheckpointFiles:
    """The tensors of a checkpoint, as its files have them."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._where: dict[str, Any] = {}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> CheckpointFiles:
        from safetensors import safe_open

        for file in sorted(name for name in os.listdir(self._folder) if name.endswith(".safetensors")):
            path = os.path.join(self._folder, file)
            opened = self._open.enter_context(safe_open(path, framework="pt", device="cpu"))
            self._where.update(dict.fromkeys(opened.keys(), opened))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def parts(self, name: str, packed: dict[str, list[str]]) -> list[str]:
        """What a tensor of the model is made of, by its names in the files; empty where that is not known.

        Args:
            name: its name in the model.
            packed: what the modules of the model that are made of several are made of.
        """
        if name in self._where:
            return [name]
        module, _, kind = name.rpartition(".")
        parent, dot, last = module.rpartition(".")
        parts = [f"{parent}{dot}{part}.{kind}" for part in packed.get(last, [])]
        return parts if parts and all(part in self._where for part in parts) else []

    def others(self, names: Iterable[str], packed: dict[str, list[str]]) -> set[str]:
        """Tensors of the files of which it is not known that one of these in the model is made of them."""
        return set(self._where) - {part for name in names for part in self.parts(name, packed)}

    def compare(self, name: str, tensor: torch.Tensor, packed: dict[str, list[str]]) -> bool:
        """Compare a tensor with what the files have: as it stands in the model, or as parts that follow one another.

        Args:
            name: its name in the model.
            tensor: the tensor.
            packed: what the modules of the model that are made of several are made of.

        Returns:
            Whether it stands there so.

        Raises:
            SwapError: it does, but is another.
        """
        slices = [self._where[part].get_slice(part) for part in self.parts(name, packed)]
        shapes = [tuple(part.get_shape()) for part in slices]
        if not _makes(shapes, tuple(tensor.shape)):
            return False  # it is shared out over devices, padded, or made of something else
        row = 0
        for part, shape in zip(slices, shapes, strict=True):
            if not _is_equal(tensor[row : row + shape[0]], part):
                raise SwapError(f"{name} is not what {self._folder} holds")
            row += shape[0]
        return True


def _makes(shapes: list[tuple[int, ...]], whole: tuple[int, ...]) -> bool:
    if not shapes or not whole or any(not shape or shape[1:] != whole[1:] for shape in shapes):
        return False
    return sum(shape[0] for shape in shapes) == whole[0]


def _is_equal(tensor: torch.Tensor, part: Any) -> bool:
    kind, _ = MARKS[tensor.dtype]
    rows = max(1, CHUNK // max(1, tensor[0].numel()))
    for start in range(0, tensor.shape[0], rows):
        wanted = part[start : start + rows].to(device=tensor.device, dtype=tensor.dtype)
        if not torch.equal(tensor[start : start + rows].view(kind), wanted.view(kind)):
            return False
    return True


def identity_of(path: str) -> str:
    """A checkpoint as its files are now."""
    names = sorted(name for name in os.listdir(path) if name.endswith(".safetensors"))
    found = [(name, os.stat(os.path.join(path, name))) for name in names]
    return json.dumps([(os.path.abspath(path), name, state.st_size, state.st_mtime_ns) for name, state in found])


def few(names: Iterable[str]) -> str:
    names = sorted(names)
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
