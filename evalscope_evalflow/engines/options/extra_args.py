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

from platformdirs import user_cache_path

from evalscope_evalflow.config import DeployConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.file_locks import locked
from evalscope_evalflow.config.secret_names import is_secret_name
from evalscope_evalflow.engines.base import Engine, ParserSource
from evalscope_evalflow.errors import Problem
from evalscope_evalflow.events.whole_files import write_whole

DUMP = Path(__file__).with_name("dump_options.py")
DUMP_TIMEOUT_S = 330.0  # dump_options.py gives up by itself after 300 s
NOTIFY_AFTER_S = 1.0
WHERE = "deploy.extra_args"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TYPES: dict[str | None, Callable[[str], Any]] = {"int": int, "float": float}  # those of their own stay with the engine


class ParserRefused(Exception):
    """Why the program that `ParserSource` names cannot be asked for its options."""


def check_extra_args(
    engine: Engine, deploy: DeployConfig, notify: Callable[[str], None] | None = None
) -> Iterable[Problem]:
    """What the engine would not take of `extra_args`, and what of it has a setting of its own.

    Args:
        engine: the engine.
        deploy: its settings.
        notify: receives a line if reading the options takes longer than a second.
    """
    if not deploy.extra_args:
        return
    table = None
    if engine.parser is not None:
        try:
            table = read_table(engine, Environment.find(deploy.env), notify)
        except ParserRefused as error:
            yield Problem(
                WHERE,
                f"the options of {engine.name} cannot be read from {engine.parser.target}: {error}",
                f"Leave extra_args out. The package that {engine.name} is from has to name an argparse program as its "
                "`parser`, or None.",
            )
    words = [engine.normalise_argument(word) for word in deploy.extra_args]
    if table is None:  # the engine itself will say what it does not know
        yield from check_reserved(words, engine)
    else:
        yield from parse(words, table, engine)


def check_reserved(words: Sequence[str], engine: Engine) -> Iterable[Problem]:
    """Which words are options that EvalFlow sets, as far as that can be seen without the engine's parser."""
    for word in words:
        name = word.split("=", 1)[0]
        for option in engine.reserved_options:
            attached = re.fullmatch(r"-\w", option) and word.startswith(option)  # -p8000
            if attached or name.replace("_", "-") == option.replace("_", "-"):
                yield from _reserved(name, option, engine)
                break


def _reserved(given: str, option: str, engine: Engine) -> Iterable[Problem]:
    """The problem of an option that EvalFlow sets; one that holds a key is reported by `Engine.check_keys`."""
    if not is_secret_name(given.lstrip("-").removesuffix("s")):
        yield Problem(WHERE, f"{given} is set by EvalFlow", f"Set {engine.reserved_options[option]} in its place.")


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
        ours = not engine.reserved_options.keys().isdisjoint(option["names"])
        choices = None if ours else option["choices"]  # whatever its value: it has no place here
        kind = str if ours or choices else _TYPES.get(option["type"], str)  # choices are kept as text
        parser.add_argument(*option["names"], action=_Note, nargs=option["nargs"], choices=choices, type=kind)
    for name in engine.reserved_options.keys() - set(names):  # it has another name in this version, or is positional
        parser.add_argument(name, action=_Note, nargs="?")
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
        for option in engine.reserved_options.keys() & set(options):
            yield from _reserved(given, option, engine)


def read_table(engine: Engine, env: Environment, notify: Callable[[str], None] | None = None) -> dict[str, Any] | None:
    """An engine's options: from the cache, or else from its parser.

    Args:
        engine: the engine, which has a parser.
        env: environment that has it.
        notify: receives a line if that takes longer than a second.

    Returns:
        What `dump_options.py` printed; None where that did not work.

    Raises:
        ParserRefused: the program does not use argparse.
    """
    source = engine.parser
    assert source is not None
    identity = _identity(engine, source, env)
    if identity is None:
        return None
    digest = hashlib.sha256(repr((DUMP.read_bytes(), str(env.prefix), str(env.python), source, identity)).encode())
    folder = user_cache_path("evalflow", ensure_exists=True) / "options"
    folder.mkdir(exist_ok=True)
    path = folder / f"{engine.name}-{digest.hexdigest()[:16]}.json"
    table = _read(path)
    if table is not None:
        return table
    with locked(path.with_suffix(".lock")):
        table = _read(path)  # somebody else may just have made it
        if table is None:
            waits = f"reading the options of {engine.name} in {env.prefix}; once for each version, up to half a minute"
            table = _dump(source, env, lambda: notify(waits) if notify else None)
            if table is not None:
                write_whole(path, json.dumps(table))
    return table


def _identity(engine: Engine, source: ParserSource, env: Environment) -> tuple[str, ...] | None:
    """What decides which options there are: the script, and the distribution's version and time of installation.

    The time, as development versions change without a new number. None where the engine is not installed.
    """
    script = [hashlib.sha256(Path(source.target).read_bytes()).hexdigest()] if source.target.endswith(".py") else []
    metadata = engine.dist_info(env)
    if metadata is None:
        return (*script,) if script and not engine.distribution else None
    return (*script, metadata.name, str(metadata.stat().st_mtime_ns))


def _dump(source: ParserSource, env: Environment, on_wait: Callable[[], None]) -> dict[str, Any] | None:
    """What `dump_options.py` prints.

    Raises:
        ParserRefused: the program does not use argparse.
    """
    try:
        process = subprocess.Popen(
            env.wrap([str(env.python), str(DUMP), source.target, *source.subcommand]),
            env=env.variables(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd="/",
        )
    except OSError:
        return None
    with process:
        try:
            printed = process.communicate(timeout=NOTIFY_AFTER_S)[0]
        except subprocess.TimeoutExpired:
            on_wait()
            try:
                printed = process.communicate(timeout=DUMP_TIMEOUT_S)[0]
            except subprocess.TimeoutExpired:
                process.terminate()  # it ends what it has started
                return None
        except BaseException:
            process.terminate()
            raise
    try:
        table = json.loads(printed.strip().rpartition("\n")[2])  # before it, what activation scripts print
    except ValueError:
        return None
    if isinstance(table, dict) and "refused" in table:
        raise ParserRefused(table["refused"])
    return table if isinstance(table, dict) and table.get("options") else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return table if isinstance(table, dict) else None


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
