"""Prints the options of a program's argparse parser as JSON. Run by its path, in the program's environment.

The program's own entry point is called and stopped where it would parse its arguments, so that whatever its version
offers is seen and nothing else of it runs. A program that never gets there (one that uses click or Typer, or none)
must not begin to serve in the meantime:

- click's and Typer's commands are refused where they would run;
- no process of it can listen: Python's sockets refuse, and so does the kernel (seccomp, inherited by children);
- it is given up when it makes no progress for some seconds, and after five minutes in any case;
- whatever it has started is killed before this program ends.

Prints {"options": [...], "abbreviations": bool}, or {"refused": reason} for a program that is no argparse program.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import json
import os
import platform
import runpy
import select
import signal
import socket
import struct
import sys
import time
from typing import Any, NoReturn

IDLE_LIMIT_S = 10.0  # without CPU time, page faults or reading
TIME_LIMIT_S = (
    300.0  # vLLM takes 12 to 30 s on two cores; minutes where they are busy, or its files come over a network
)
LOOK_EVERY_S = 0.5  # whether it makes progress; its end is noticed at once
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 36, 38, 22
SECCOMP_MODE_FILTER = 2
# linux/audit.h and each architecture's table of system calls.
LISTEN_CALLS = {"x86_64": (0xC000003E, 50), "aarch64": (0xC00000B7, 201)}


class Refused(BaseException):
    """Why a program's options cannot be read; no `except Exception` there shall stop it."""


class Found(BaseException):
    """The parser, on its way out of the program; no `except Exception` there shall stop it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def parser_of(target: str, subcommand: list[str]) -> argparse.ArgumentParser:
    """The parser for command lines that start with a subcommand.

    Args:
        target: the program: "package.module:function", "package.module" to run as with `python -m`, or a script's path.
        subcommand: the words before the options.

    Raises:
        Refused: the program does not parse its arguments with argparse.
    """

    def found(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> NoReturn:
        raise Found(parser)

    sys.argv = [target, *subcommand]
    argparse.ArgumentParser.parse_known_args = found  # type: ignore[method-assign, assignment]
    try:
        if target.endswith(".py"):
            runpy.run_path(target, run_name="__main__")
        elif ":" in target:
            module, _, function = target.partition(":")
            getattr(importlib.import_module(module), function)()
        else:
            runpy.run_module(target, run_name="__main__")
    except Found as caught:
        parser = caught.parser
    except SystemExit as error:
        raise Refused(f"it ended ({error.code}) before it parsed its arguments with argparse") from None
    else:
        raise Refused("it ended before it parsed its arguments with argparse")
    for word in subcommand:
        choices = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices
        parser = choices[word]
    return parser


def forbid_serving() -> None:
    """No process from here on can listen for connections, nor run a click or Typer command."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise Refused("it began to serve before it parsed its arguments with argparse")

    socket.socket.listen = refuse  # type: ignore[method-assign]
    sys.addaudithook(lambda event, args: refuse() if event == "socket.bind" and is_a_port(*args) else None)
    for name in ("click.core", "typer._click.core"):
        with contextlib.suppress(Exception):  # it is not installed, or has no such class
            command = importlib.import_module(name).Command
            command.main = refuse_click
    with contextlib.suppress(OSError):
        forbid_listening()


def refuse_click(*args: Any, **kwargs: Any) -> NoReturn:
    """In place of a click command."""
    raise Refused("it parses its arguments with click or Typer, not with argparse")


def is_a_port(bound: Any, address: Any) -> bool:
    """Whether an address is a port of someone's choosing; port 0 only finds out which port is free."""
    return getattr(bound, "family", None) in (socket.AF_INET, socket.AF_INET6) and address[1] != 0


def forbid_listening() -> None:
    """Let the kernel answer EPERM to listen(2), whichever library calls it, here and in every child.

    Raises:
        OSError: the kernel does not take the filter, or the architecture is not in the table.
    """
    if platform.machine() not in LISTEN_CALLS:
        raise OSError("unknown architecture")
    arch, call = LISTEN_CALLS[platform.machine()]
    load, equal, answer = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
    allow, refuse = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | EPERM
    program = b"".join(
        struct.pack("=HBBI", *step)
        for step in (
            (load, 0, 0, 4), (equal, 0, 3, arch),  # seccomp_data.arch
            (load, 0, 0, 0), (equal, 0, 1, call),  # seccomp_data.nr
            (answer, 0, 0, refuse), (answer, 0, 0, allow),
        )
    )  # fmt: skip
    buffer = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def table_of(target: str, subcommand: list[str]) -> dict[str, Any]:
    """What is printed."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            forbid_serving()
            parser = parser_of(target, subcommand)
    except Refused as error:
        return {"refused": str(error)}
    names: dict[int, list[str]] = {}  # also those that an action hides: as of 0.33, vLLM takes --no-enable-x so
    for name, action in parser._option_string_actions.items():
        names.setdefault(id(action), []).append(name)
    options = [
        {
            "names": names.get(id(action), list(action.option_strings)),
            "nargs": action.nargs,
            "choices": [str(choice) for choice in action.choices] if action.choices else None,
            "type": action.type.__name__ if action.type in (int, float) else None,
        }
        for action in parser._actions
        if action.option_strings
    ]
    return {"abbreviations": parser.allow_abbrev, "options": options}


def work_of(pid: int) -> list[str]:
    """What moves while a process works: page faults, CPU time, bytes read."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    work = [fields[9], fields[11], fields[12]]
    with contextlib.suppress(OSError), open(f"/proc/{pid}/io") as file:  # not every container shows it
        work.append(file.readline())
    return work


def wait_for(pid: int) -> int | str:
    """The exit status of the process that reads the options; or why they cannot be read from it.

    One that is only slow has the status of one that failed: that is no reason to refuse the program.
    """
    began = moved = time.monotonic()
    seen: list[str] = []
    ends = os.pidfd_open(pid)
    while not select.select([ends], [], [], LOOK_EVERY_S)[0]:
        now = time.monotonic()
        with contextlib.suppress(OSError):
            if (work := work_of(pid)) != seen:
                seen, moved = work, now
        if now - moved > IDLE_LIMIT_S:
            return f"it did nothing for {IDLE_LIMIT_S:.0f} s and had not parsed its arguments with argparse"
        if now - began > TIME_LIMIT_S:
            return 1
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def parent_of(pid: str) -> int:
    """The parent of a process; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def kill_children() -> None:
    """End every process below this one; orphans among them become children of this one, and so are found, too."""
    while True:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if parent_of(pid) == os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def stop(*args: Any) -> NoReturn:
    """Whoever asked is gone: nobody needs the answer."""
    kill_children()
    os._exit(1)


def main() -> None:
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, stop)
    # Run by its path, a file of ours named like the engine would be found in the engine's place.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    answer = os.memfd_create("options")  # not inherited by what the program starts, and of any size
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        code = 1
        try:
            os.write(answer, json.dumps(table_of(sys.argv[1], sys.argv[2:])).encode())
            code = 0
        finally:
            os._exit(code)
    ended = wait_for(pid)
    kill_children()
    if isinstance(ended, str):
        print(json.dumps({"refused": ended}))
    elif ended == 0:
        print(os.pread(answer, os.fstat(answer).st_size, 0).decode())
    else:
        raise SystemExit(f"the options of {sys.argv[1]} cannot be read")


if __name__ == "__main__":
    main()
