"""What `--json` prints: one JSON document, in the same envelope for every command.

    {"schema": "evalflow.check/1", "exit_code": 0, "error": null, …the command's own fields…}

The number after the name is the version: it changes when a field is renamed or removed, or means something else. A
field that is added changes nothing. docs/reference/json-output.md lists the fields.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any, TextIO

from evalscope_evalflow.display.output_streams import steady_stream
from evalscope_evalflow.errors import ConfigError, EvalFlowError, ExitCode
from evalscope_evalflow.terminal_text import printable

VERSION = 1


class _Alone:
    """Standard output that holds one document and nothing else."""

    def __init__(self, command: str, stream: TextIO) -> None:
        self.command, self.stream, self.written = command, stream, False


_alone: list[_Alone] = []  # the innermost last; there is one at most, but for tests


def document(command: str, payload: Mapping[str, Any], exit_code: int = 0) -> dict[str, Any]:
    """A command's result in the envelope.

    Args:
        command: the command's name, such as "check".
        payload: its own fields: plain values, dataclasses, paths, times and numpy's numbers.
        exit_code: what the command will end with.

    Returns:
        What `json.dumps` takes: numbers that JSON does not have, such as NaN, are None.
    """
    head = {"schema": f"evalflow.{command}/{VERSION}", "exit_code": int(exit_code), "error": None}
    converted: dict[str, Any] = plain({**head, **payload})
    return converted


def error_of(error: BaseException) -> dict[str, Any]:
    """An error as the envelope's `error` holds it: `kind`, `message`, and `problems` with `where`, `what`, `todo`."""
    problems = error.problems if isinstance(error, ConfigError) else ()
    return {
        "kind": type(error).__name__,
        "message": str(error) or type(error).__name__,
        "problems": [dataclasses.asdict(problem) for problem in problems],
    }


def print_document(command: str, payload: Mapping[str, Any], exit_code: int = 0) -> None:
    """Print a command's result on standard output, also from within `alone`."""
    _write(document(command, payload, exit_code))


def print_error(command: str, error: BaseException, exit_code: int) -> None:
    """Print what ended a command, unless it has printed its result already."""
    if not (_alone and _alone[-1].written):
        _write(document(command, {"error": error_of(error)}, exit_code))


@contextmanager
def alone(command: str) -> Iterator[None]:
    """In the block, what is printed goes to standard error, but for `print_document`; what child processes say, too.

    An error that leaves the block is printed as a document first.

    Args:
        command: the command's name, for an error's document.
    """
    with _moved_descriptor() as stream:
        state = _Alone(command, stream)
        _alone.append(state)
        try:
            with redirect_stdout(sys.stderr):
                yield
        except EvalFlowError as error:
            print_error(command, error, error.exit_code)
            raise
        except KeyboardInterrupt as error:
            print_error(command, error, ExitCode.INTERRUPTED)
            raise
        except Exception as error:
            print_error(command, error, ExitCode.FAILED)
            raise
        finally:
            _alone.remove(state)


@contextmanager
def _moved_descriptor() -> Iterator[TextIO]:
    """A stream to where standard output goes; in the block, descriptor 1 leads to standard error.

    Libraries and child processes write to the descriptor, past `sys.stdout`.
    """
    stdout = sys.stdout
    try:
        stdout.flush()
        is_the_descriptor = stdout.fileno() == 1
    except (OSError, ValueError):  # a stream of a notebook or a test
        is_the_descriptor = False
    if not is_the_descriptor:
        yield stdout
        return
    kept = os.dup(1)  # not inherited by children
    os.dup2(2, 1)
    try:
        yield steady_stream(kept, "standard output")
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _write(found: dict[str, Any]) -> None:
    """Print a document: ASCII alone, so that no encoding breaks it."""
    print_text(json.dumps(found, indent=2, allow_nan=False) + "\n")


def print_text(text: str) -> None:
    """Print on standard output a text that is a document already, also from within `alone`."""
    state = _alone[-1] if _alone else None
    stream = state.stream if state else sys.stdout
    stream.write(printable(text) if stream.isatty() else text)
    stream.flush()
    if state:
        state.written = True


def plain(value: Any) -> Any:
    """A value as JSON has it: mappings, lists, texts, finite numbers, booleans and None.

    Raises:
        TypeError: it is of another type.
    """
    if value is None or (isinstance(value, (bool, int, str)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat(timespec="seconds")
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no form in JSON")
