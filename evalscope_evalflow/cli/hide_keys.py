"""Keys on the command line can be read by every user of the machine: they are moved to the environment."""

from __future__ import annotations

import json
import os
import sys
from functools import lru_cache
from typing import Any

from evalscope_evalflow.config.secret_names import NO_KEY, is_secret_name


def hide_keys() -> None:
    """Start this program again with keys moved from the arguments, which every user can read, to the environment."""
    arguments = list(sys.orig_argv)
    moved: list[str] = []
    found: dict[str, str] = {}
    for place, word in enumerate(arguments):
        name, given, value = word.partition("=")
        if not given:
            value = arguments[place + 1] if place + 1 < len(arguments) else ""
        if not is_key_flag(name) and not ("{" in value and holds_keys(name)):
            continue
        hidden = hide_key(name, value, found)
        if hidden == value:
            continue
        moved.append(name)
        if given:
            arguments[place] = f"{name}={hidden}"
        else:
            arguments[place + 1] = hidden
    os.environ.update(found)
    if moved:
        better = "'${VARIABLE}'" if is_key_flag(moved[0]) else """'{"NAME": "${VARIABLE}"}'"""
        sys.stderr.write(
            f"evalflow: a key on the command line ({', '.join(moved)}) can be read by every user of this machine; "
            f"it has been moved out of sight.\n    Better: {moved[0]} {better}, with the key in that variable.\n"
        )
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *arguments[1:]])


def is_key_flag(word: str) -> bool:
    """Whether a word of the command line is a flag whose value is a key."""
    return word.startswith("--") and is_secret_name(word[2:])


def holds_keys(word: str) -> bool:
    """Whether a word of the command line is a flag whose value is JSON that may hold keys."""
    return word.startswith("--") and word[2:].replace("-", "_") in _json_flags()


@lru_cache(maxsize=1)
def _json_flags() -> frozenset[str]:
    from evalscope_evalflow.cli.flags import FLAGS, json_object  # not for commands that read no task

    return frozenset(flag.name for flag in FLAGS if flag.kind is json_object)


def hide_key(flag: str, value: str, found: dict[str, str]) -> str:
    """The value of a flag with references in place of keys.

    Args:
        flag: with its dashes.
        value: a key, or JSON with keys in it.
        found: is filled with the variables that the references name, and the keys.
    """
    variable = f"EVALFLOW_ARGUMENT_{flag.strip('-').replace('-', '_').upper()}"
    if is_key_flag(flag):
        if not value or value == NO_KEY or value.startswith(("${", "--")):
            return value
        found[variable] = value
        return f"${{{variable}}}"
    try:
        tree = json.loads(value)
    except (ValueError, RecursionError):
        return value  # the parser says what is wrong with it

    def convert(node: Any, name: str = "") -> Any:
        if isinstance(node, dict):
            return {key: convert(item, str(key)) for key, item in node.items()}
        if isinstance(node, list):
            return [convert(item, name) for item in node]
        if not (isinstance(node, str) and is_secret_name(name)) or node.startswith("${") or node in ("", NO_KEY):
            return node
        here = f"{variable}_{len(found)}"
        found[here] = node
        return f"${{{here}}}"

    hidden = convert(tree)
    return value if hidden == tree else json.dumps(hidden)
