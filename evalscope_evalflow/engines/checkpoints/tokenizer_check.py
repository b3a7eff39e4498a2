"""Checks that a checkpoint has a tokenizer: engines say so only when they have loaded for a while."""

from __future__ import annotations

from collections.abc import Iterable

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines.checkpoints import checkpoint_folder as checkpoint
from evalscope_evalflow.engines.checkpoints.checkpoint_location import locate
from evalscope_evalflow.errors import Problem

# Any of these is enough: the tokenizers of transformers, of mistral-common, of tiktoken, and custom code.
_FILES = (
    "tokenizer.json", "tokenizer.model*", "tokenizer_config.json", "tekken.json", "spiece.model", "vocab.*",
    "sentencepiece*.model", "*.tiktoken", "tokenization_*.py", "*.gguf",
)  # fmt: skip


def check_tokenizer(model: ModelConfig, deploy: DeployConfig, unless: tuple[str, ...] = ()) -> Iterable[Problem]:
    """Whether there is a tokenizer; `unless`: options of the engine that name another."""
    folder = locate(model.path) if model.path else None
    if folder is None or list(checkpoint.check(model.path)):  # which is told
        return
    if any(word.replace("_", "-").startswith(unless) for word in deploy.extra_args if unless):
        return
    if not any(next(folder.glob(pattern), None) for pattern in _FILES):
        yield Problem(
            f"model {model.name}",
            f"{model.path} has no tokenizer (no tokenizer.json, tokenizer.model, tokenizer_config.json or the like)",
            "Copy the tokenizer's files into it from the model that it was trained from; tokenizer.save_pretrained() "
            "writes them.",
        )
