"""Models by a pattern of paths, such as `/checkpoints/step-*`: one for each match, in natural order.

Whether a match is a whole checkpoint is found out later: one that is being written is no reason to refuse the others.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evalscope_evalflow.config.model_name import name_of
from evalscope_evalflow.errors import ConfigError, Problem

PLACE = "{}"  # in a name: where it is filled in what the pattern's stars stand for
_MAGIC = re.compile(r"[*?\[]")
_NUMBER = re.compile(r"([0-9]+)")


def is_pattern(path: Any) -> bool:
    """Whether a path is a pattern: it has one of `*?[`, and nothing of that very name is there."""
    return isinstance(path, str) and bool(_MAGIC.search(path)) and not os.path.exists(os.path.expanduser(path))


def expand(models: Sequence[Any], where: str) -> list[Any]:
    """Entries of `models` in which those with a pattern as `path` or `adapter` are replaced by one for each match.

    Args:
        models: entries as a file has them; what is no mapping, or has no pattern, stays as it is.
        where: how messages name the list.

    Raises:
        ConfigError: with every pattern that matches nothing.
    """
    found: list[Any] = []
    problems: list[Problem] = []
    for number, entry in enumerate(models):
        keys = [key for key in ("path", "adapter") if isinstance(entry, Mapping) and is_pattern(entry.get(key))]
        if not keys:
            found.append(entry)
            continue
        if len(keys) == 2:
            what = "both `path` and `adapter` are patterns, and which adapter is for which checkpoint is not said"
            problems.append(Problem(f"{where}.{number}", what, "Name the base; its adapters may be a pattern."))
            continue
        try:
            found += _expanded(entry, keys[0], f"{where}.{number}.{keys[0]}")
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return found


def pair(paths: Sequence[str], given: Sequence[str], where: str) -> list[dict[str, str]]:
    """An entry of `models` for each model that paths stand for, some of which are patterns.

    Args:
        paths: as they were given.
        given: names: none, one for each path, or one for each model.
        where: how messages name the paths.

    Raises:
        ConfigError: a pattern is no good, or names and models are not as many.
    """
    found = [(path, matches(path, where) if is_pattern(path) else [path]) for path in paths]
    every = [match for _, some in found for match in some]
    if len(given) == len(paths) or not given:
        wanted: Sequence[str | None] = given or [None] * len(paths)
        named = [
            name
            for (path, some), name in zip(found, wanted, strict=True)
            for name in ([name] if name and not is_pattern(path) else names(path, some, name))
        ]
    elif len(given) == len(every):
        named = list(given)
    else:
        what = f"{len(given)} given for {len(every)} models"
        raise ConfigError(Problem("--eval_model_name", what, "Leave it out, or give one for each path, or model."))
    of = {match: path for path, some in found if is_pattern(path) for match in some}
    return [
        {"name": name, "path": path, **({"pattern": of[path]} if path in of else {})}
        for name, path in zip(named, every, strict=True)
    ]


def matches(pattern: str, where: str) -> list[str]:
    """What a pattern matches, as absolute paths: `step-2` before `step-10`.

    Files that are no .gguf are left out, such as a log beside the checkpoints.

    Raises:
        ConfigError: there is nothing.
    """
    found = _found(pattern)
    if not found:
        full = os.path.abspath(os.path.expanduser(pattern))
        raise ConfigError(Problem(where, f"nothing matches {pattern}", _nearest_folder(full)))
    models = _models_of(found)
    if not models:
        raise ConfigError(
            Problem(where, f"all {len(found)} matches of {pattern} are files, and none is a .gguf, such as {found[0]}")
        )
    return models


def matches_now(pattern: str) -> list[str]:
    """What a pattern matches now, as `matches` has it; empty where there is nothing yet."""
    return _models_of(_found(pattern))


def steady_name(pattern: str, path: str, name: str | None = None) -> str:
    """A name for a match that stays the same whatever else matches later.

    Args:
        pattern: the pattern.
        path: one of its matches.
        name: as of `names`; None: the match's own name, after what stars in the folders before it stand for.
    """
    folders = os.path.dirname(pattern.rstrip(os.sep))
    if name is not None or not varies_at_its_end(pattern):
        return names(pattern, [path], PLACE if name is None else name)[0]
    before = f"{_stood_for(folders, os.path.dirname(path))}-" if _MAGIC.search(folders) else ""
    return f"{before}{_own_name(path)}"


def varies_at_its_end(pattern: str) -> bool:
    """Whether the last part of a pattern has stars, so that its matches lie beside each other."""
    return bool(_MAGIC.search(os.path.basename(pattern.rstrip(os.sep))))


def step_of_match(pattern: str, path: str) -> int | None:
    """The training step that a match is of: the last number in what the stars stand for; None: there is none."""
    numbers = _NUMBER.findall(_stood_for(pattern, path))
    return int(numbers[-1]) if numbers else None


def given_name(entry: Mapping[Any, Any], pattern: str) -> str | None:
    """The name that an entry of `models` with a pattern has; None where it has none, or the pattern's own."""
    given = entry.get("name")
    if given is None or str(given) in (_own_name(pattern.rstrip(os.sep)), ""):
        return None  # a ModelConfig names itself after its path
    return str(given)


def natural_order(path: str) -> list[tuple[int, str]]:
    """A key that sorts `step-2` before `step-10`."""
    return _natural(path)


def names(pattern: str, paths: Sequence[str], name: str | None = None) -> list[str]:
    """A name for each match of a pattern.

    Args:
        pattern: it.
        paths: its matches.
        name: with `{}` where what the stars stand for is filled in, else at its end; None: the match's own name, or,
            where several have the same, what the stars stand for.
    """
    stood = [_stood_for(pattern, path) for path in paths]
    if name is None:
        own = [_own_name(path) for path in paths]
        return own if len(set(own)) == len(own) else stood
    return [name.replace(PLACE, part) if PLACE in name else f"{name}-{part}" for part in stood]


def _found(pattern: str) -> list[str]:
    found = sorted(glob.glob(os.path.abspath(os.path.expanduser(pattern))), key=_natural)
    return [path for path in found if os.path.isdir(path)] if pattern.endswith(os.sep) else found


def _models_of(paths: Iterable[str]) -> list[str]:
    """Folders, and .gguf files."""
    return [path for path in paths if os.path.isdir(path) or path.lower().endswith(".gguf")]


def _expanded(entry: Mapping[Any, Any], key: str, where: str) -> Iterable[dict[Any, Any]]:
    pattern = str(entry[key])
    paths = matches(pattern, where)
    for path, name in zip(paths, names(pattern, paths, given_name(entry, pattern)), strict=True):
        yield {**entry, "name": name, key: path, "pattern": pattern}


def _natural(path: str) -> list[tuple[int, str]]:
    """Numbers in it by their value."""
    return [(int(part), "") if place % 2 else (-1, part) for place, part in enumerate(_NUMBER.split(path))]


def _own_name(path: str) -> str:
    """A folder's name, or a file's without `.gguf`."""
    return name_of(path)


def _stood_for(pattern: str, path: str) -> str:
    """What `*`, `?` and `[…]` of a pattern stand for in one of its matches; several joined by dashes."""
    full = os.path.abspath(os.path.expanduser(pattern))
    parts = re.split(r"(\*+|\?|\[[^\]]+\])", full)
    words = {"*": "([^/]*)", "?": "([^/])"}
    expression = "".join(
        (words.get(part[0]) or f"({part.replace('[!', '[^')})") if number % 2 else re.escape(part)
        for number, part in enumerate(parts)
    )
    match = re.fullmatch(expression, path)
    found = match.groups() if match else ()
    return "-".join(re.sub(r"(?i)\.gguf$", "", part) for part in found if part) or _own_name(path)


def _nearest_folder(full: str) -> str:
    """What is there of a pattern that matches nothing."""
    folder = full
    while _MAGIC.search(folder) or not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    inside = sorted(os.listdir(folder), key=_natural)[:5] if os.access(folder, os.R_OK) else []
    return f"{folder} holds {', '.join(inside) or 'nothing'}{', …' if len(inside) == 5 else ''}."
