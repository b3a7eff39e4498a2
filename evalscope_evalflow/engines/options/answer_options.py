"""What of `extra_args` and of an engine's environment may affect its answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from evalscope_evalflow.engines.base import Engine
from evalscope_evalflow.engines.options import text_effects

_NUMBER = re.compile(r"-?\d*\.?\d+(e[+-]?\d+)?", re.IGNORECASE)


def answer_options(engine: Engine, words: Sequence[str]) -> dict[str, list[str]]:
    """The options that may affect answers, with their values as they are written.

    `--x=1` and `--x 1` are the same, and so is any order of options. What comes before the first option has an empty
    name.

    Args:
        engine: whose arguments they are.
        words: `extra_args`.
    """
    known = (*engine.neutral_options, *engine.parallel_options)
    return {name: values for name, values in _split(engine, words) if not matches(name, known)}


def parallel_options(engine: Engine, words: Sequence[str]) -> dict[str, list[str]]:
    """The options that share the work out, as far as they are given; they are recorded with the answers."""
    return {name: values for name, values in _split(engine, words) if matches(name, engine.parallel_options)}


def answer_variables(engine: Engine, given: Mapping[str, str], inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that may affect answers.

    Args:
        engine: whose environment it is.
        given: `env_vars`.
        inherited: what else is in its environment; of these, only the engine's own variables count.
    """
    own = {name: value for name, value in inherited.items() if matches(name, engine.variable_prefixes)}
    neutral = (*text_effects.VARIABLES, *engine.neutral_variables, *engine.reserved_variables)
    return {name: value for name, value in sorted({**own, **given}.items()) if not matches(name, neutral)}


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is one of these, in which `*` stands for any characters."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _split(engine: Engine, words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option with all its values, by its name."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if not word.startswith("-") or word == "-" or _NUMBER.fullmatch(word):
            found.setdefault(name, []).append(word)
            continue
        name, equals, value = engine.normalise_argument(word).partition("=")
        given = word.partition("=")[0]
        if "." in given and "." not in name:  # a part of an option's JSON, which the parser knows by its whole
            name += given[given.index(".") :]
        name = name.replace("_", "-") if "." not in name else name
        found.setdefault(name, []).extend([value] if equals else [])
    yield from sorted(found.items())
