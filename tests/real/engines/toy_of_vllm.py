"""What runs in vLLM's workers, with toys in place of vLLM: run by an interpreter that has PyTorch and safetensors.

    python toy_of_vllm.py INSIDE FOLDER

INSIDE is the folder of those modules, FOLDER an empty one. It prints what came of each case, as JSON: an object by
name; a text is the SwapError that was raised.

The toy worker reads as vLLM does: it makes room for one layer after another, fills that, packs it where the CPU build
does, and copies it into the old storage.
"""

import json
import random
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

RELOADER = "vllm.model_executor.model_loader.reload.layerwise"
PACKER = "vllm.model_executor.layers.utils"
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def materialize_layer(layer, info=None):
    for name, tensor in [*layer._parameters.items()]:
        if tensor is not None and tensor.is_meta:
            layer._parameters[name] = nn.Parameter(torch.empty_like(tensor, device="cpu"), requires_grad=False)


def dispatch_cpu_unquantized_gemm(layer, remove_weight):
    packed = layer.weight.detach().t().contiguous()
    layer.cpu_linear = lambda x: x.float() @ packed.float()
    if remove_weight:
        layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)


for module, function in ((RELOADER, materialize_layer), (PACKER, dispatch_cpu_unquantized_gemm)):
    sys.modules[module] = ModuleType(module)
    setattr(sys.modules[module], function.__name__, function)
sys.path.insert(0, sys.argv[1])
import evalflow_tensors as tensors  # noqa: E402
import evalflow_vllm_weights as inside  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

SIZES = {
    "embed.weight": (8, 4), "q_proj.weight": (4, 4), "k_proj.weight": (2, 4), "v_proj.weight": (2, 4),
    "norm.weight": (4,), "down_proj.weight": (4, 6), "sharded.weight": (8, 4), "scale": (1,),
}  # fmt: skip
FLOATS = ("norm.weight", "scale")
FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}


def checkpoint(name, seed, **more):
    folder = Path(sys.argv[2], name)
    folder.mkdir(exist_ok=True)
    drawn = torch.Generator().manual_seed(seed)
    made = {key: torch.randn(size, generator=drawn) for key, size in {**SIZES, **more}.items()}
    made = {key: value if key in FLOATS else value.to(torch.bfloat16) for key, value in made.items()}
    save_file(made, folder / "model.safetensors")
    return str(folder)


class Model(nn.Module):
    """Parameters that stand in the file as they are, fused, shared out over devices, tied, and packed."""

    packed_modules_mapping = FUSED

    def __init__(self):
        super().__init__()
        kind = {"dtype": torch.bfloat16, "bias": False}
        self.embed = nn.Embedding(8, 4, dtype=torch.bfloat16)
        self.qkv_proj = nn.Linear(4, 8, **kind)
        self.norm = nn.LayerNorm(4, bias=False)
        self.norm.register_buffer("ramp", torch.arange(5.0), persistent=False)
        self.down_proj = nn.Linear(6, 4, **kind)
        self.sharded = nn.Linear(4, 4, **kind)  # half of the file's rows
        self.scale = nn.Parameter(torch.ones(1))
        self.own = nn.Linear(2, 2, **kind)  # no file has it
        self.lm_head = nn.Linear(4, 8, **kind)
        self.lm_head.weight = self.embed.weight
        for parameter in self.parameters():
            parameter.requires_grad_(False)


def rows_of(name, file, half=0):
    """A layer's weight, as a file has it."""
    if name in FUSED:
        return torch.cat([file[f"{part}.weight"] for part in FUSED[name]])
    found = file[f"{name}.weight"]
    return found[4 * half : 4 * half + 4] if name == "sharded" else found


LAYERS = ("embed", "qkv_proj", "norm", "down_proj", "sharded")


class Worker(inside.Weights):
    """A worker whose model has a checkpoint's weights.

    Attributes:
        faults: what goes wrong while weights are read: functions of (step, layer's name, layer), by step.
        skipped: layers that are not read.
        half: which rows of the sharded layer are read.
    """

    def __init__(self, path):
        self.model_runner = self
        self.model, self.faults, self.skipped, self.half = Model(), {}, (), 0
        file = load_file(Path(path, "model.safetensors"))
        for name in LAYERS:
            getattr(self.model, name).weight.copy_(rows_of(name, file))
        self.model.scale.copy_(file["scale"])
        pack = sys.modules[PACKER].dispatch_cpu_unquantized_gemm
        pack(self.model.down_proj, remove_weight=True)
        pack(self.model.lm_head, remove_weight=False)

    def get_model(self):
        return self.model

    def reload_weights(self, weights_path):
        file = load_file(Path(weights_path, "model.safetensors"))
        for name in LAYERS:
            if name in self.skipped:
                continue
            layer = getattr(self.model, name)
            old = layer.weight
            size = (4, 6) if name == "down_proj" else old.shape
            kind = torch.bfloat16 if name == "down_proj" else old.dtype
            layer.weight = nn.Parameter(torch.empty(size, dtype=kind, device="meta"), requires_grad=False)
            sys.modules[RELOADER].materialize_layer(layer, None)
            self.fill(name, layer, file)
            self.strike("filled", name, layer)
            if name == "down_proj":
                sys.modules[PACKER].dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
            old.copy_(layer.weight)
            layer.weight = old
            self.strike("placed", name, layer)
        if "scale" not in self.skipped:
            self.model.scale.copy_(file["scale"])

    def fill(self, name, layer, file):
        layer.weight.copy_(rows_of(name, file, self.half))

    def strike(self, step, name, layer):
        if (step, name) in self.faults:
            self.faults[step, name](layer)


A, B = checkpoint("a", 1), checkpoint("b", 2)


def swapped(**faults):
    """A worker that had A's weights takes B's; once it has proven itself, this goes wrong."""
    worker = Worker(A)
    worker.evalflow_swap(A, A)
    for name, value in faults.items():
        setattr(worker, name, value)
    return worker.evalflow_swap(B, A)


def flip(tensor, place):
    """Change one bit."""
    tensor.view(-1).view(torch.uint8)[place] ^= 1


def state(worker):
    """All that it computes with, as bytes."""
    found = {name: value.clone() for name, value in inside.tensors_of(worker.model).items()}
    for name in ("down_proj", "lm_head"):
        found[f"{name} packed"] = getattr(worker.model, name).cpu_linear(torch.eye(6 if name == "down_proj" else 4))
    return {name: value.view(torch.uint8).tolist() for name, value in found.items() if not name.startswith("own.")}


@case
def a_good_swap():
    worker = Worker(A)
    places = inside._places(worker.model)
    own = worker.model.own.weight.clone()
    said = worker.evalflow_swap(B, A)
    assert inside._places(worker.model) == places
    assert torch.equal(worker.model.own.weight, own)
    said["as a fresh start"] = state(worker) == state(Worker(B))
    said["as before"] = state(worker) == state(Worker(A))
    said["materialize_layer is the real one again"] = sys.modules[RELOADER].materialize_layer is materialize_layer
    return said


@case
def there_and_back():
    worker = Worker(A)
    names = [worker.evalflow_fingerprint()["fingerprint"]]
    for new, old in ((B, A), (A, B), (B, A), (A, B)):
        names.append(worker.evalflow_swap(new, old)["fingerprint"])
        assert names[-1] == worker.evalflow_fingerprint()["fingerprint"]
    return {"pattern": [names.index(name) for name in names], "as a fresh start": state(worker) == state(Worker(A))}


@case
def the_fingerprint_is_that_of_a_fresh_start():
    found, fresh = Worker(A), Worker(B)
    fresh.model.own.weight.copy_(found.model.own.weight)
    return found.evalflow_swap(B, A)["fingerprint"] == fresh.evalflow_fingerprint()["fingerprint"]


@case
def a_tensor_is_not_read():
    return swapped(skipped=("norm",))


@case
def a_parameter_of_the_model_itself_is_not_read():
    return swapped(skipped=("scale",))


@case
def a_fused_tensor_is_not_read():
    return swapped(skipped=("qkv_proj",))


@case
def a_shard_is_not_read():
    return swapped(skipped=("sharded",))


@case
def a_tensor_that_has_another_name_in_the_file_is_not_read():
    first, second = (checkpoint(f"renamed-{seed}", seed, **{"its_own.weight": (2, 2)}) for seed in (4, 5))
    return Worker(first).evalflow_swap(second, first)


class Halved(Worker):
    """It leaves half of one layer's room as it was made."""

    halved = ""

    def fill(self, name, layer, file):
        rows = rows_of(name, file, self.half)
        if name == self.halved:
            layer.weight[: len(rows) // 2].copy_(rows[: len(rows) // 2])
        else:
            layer.weight.copy_(rows)


def halved(name):
    worker = Halved(A)
    worker.evalflow_swap(A, A)
    worker.halved = name
    return worker.evalflow_swap(B, A)


@case
def half_of_a_fused_tensor_is_read():
    return halved("qkv_proj")


@case
def half_of_a_shard_is_read():
    return halved("sharded")


@case
def half_of_a_packed_tensor_is_read():
    return halved("down_proj")


@case
def all_columns_but_the_first_are_read():
    def fault(layer):
        layer.weight[:, :1].view(torch.int16).fill_(tensors.MARKS[torch.bfloat16][1])

    return swapped(faults={("filled", "embed"): fault})


@case
def one_bit_is_wrong():
    return swapped(faults={("filled", "embed"): lambda layer: flip(layer.weight, 17)})


@case
def one_bit_of_a_fused_tensor_is_wrong():
    return swapped(faults={("placed", "qkv_proj"): lambda layer: flip(layer.weight, -1)})


@case
def one_bit_is_wrong_when_it_is_packed():
    return swapped(faults={("filled", "down_proj"): lambda layer: flip(layer.weight, 5)})


@case
def it_is_never_packed():
    return swapped(skipped=("down_proj",))


@case
def it_lies_elsewhere():
    def fault(layer):
        layer.weight = nn.Parameter(layer.weight.clone(), requires_grad=False)

    return swapped(faults={("placed", "norm"): fault})


@case
def a_buffer_has_changed():
    return swapped(faults={("placed", "norm"): lambda layer: layer.ramp.add_(1)})


@case
def a_parameter_that_no_file_has_has_changed():
    worker = Worker(A)
    worker.evalflow_swap(A, A)
    worker.faults = {("placed", "norm"): lambda layer: flip(worker.model.own.weight, 3)}
    return worker.evalflow_swap(B, A)


@case
def it_cannot_be_packed_again():
    worker = Worker(A)
    worker.evalflow_swap(A, A)
    kernel = worker.model.lm_head.cpu_linear
    packer = sys.modules[PACKER]
    pack = packer.dispatch_cpu_unquantized_gemm

    def nothing(layer, remove_weight):
        pack(layer, remove_weight)
        if not remove_weight:
            layer.cpu_linear = kernel

    packer.dispatch_cpu_unquantized_gemm = nothing
    try:
        return worker.evalflow_swap(B, A)
    finally:
        packer.dispatch_cpu_unquantized_gemm = pack


@case
def the_present_weights_read_again_are_others():
    worker = Worker(A)
    worker.half = 1
    return worker.evalflow_swap(B, A)


@case
def weights_that_were_here_before_are_others():
    worker = Worker(A)
    worker.evalflow_swap(B, A)
    worker.half = 1
    return worker.evalflow_swap(A, B)


@case
def a_weight_that_cannot_be_marked():
    worker = Worker(A)
    worker.model.odd = nn.Parameter(torch.ones(3, dtype=torch.int32), requires_grad=False)
    return worker.evalflow_swap(B, A)


@case
def a_weight_that_was_packed_unseen():
    worker = Worker(A)
    del worker.model.down_proj.__dict__[inside.PACKED]
    return worker.evalflow_swap(B, A)


@case
def nothing_can_be_compared():
    worker = Worker(A)
    for name in ("embed", "qkv_proj", "norm", "down_proj", "lm_head"):
        setattr(worker.model, name, nn.Identity())
    del worker.model.scale, worker.model.own
    global LAYERS
    before, LAYERS = LAYERS, ("sharded",)
    worker.skipped = ("scale",)
    try:
        return worker.evalflow_swap(B, A)
    finally:
        LAYERS = before


@case
def the_file_is_torn():
    torn = Path(checkpoint("torn", 3), "model.safetensors")
    torn.write_bytes(torn.read_bytes()[:-10])
    worker = Worker(A)
    worker.evalflow_swap(A, A)
    return worker.evalflow_swap(str(torn.parent), A)


def small_chunks(function):
    """Runs it with chunks of 64 elements."""

    def run():
        before, tensors.CHUNK = tensors.CHUNK, 64
        tensors._WEIGHTS.clear()
        try:
            return function()
        finally:
            tensors.CHUNK = before
            tensors._WEIGHTS.clear()

    run.__name__ = function.__name__
    return run


def drawn(seed):
    """A tensor of any shape and type."""
    dice = random.Random(seed)
    shape = [dice.randint(1, 9) for _ in range(dice.randint(0, 3))] if seed % 3 else [dice.randint(1, 400)]
    kind = dice.choice([torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int8, torch.int64])
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(-9999, 9999, shape, generator=drawn).to(kind), dice


@case
@small_chunks
def a_fingerprint_changes_with_every_byte():
    missed = 0
    for seed in range(300):
        tensor, dice = drawn(seed)
        name = tensors.fingerprint(tensor)
        raw = tensor.view(-1).view(torch.uint8)
        place = dice.randrange(len(raw))
        raw[place] ^= dice.randint(1, 255)
        missed += tensors.fingerprint(tensor) == name
    return missed


@case
@small_chunks
def a_fingerprint_changes_where_two_words_change_places():
    tensor = torch.arange(1024, dtype=torch.int64)
    name = tensors.fingerprint(tensor)
    found = set()
    for one, other in ((0, 1), (0, 64), (63, 64), (3, 515), (1022, 1023)):
        changed = tensor.clone()
        changed[[one, other]] = tensor[[other, one]]
        found.add(tensors.fingerprint(changed))
    return len(found - {name})


@case
@small_chunks
def a_fingerprint_is_of_the_values_however_they_lie():
    differ = []
    for seed in range(200):
        tensor, _ = drawn(seed)
        wider = torch.zeros([size * 2 for size in tensor.shape], dtype=tensor.dtype)
        view = wider[tuple(slice(1, None, 2) for _ in tensor.shape)]
        view.copy_(tensor)
        turned = tensor.transpose(0, -1).contiguous().transpose(0, -1) if tensor.dim() > 1 else tensor
        shifted = torch.cat([tensor.new_zeros(1), tensor.view(-1)])[1:].view(tensor.shape)
        for other in (view, turned, shifted):
            assert torch.equal(other, tensor)
            if tensors.fingerprint(other) != tensors.fingerprint(tensor):
                differ.append(seed)
    return differ


@case
def a_fingerprint_of_more_than_one_chunk():
    tensor = torch.zeros(tensors.CHUNK + 8, dtype=torch.bfloat16)
    name = tensors.fingerprint(tensor)
    flip(tensor, -1)
    return tensors.fingerprint(tensor) != name


def run(function):
    try:
        return function()
    except tensors.SwapError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    with torch.no_grad():
        print(json.dumps({name: run(function) for name, function in CASES.items()}))
