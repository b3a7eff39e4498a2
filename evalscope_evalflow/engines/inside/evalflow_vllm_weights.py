"""Runs in vLLM's workers: puts another checkpoint's weights into the model, and proves that they are all there.

vLLM mixes `Weights` into its worker (`--worker-extension-cls`). It reads weights itself (`reload_weights`), and says
of what is missing in a line of its log at most. So marks are set before: on every row of the running model, and on
every element of the room that vLLM makes while it reads. None of them may be left afterwards but in what no file holds,
and that must be as it was. What stands in the file as it stands in the model is compared with the file, byte for byte.

A CPU build may pack a weight into a layout of its own, and drop it: it is looked at just before.

It is imported by the engine's interpreter, which need not have EvalFlow: only PyTorch, safetensors and vLLM are there.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from evalflow_tensors import (
    MARKS,
    CheckpointFiles,
    SwapError,
    checksum,
    few,
    fingerprint,
    identity_of,
    left_of_marks,
    mark,
    restore,
    together,
)

RELOADER = "vllm.model_executor.model_loader.reload.layerwise"  # its `materialize_layer` makes room for what is read
PACKER = "vllm.model_executor.layers.utils"  # its `dispatch_cpu_unquantized_gemm` packs weights
SAMPLER = "vllm.v1.sample.sampler"  # its `batched_count_greater_than` ranks a token for its log-probability
PACKED = "_evalflow_packed"  # of a module: the fingerprint of its weight before it was packed
_LOOKS: list[Callable[[Any], None]] = []  # are called with each layer whose weight is about to be packed


class Weights:
    """What is called in each worker; its names must not be those of vLLM's own worker."""

    def evalflow_fingerprint(self) -> dict[str, Any]:
        """A fingerprint of all weights as they are now, computed where they are.

        Returns:
            fingerprint: of all tensors together; tensors: how many; seconds: that it took.
        """
        began = time.monotonic()
        with torch.no_grad():
            prints = fingerprints(model_of(self))
        return {"fingerprint": together(prints), "tensors": len(prints), "seconds": time.monotonic() - began}

    def evalflow_swap(self, new: str, old: str) -> dict[str, Any]:
        """Put another checkpoint's weights in place of those that are there.

        The first time, the present checkpoint is read again before: all checksums (SHA-256) must stay the same. That
        is the proof that this engine reads weights of this kind as a start does.

        Args:
            new: folder of the checkpoint that is wanted.
            old: folder of the one that is there.

        Returns:
            fingerprint, tensors: as of `evalflow_fingerprint`, of the new weights.
            read_s: seconds for reading them; proof_s: seconds for all that is only proof, and of those first_s: seconds
                for the proof that is made once.
            compared: tensors that were compared with the file; filled: tensors that were filled from it.

        Raises:
            SwapError: something is not as it would be after a start.
        """
        known: dict[str, str] = self.__dict__.setdefault("_evalflow_known", {})
        began = time.monotonic()
        with torch.no_grad():
            if not known:
                _read_again(self, old)
                known[identity_of(old)] = together(fingerprints(model_of(self)))
            first_s = time.monotonic() - began
            swap = _Swap(self, new)
            prints = swap.run()
        found = together(prints)
        if known.setdefault(identity_of(new), found) != found:
            raise SwapError(f"{new}, which was here before, has another fingerprint now")
        rank_once_without_compiling()
        return {
            "fingerprint": found,
            "tensors": len(prints),
            "filled": swap.filled,
            "compared": swap.compared,
            "read_s": swap.read_s,
            "first_s": first_s,
            "proof_s": time.monotonic() - began - swap.read_s,
        }


def _read_again(worker: Any, path: str) -> None:
    """Read the present checkpoint again, and compare all checksums.

    Raises:
        SwapError: they are not what they were.
    """
    model = model_of(worker)
    before = checksums(model)
    _Swap(worker, path).run()
    differ = [name for name, value in checksums(model).items() if before.get(name) != value]
    if differ:
        raise SwapError(f"{path}, read again, is not what it was: {few(differ)}")


class _Swap:
    """Reading one checkpoint into a model, with its proof.

    Attributes:
        read_s: seconds that the reading took.
        filled: tensors that were filled.
        compared: tensors that were compared with the file.
    """

    def __init__(self, worker: Any, path: str) -> None:
        self._worker, self._model, self._path = worker, model_of(worker), path
        self.read_s = 0.0
        self.filled = self.compared = 0

    def run(self) -> dict[str, str]:
        """
        Returns:
            The fingerprint of each tensor.

        Raises:
            SwapError: something is not as it would be after a start.
        """
        model = self._model
        with CheckpointFiles(self._path) as files:
            before, places, kernels = fingerprints(model), _places(model), kernels_of(model)
            saved = {name: mark(tensor) for name, tensor in _visible(model).items()}
            hidden = {name for name, _ in model.named_parameters()} - set(saved)
            with looking(partial(self._look, _names(model), hidden, files)), marking_new_room():
                began = time.monotonic()
                self._worker.reload_weights(weights_path=self._path)
                synchronize(model)
                self.read_s = time.monotonic() - began
            if hidden:
                raise SwapError(f"weights were packed that nobody has read: {few(hidden)}")
            if _places(model) != places:
                raise SwapError("its tensors are at other places now, where recorded graphs do not look")
            parameters = _visible(model)
            unfilled = {name for name, tensor in parameters.items() if left_of_marks(tensor)}
            packed = getattr(model, "packed_modules_mapping", None) or {}
            for name in unfilled:
                restore(parameters[name], saved[name], name)
            unread = {name for name in unfilled if files.parts(name, packed)}
            if unread:
                raise SwapError(f"they are in {self._path}, but were not read: {few(unread)}")
            if unfilled and files.others(before, packed):
                raise SwapError(f"they were not read, and may be in {self._path} by other names: {few(unfilled)}")
            pack_again(model, kernels)
            after = fingerprints(model)
            filled = {name for name, _ in model.named_parameters()} - unfilled
            changed = {name for name in after if name not in filled and before[name] != after[name]}
            if changed:
                raise SwapError(f"they are not in the checkpoint, but have changed: {few(changed)}")
            for name, tensor in parameters.items():
                self.compared += bool(files.compare(name, tensor, packed))
        self.filled = len(filled)
        if not self.compared:
            raise SwapError(f"none of its tensors stands in {self._path} as it stands in the model")
        return after

    def _look(self, names: dict[int, str], hidden: set[str], files: CheckpointFiles, layer: Any) -> None:
        """Look at a weight before it is packed."""
        name = f"{names[id(layer)]}.weight"
        if name not in hidden:
            return  # it may stay as it is; it is looked at with the others
        if left_of_marks(layer.weight):
            raise SwapError(f"only a part of {name} was filled")
        packed = getattr(self._model, "packed_modules_mapping", None) or {}
        if not files.compare(name, layer.weight, packed):
            raise SwapError(f"{name} is packed, and stands in {self._path} in another form")
        hidden.discard(name)
        self.compared += 1


def model_of(worker: Any) -> Any:
    """The PyTorch module of a worker."""
    return worker.model_runner.get_model()


def tensors_of(model: Any) -> dict[str, torch.Tensor]:
    """All parameters and buffers, by name."""
    found: dict[str, torch.Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return found


def kernels_of(model: Any) -> dict[str, object]:
    """What a CPU build computes linear layers with, by module, where it holds the weight in a layout of its own."""
    found = ((name, module.__dict__.get("cpu_linear")) for name, module in model.named_modules())
    return {name: kernel for name, kernel in found if getattr(kernel, "__closure__", None)}


def pack_again(model: Any, kernels: dict[str, object]) -> None:
    """Pack what is still packed as it was before, as of tied embeddings: as at a start.

    Raises:
        SwapError: that cannot be done.
    """
    for name, kernel in kernels_of(model).items():
        if kernels.get(name) is kernel:
            layer = model.get_submodule(name)
            if not getattr(layer, "weight", torch.empty(0)).numel():
                raise SwapError(f"{name} computes with what was packed before")
            importlib.import_module(PACKER).dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
            if layer.__dict__.get("cpu_linear") is kernel:
                raise SwapError(f"{name} computes with what was packed before")


def watch_packing() -> None:
    """From now on, take the fingerprint of a weight before it is packed and dropped; only CPU builds do that."""
    try:
        packer = importlib.import_module(PACKER)
        pack = packer.dispatch_cpu_unquantized_gemm
    except (ImportError, AttributeError):
        return

    def pack_and_note(layer: Any, remove_weight: bool) -> Any:
        if remove_weight and not layer.weight.is_meta and layer.weight.numel():
            layer.__dict__[PACKED] = fingerprint(layer.weight.detach())
            for look in _LOOKS:
                look(layer)
        return pack(layer, remove_weight)

    packer.dispatch_cpu_unquantized_gemm = pack_and_note  # type: ignore[attr-defined]


def rank_once_without_compiling() -> None:
    """Answer the next question for log-probabilities, the owner's own, without compiling what ranks a token.

    vLLM compiles that function at its first use, for 12 s on two cores, and most evaluations never use it.
    """
    try:
        sampler = importlib.import_module(SAMPLER)
        compiled = sampler.batched_count_greater_than
        plain = compiled._torchdynamo_orig_callable
    except (ImportError, AttributeError):  # another version: it takes its time
        return

    def rank_once(*args: Any, **kwargs: Any) -> Any:
        sampler.batched_count_greater_than = compiled  # type: ignore[attr-defined]
        return plain(*args, **kwargs)

    sampler.batched_count_greater_than = rank_once  # type: ignore[attr-defined]


@contextlib.contextmanager
def looking(look: Callable[[Any], None]) -> Iterator[None]:
    """A block in which each layer is looked at before its weight is packed."""
    _LOOKS.append(look)
    try:
        yield
    finally:
        _LOOKS.remove(look)


def _names(model: Any) -> dict[int, str]:
    return {id(module): name for name, module in model.named_modules()}


def _visible(model: Any) -> dict[str, torch.Tensor]:
    """The parameters that are not packed.

    Raises:
        SwapError: some are of a type that cannot be marked.
    """
    found = {name: tensor for name, tensor in model.named_parameters() if tensor.numel()}
    odd = [name for name, tensor in found.items() if tensor.dtype not in MARKS]
    if odd:
        raise SwapError(f"weights are of a type that cannot be marked: {few(odd)}")
    return found


def _places(model: Any) -> dict[str, tuple[object, ...]]:
    return {name: _place(tensor) for name, tensor in tensors_of(model).items()}


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


@contextlib.contextmanager
def marking_new_room() -> Iterator[None]:
    """A block in which the room that vLLM makes for weights is full of marks.

    It fills that room, and copies it whole: what a file lacks would be chance in it.
    """
    reloader = importlib.import_module(RELOADER)
    make_room: Callable[..., Any] = reloader.materialize_layer

    def make_marked_room(layer: Any, *args: Any, **kwargs: Any) -> Any:
        before = {name for name, tensor in _own_tensors(layer) if tensor.is_meta}
        made = make_room(layer, *args, **kwargs)
        with torch.no_grad():
            for name, tensor in _own_tensors(layer):
                if name in before and not tensor.is_meta and tensor.dtype in MARKS and tensor.numel():
                    kind, value = MARKS[tensor.dtype]
                    tensor.detach().view(kind).fill_(value)
        return made

    reloader.materialize_layer = make_marked_room  # type: ignore[attr-defined]
    try:
        yield
    finally:
        reloader.materialize_layer = make_room  # type: ignore[attr-defined]


def _own_tensors(layer: Any) -> list[tuple[str, torch.Tensor]]:
    return [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]


def fingerprints(model: Any) -> dict[str, str]:
    """The fingerprint of each tensor.

    Raises:
        SwapError: a weight is where it cannot be seen.
    """
    found = {name: fingerprint(tensor.detach()) for name, tensor in tensors_of(model).items() if tensor.numel()}
    return {**found, **_packed(model)}


def _packed(model: Any) -> dict[str, str]:
    found = {}
    for name, tensor in tensors_of(model).items():
        if not tensor.numel():
            module, _, last = name.rpartition(".")
            known = model.get_submodule(module).__dict__.get(PACKED)
            if last != "weight" or known is None:
                raise SwapError(f"{name} is where it cannot be seen")
            found[name] = known
    return found


def checksums(model: Any) -> dict[str, str]:
    """The SHA-256 of each tensor; of what is packed, the fingerprint."""

    seen = {name: tensor.detach() for name, tensor in tensors_of(model).items() if tensor.numel()}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing lets other threads go on
        return {**dict(zip(seen, pool.map(checksum, seen.values()), strict=True)), **_packed(model)}


def synchronize(model: Any) -> None:
    """Wait for what the device still has to do."""
    if any(tensor.is_cuda for tensor in tensors_of(model).values()):
        torch.cuda.synchronize()


watch_packing()  # vLLM imports this file before it loads the first weights
