"""What a model is that is given as one text: for `evalflow init --model`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evalscope_evalflow.config import patterns
from evalscope_evalflow.config.api_url import public_url
from evalscope_evalflow.config.loopback import is_loopback
from evalscope_evalflow.config.model_name import name_of
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.engines.checkpoints import checkpoint_location
from evalscope_evalflow.errors import ConfigError, Problem

KEY_VARIABLE = "API_KEY"
_WHERE = "--model"
_ASK_S = 5.0


@dataclass(frozen=True)
class ModelKind:
    """What a model is.

    Attributes:
        words: it in words, for the user.
        entry: it as an entry of `models`.
        notes: what the user should know or do, a line each.
    """

    words: str
    entry: dict[str, Any]
    notes: tuple[str, ...] = ()


def recognise(model: str, name: str | None = None) -> ModelKind:
    """What a text stands for.

    Args:
        model: a GGUF file, a checkpoint's folder, a pattern of such folders, a model's name on a hub, or an API's URL.
        name: the model's name; default: that of the file or folder, or the only one that the API has.

    Raises:
        ConfigError: it is none of these, or an API has several models.
    """
    if "://" in model:
        return _api(model, name)
    if patterns.is_pattern(model):
        if name:
            raise ConfigError(Problem("--name", "is for one model, and a pattern stands for several", "Leave it out."))
        return ModelKind("the checkpoints of a pattern", {"path": os.path.abspath(os.path.expanduser(model))})
    place = checkpoint_location.locate(model)
    entry = {"name": name or name_of(model), "path": _path(model)}
    if os.path.exists(place) and checkpoint_location.is_gguf(model):
        return ModelKind("a GGUF file, for llama.cpp", entry)
    if os.path.isfile(place / "config.json"):
        return ModelKind("a checkpoint's folder", entry)
    if os.path.exists(place):
        what = f"{model} is neither a GGUF file nor a folder with config.json"
        raise ConfigError(Problem(_WHERE, what, "Give a checkpoint's folder, a .gguf file, or an API's URL."))
    if checkpoint_location.HUB_NAME.fullmatch(model):
        return ModelKind("a model's name on a hub", entry, (f"It is not here yet: huggingface-cli download {model}",))
    todo = "Give a checkpoint's folder, a .gguf file, a hub's ORG/NAME, or an API's URL."
    raise ConfigError(Problem(_WHERE, f"{model} does not exist", todo))


def _path(model: str) -> str:
    """A path that holds from any folder; a hub's name as it is."""
    given = user_path(model)
    return os.path.abspath(given) if os.path.exists(given) else model


def _api(url: str, name: str | None) -> ModelKind:
    """An API: its model's name is asked for where it is not given, and its key is left to a variable."""
    local = is_loopback(url)
    key = None if local else os.environ.get(KEY_VARIABLE)
    if name is None:
        name = _only_one(url, _models_of(url, key))
    notes = () if local or key else (f"Its key is read from the variable {KEY_VARIABLE}: export {KEY_VARIABLE}=…",)
    entry = {"name": name, "api_url": url, **({} if local else {"api_key": f"${{{KEY_VARIABLE}}}"})}
    return ModelKind("an API", entry, notes)


def _models_of(url: str, key: str | None) -> list[str]:
    """The names of an API's models; empty where it does not say."""
    from evalscope_evalflow.config.api_url import api_base, endpoint_of
    from evalscope_evalflow.serving import http

    reply = http.request(endpoint_of(api_base(url), "/models"), api_key=key, timeout_s=_ASK_S)
    found = reply.json if reply.ok else None
    listed = found.get("data") if isinstance(found, dict) else None
    return [str(item["id"]) for item in listed or () if isinstance(item, dict) and "id" in item]


def _only_one(url: str, names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    known = f"It has {', '.join(names[:10])}{', …' if len(names) > 10 else ''}." if names else "It does not say."
    raise ConfigError(Problem("--name", f"which model of {public_url(url)}?", f"{known} Add --name NAME."))
