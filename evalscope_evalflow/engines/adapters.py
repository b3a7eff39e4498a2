"""LoRA adapters that an engine is given by `extra_args`: nobody asks them, as each model is asked by its own name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines.checkpoints.checkpoint_folder import ADAPTER_TODO
from evalscope_evalflow.errors import Problem


def check_adapters(model: ModelConfig, deploy: DeployConfig, option: str) -> Iterable[Problem]:
    """Whether there are adapters that no request would reach.

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
