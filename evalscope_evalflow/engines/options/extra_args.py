"""The options of an engine's command line, so that `extra_args` can be checked before anything is started.

An engine needs 5 to 30 s of imports to reject a misspelt option. So its own parser is read once for each
environment and version, by `dump_options.py` there, and kept in the user's cache. Here argparse then parses
`extra_args` by that, and so takes and refuses what the engine's own argparse would.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock
from platformdirs import user_cache_path

from evalscope_evalflow.config import DeployConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.keys import is_secret_name
from evalscope_evalflow.engines.base import Engine, ParserSource
from evalscope_evalflow.errors import Problem

DUMP = Path(__file__).with_name("dump_options.py")
DUMP_TIMEOUT_S = 300.0  # 12 to 30 s are usual for vLLM, and file caches may be cold
WHERE = "deploy.extra_args"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TYPES: dict[str | None, Callable[[str], Any]] = {"int": int, "float": float}  # those of their own stay with the engine
# What decides which options there are: run in the engine's environment.
_IDENTITY = """\
import importlib.metadata, os, sys
try:
    found = importlib.metadata.distribution(sys.argv[1])
    place = getattr(found, "_path", None)
    print(found.version, os.stat(place).st_mtime_ns if place else "")
except importlib.metadata.PackageNotFoundError:
    sys.exit(1)
"""


def check_extra_args(
    engine: Engine, deploy: DeployConfig, say: Callable[[str], None] | None = None
) -> Iterable[Problem]:
    """What the engine would not take of `extra_args`, and what has a setting of ours."""
    if engine.parser is None or not deploy.extra_args:
        return
    table = read_table(engine.name, engine.parser, Environment.find(deploy.env), say)
    if table is None:  # then the engine itself is the one to say it, later
        return
    words = [_lenient(word) for word in deploy.extra_args] if engine.parser.lenient else deploy.extra_args
    yield from parse(words, table, engine)


def check_variables(engine: Engine, deploy: DeployConfig) -> Iterable[Problem]:
    """Whether `env_vars` can be set at all, and what in it has a setting of ours."""
    for name, value in deploy.env_vars.items():
        where = f"deploy.env_vars.{name}" if _VARIABLE.fullmatch(name) else "deploy.env_vars"
        if not _VARIABLE.fullmatch(name):
            yield Problem(where, f"{name!r} is no name of a variable", "Letters, digits and underscores make one.")
        elif "\0" in value:
            yield Problem(where, "its value holds a NUL character", "Remove it.")
        elif name in engine.reserved_variables:
            yield Problem(where, f"{engine.name} is given this by EvalFlow", f"Set {engine.reserved_variables[name]}.")


def parse(words: Sequence[str], table: dict[str, Any], engine: Engine) -> Iterable[Problem]:
    """Problems of a command line, by a table as `dump_options.py` prints it."""
    parser = _Parser(add_help=False, allow_abbrev=bool(table["abbreviations"]))
    names: list[str] = []
    for option in table["options"]:
        names += option["names"]
        kind = str if option["choices"] else _TYPES.get(option["type"], str)  # choices are kept as text
        parser.add_argument(*option["names"], action=_Note, nargs=option["nargs"], choices=option["choices"], type=kind)
    try:
        found, left = parser.parse_known_args(list(words), argparse.Namespace(seen=[]))
    except _Rejected as error:
        # argparse lists an option's choices, but not what an ambiguous abbreviation may mean in every version.
        yield Problem(WHERE, f"{engine.name} rejects {error}")
        return
    for word in left:
        name = word.split("=", 1)[0]  # the value may be a key
        if word.startswith("-") and not is_secret_name(name.lstrip("-").removesuffix("s")):
            yield Problem(WHERE, f"{engine.name} has no option {name}", _nearest(name, names))
        elif not word.startswith("-"):
            yield Problem(WHERE, f"{word!r} belongs to no option of {engine.name}", "Quote a value that has spaces.")
    for given, options in found.seen:
        setting = next((engine.reserved_options[name] for name in options if name in engine.reserved_options), None)
        if setting and not is_secret_name(given.lstrip("-").removesuffix("s")):  # keys have a message of their own
            yield Problem(WHERE, f"{given} is set by EvalFlow", f"Set {setting} in its place.")


def read_table(
    name: str, source: ParserSource, env: Environment, say: Callable[[str], None] | None = None
) -> dict[str, Any] | None:
    """An engine's options: from the cache, or else from its parser.

    Args:
        name: the engine's, for `say`.
        source: where its parser is.
        env: environment that has it.
        say: is told if the parser has to be read.

    Returns:
        What `dump_options.py` printed; None where that did not work.
    """
    identity = _identity(source, env)
    if identity is None:
        return None
    digest = hashlib.sha256(repr((DUMP.read_bytes(), str(env.prefix), str(env.python), source, identity)).encode())
    folder = user_cache_path("evalflow", ensure_exists=True) / "options"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{digest.hexdigest()[:16]}.json"
    table = _read(path)
    if table is not None:
        return table
    with FileLock(path.with_suffix(".lock")):
        table = _read(path)  # somebody else may just have made it
        if table is None:
            if say and source.distribution:
                say(f"reading the options of {name} in {env.prefix}; once for each version, up to half a minute")
            table = _dump(source, env)
            if table is not None:
                new = path.with_suffix(".new")
                new.write_text(json.dumps(table), encoding="utf-8")
                new.replace(path)
    return table


def _identity(source: ParserSource, env: Environment) -> str | None:
    """The version, and when it was installed: development versions change without a new number."""
    if not source.distribution:
        return hashlib.sha256(Path(source.target).read_bytes()).hexdigest()
    done = _python(env, ["-c", _IDENTITY, source.distribution], timeout_s=60)
    return done or None


def _dump(source: ParserSource, env: Environment) -> dict[str, Any] | None:
    done = _python(env, [str(DUMP), source.target, *source.subcommand], timeout_s=DUMP_TIMEOUT_S)
    try:
        table = json.loads(done)
    except ValueError:
        return None
    return table if isinstance(table, dict) and table.get("options") else None


def _python(env: Environment, arguments: list[str], timeout_s: float) -> str:
    """The last line that the environment's interpreter prints; empty where it fails.

    Before that there may be lines of the environment's activation scripts.
    """
    try:
        done = subprocess.run(
            env.wrap([str(env.python), *arguments]),
            env=env.variables(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().rpartition("\n")[2] if done.returncode == 0 else ""


def _read(path: Path) -> dict[str, Any] | None:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return table if isinstance(table, dict) else None


def _lenient(word: str) -> str:
    """An argument as vLLM understands it: `--a_b` is `--a-b`, and `--a.b.c 1` sets a part of `--a`."""
    if word.startswith("-O") and word != "-O":
        return f"--optimization-level={word[2:].removeprefix('=')}"
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.split(".")[0].rstrip("+").replace("_", "-") + equals + value


def _nearest(name: str, known: Sequence[str]) -> str:
    """A sentence that names the option that is most like this one."""
    plain = {item.lstrip("-").replace("_", "-"): item for item in known if item.startswith("--")}
    close = get_close_matches(name.lstrip("-").replace("_", "-").lower(), plain, n=1, cutoff=0.6)
    return f"Did you mean {plain[close[0]]}?" if close else ""


class _Rejected(Exception):
    """argparse's own words."""


class _Parser(argparse.ArgumentParser):
    """One that raises, in place of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise _Rejected(message)


class _Note(argparse.Action):
    """Notes which option was given, under which of its names."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.seen.append((option_string, self.option_strings))
