"""A model's name where the user gives none: the last part of its path."""

from __future__ import annotations

import os
import re

_GGUF = re.compile(r"\.gguf$", re.IGNORECASE)
_HUB_FOLDER = re.compile(r"models--(?:.+--)?(.+)")
LONGEST = 160  # bytes; file systems take 255, and a dataset and an ending come after it
_NO_NAME = re.compile(r"\s*\.*\s*|.*[\0-\x1f\x7f].*", re.DOTALL)  # empty: at the ends of an absolute path


def name_of(path: str) -> str:
    """The name of the folder or file that a path leads to, without `.gguf`; `..` and `~` are followed.

    A model's folder in Hugging Face's cache (`models--org--name`) has the model's name.
    """
    last = os.path.basename(os.path.abspath(os.path.expanduser(path)))
    found = _HUB_FOLDER.fullmatch(last)
    return found[1] if found else _GGUF.sub("", last) or last


def is_name(name: str) -> bool:
    """Whether a model or dataset can be called so: folders and files have its name, below the folder that they are for.

    It may have several parts, such as `org/model`.
    """
    parts = name.strip().split("/")
    return not any(map(_NO_NAME.fullmatch, parts)) and len(name.encode(errors="replace")) <= LONGEST
