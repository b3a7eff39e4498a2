"""Reading a task's file: YAML or JSON, with the place of what is wrong in it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.errors import ConfigError, Problem

_MOST_BYTES = 1 << 26
_MOST_VALUES = 10_000_000  # a handful of bytes can stand for more than any memory holds
_TODO = "Indent with spaces; put texts with `: `, `#`, `{`, `[`, `*`, `&`, `!` or `@` into quotes."


def read_mapping(path: str | Path) -> dict[str, Any]:
    """A YAML or JSON file that holds a mapping.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    import yaml

    where = str(path) or "the name of the file"
    try:
        with user_path(path).open("rb") as file:  # perhaps a pipe, as a shell makes it: it has no size
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ConfigError(Problem(where, f"is larger than {_MOST_BYTES >> 20} MiB, which no task is"))
        data = _safe_load(text, where)
    except OSError as error:
        raise ConfigError(Problem(where, f"cannot be read: {error.strerror}", _looked_for(where))) from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(_unreadable(where, text, error)) from None
    except yaml.YAMLError as error:
        # Never the line itself: there may be a key in it. The context, such as where a list began, comes second.
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or type(error).__name__
        began = getattr(error, "context_mark", None)
        context = getattr(error, "context", None)
        since = f" ({context}, line {began.line + 1})" if began and mark and context and began.line != mark.line else ""
        raise ConfigError(Problem(where, f"is neither YAML nor JSON: {what}{place}{since}", _TODO)) from None
    except RecursionError:
        raise ConfigError(Problem(where, "is nested too deeply to be read")) from None
    except (ValueError, OverflowError, TypeError) as error:  # a date or a number that is none; a path that is none
        raise ConfigError(Problem(where, f"cannot be read: {error}", "Put it into quotes if it is a text.")) from None
    if not isinstance(data, dict):
        raise ConfigError(Problem(where, "does not hold a mapping of keys to values"))
    return data


def _safe_load(text: bytes, where: str) -> Any:
    """What YAML's safe loader makes of a text, unless a few bytes of it stand for more than any memory holds.

    JSON is YAML; bytes, as a byte order mark says which Unicode they are.

    Raises:
        ConfigError: it does.
        yaml.YAMLError: it is no YAML, or has tags of Python objects.
    """
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if _values(node) > _MOST_VALUES:
            what = f"stands for more than {_MOST_VALUES:,} values, as aliases (*) of what has aliases repeat it"
            raise ConfigError(Problem(where, what, "Write out what is meant."))
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _values(node: Any) -> float:
    """How many values a YAML node stands for, aliases written out; infinite: it holds itself."""
    known: dict[int, float] = {}

    def count(node: Any) -> float:
        if not isinstance(getattr(node, "value", None), list):
            return 1
        if id(node) not in known:
            known[id(node)] = math.inf  # until it is known: what comes back to it never ends
            known[id(node)] = 1 + sum(
                count(item) for child in node.value for item in (child if isinstance(child, tuple) else (child,))
            )
        return known[id(node)]

    return count(node)


def with_data_beside(data: Mapping[str, Any], file: str | Path) -> dict[str, Any]:
    """A task whose relative `local_path`s are absolute where they lead to something.

    Args:
        data: the task.
        file: where it was read. What is not in the current folder is looked for beside it.
    """
    settings = data.get("dataset_args")
    if not isinstance(settings, Mapping):
        return dict(data)
    folder = user_path(file).absolute().parent
    return {
        **data,
        "dataset_args": {
            name: {**item, "local_path": _found(item["local_path"], folder)}
            if isinstance(item, Mapping) and isinstance(item.get("local_path"), str)
            else item
            for name, item in settings.items()
        },
    }


def with_home(stock: Mapping[str, Any]) -> dict[str, Any]:
    """The stock fields of a task with the home folder in place of `~` in each `local_path`: EvalScope knows no `~`."""
    settings = stock.get("dataset_args")
    if not isinstance(settings, Mapping):
        return dict(stock)
    found = {
        name: {**item, "local_path": os.path.expanduser(item["local_path"])}
        if isinstance(item, Mapping) and isinstance(item.get("local_path"), str)
        else item
        for name, item in settings.items()
    }
    return {**stock, "dataset_args": found}


def _found(path: str, folder: Path) -> str:
    """A relative path, or the absolute one that it stands for beside the task's file if it is only there."""
    try:
        plain = os.path.expanduser(path)
        if os.path.isabs(plain) or os.path.exists(plain):
            return path
        beside = folder / plain
        return str(beside) if os.path.exists(beside) or not path else path
    except ValueError:  # a null byte
        return path


def _unreadable(where: str, text: bytes, error: Any) -> Problem:
    """A character that YAML does not have, or bytes that are no Unicode."""
    if error.encoding != "unicode":
        line = text[: error.position].count(b"\n") + 1
        what = (
            f"is not UTF-8: line {line} has a byte that is none (0x{text[error.position : error.position + 1].hex()})"
        )
        return Problem(where, what, "Save it as UTF-8.")
    line = text.decode("utf-8", "replace")[: error.position].count("\n") + 1
    return Problem(
        where, f"is neither YAML nor JSON: line {line} has a character that YAML does not allow", "Remove it."
    )


def _looked_for(where: str) -> str:
    full = os.path.abspath(os.path.expanduser(where))
    return "" if full == where else f"It was looked for at {full}."
