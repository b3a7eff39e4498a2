"""`evalflow doctor`: what there is to work with, what is wrong with it, and what earlier runs have left behind.

It looks at metadata and files, and imports nothing slow.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from platformdirs import user_cache_path
from rich.console import Console
from rich.markup import escape

from evalscope_evalflow import __version__
from evalscope_evalflow.backends import known_backends, load_backend
from evalscope_evalflow.cli.json_documents import doctor_document
from evalscope_evalflow.cli.parser import add_json
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.install_hint import install_command
from evalscope_evalflow.devices.nvml import Device, devices
from evalscope_evalflow.display.safe_console import SafeConsole
from evalscope_evalflow.engines import known_engines, load_engine
from evalscope_evalflow.errors import ConfigError, ExitCode, Problem
from evalscope_evalflow.processes import cleanup, registry
from evalscope_evalflow.results.json_output import print_document

GOOD, NOTE, BAD = "ok", "note", "bad"
MARKS = {GOOD: "[green]✓[/green]", NOTE: "[yellow]–[/yellow]", BAD: "[red]✗[/red]"}
ASK_TIMEOUT_S = 20.0
SUPPORTED = (1, 11), (2,)  # EvalScope: from, and below
SHM_WANTED_BYTES = 1024**3  # vLLM's processes talk through it; Docker's default is 64 MiB
# Asks an environment's Python for modules and versions, without importing any of them.
_ASK = """
import json, sys
from importlib.metadata import version
from importlib.util import find_spec
def about(name):
    if find_spec(name) is None:
        return None
    try:
        return version(name)
    except Exception:
        return ""
print(json.dumps({"python": sys.version.split()[0], **{name: about(name) for name in sys.argv[1:]}}))
"""
_IS_ATTACHED = "import sys; print(any(getattr(f, '__name__', '') == 'EvalFlowFinder' for f in sys.meta_path))"


@dataclass(frozen=True)
class Finding:
    """One line: how it is (GOOD, NOTE or BAD), what it is about, what was found, and what to do."""

    state: str
    what: str
    found: str
    todo: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    parser.add_argument("--env", metavar="PREFIX", help="also look for engines in this environment")


def main(args: argparse.Namespace) -> int:
    """Print what was found; the exit code says whether all that is needed is there."""
    if args.json:
        findings = list(examine(args.env))
        code = ExitCode.FAILED if any(finding.state == BAD for finding in findings) else ExitCode.COMPLETE
        print_document("doctor", doctor_document(findings), code)
        return code
    return ExitCode.COMPLETE if show_findings(args.env) else ExitCode.FAILED


def show_findings(env: str | None = None, console: Console | None = None) -> bool:
    """Print what was found.

    Args:
        env: another environment to look for engines in.

    Returns:
        Whether nothing is broken.

    Raises:
        ConfigError: there is no such environment.
    """
    console = console or SafeConsole(emoji=False, highlight=False, soft_wrap=True)
    well = True
    for finding in examine(env):
        well = well and finding.state != BAD
        console.print(f"{MARKS[finding.state]} [bold]{escape(finding.what)}[/bold]: {escape(finding.found)}")
        if finding.todo:
            console.print(f"    {escape(finding.todo)}")
    return well


def examine(env: str | None = None) -> Iterator[Finding]:
    """Look at everything."""
    yield Finding(GOOD, "EvalFlow", f"{__version__}, Python {platform.python_version()} ({sys.executable})")
    yield _evalscope()
    yield _plugin()
    yield from _engines(env)
    yield from _devices()
    yield from _backends()
    yield from _runs()
    yield from _room()


def _evalscope() -> Finding:
    found = _version("evalscope")
    if not found:
        return Finding(BAD, "EvalScope", "is not installed in this environment", "pip install evalscope")
    least, below = SUPPORTED
    if not least <= _numbers(found) < below:
        limits = f">={'.'.join(map(str, least))},<{'.'.join(map(str, below))}"
        return Finding(BAD, "EvalScope", f"{found} is not supported", f"pip install 'evalscope{limits}'")
    return Finding(GOOD, "EvalScope", found)


def _plugin() -> Finding:
    """Whether a new interpreter of this environment waits for EvalScope: the start-up file has to have been read."""
    what = "Plugin"
    if os.environ.get("EVALFLOW_DISABLE", "") not in ("", "0"):  # as plugin/startup.py, which has moved in a wheel
        return Finding(NOTE, what, "is switched off by EVALFLOW_DISABLE", "unset EVALFLOW_DISABLE to attach it.")
    done = subprocess.run(
        [sys.executable, "-c", _IS_ATTACHED], capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=False
    )
    if done.stdout.strip() == "True":
        return Finding(GOOD, what, "attaches to EvalScope at every start of this Python")
    name = "evalscope_evalflow_startup" + (".start" if sys.version_info >= (3, 15) else ".pth")
    places = [Path(place) / name for place in sys.path if place.endswith(("site-packages", "dist-packages"))]
    if any(place.is_file() for place in places):
        why, todo = f"{name} is there, but was not read: {done.stderr.strip()[-300:]}", "Is Python run with -S or -I?"
    else:
        why = f"its start-up file {name} is missing in site-packages"
        again = install_command().replace(" install ", " install --force-reinstall --no-deps ", 1)
        todo = f"{again}; until then, import evalscope_evalflow first."
    return Finding(BAD, what, f"does not attach: {why}", todo)


def _engines(env: str | None) -> Iterator[Finding]:
    places = [Environment.find(None)]
    if env is not None:
        try:
            places.append(Environment.find(env))
        except FileNotFoundError as error:
            raise ConfigError(Problem("--env", str(error), "Give a conda prefix, a venv, or its python.")) from error
    engines = []
    for name in sorted(known_engines()):
        try:
            engines.append(load_engine(name))
        except ConfigError as error:
            yield Finding(BAD, f"Engine {name}", error.problems[0].what, "Repair or uninstall the package it is from.")
    modules = list(dict.fromkeys(name for engine in engines if engine.local for name in engine.modules))
    for place in places:
        where = f"in {place.prefix}"
        try:
            found = _ask(place, modules)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            yield Finding(BAD, "Environment", f"{place.python} does not run: {error}", "Repair that environment.")
            continue
        if not place.own:
            yield Finding(GOOD, "Environment", f"{place.prefix}, Python {found['python']}")
        for engine in engines:
            what = f"Engine {engine.name}"
            if not engine.local:
                if place.own:
                    yield Finding(GOOD, what, "nothing to install")
            elif not engine.modules:
                yield Finding(GOOD, what, f"can be used {where}")
            elif missing := [name for name in engine.modules if found[name] is None]:
                lacks = f"; {', '.join(missing)} is missing" if len(missing) < len(engine.modules) else ""
                todo = engine.install_command(place) if place.own else ""
                yield Finding(NOTE, what, f"not installed {where}{lacks}", todo)
            else:
                yield Finding(GOOD, what, f"{engine.version(place) or 'of unknown version'} {where}")


def _ask(place: Environment, modules: list[str]) -> Mapping[str, str | None]:
    """Whether each module is there ("" or None); and the version of Python."""
    done = subprocess.run(
        [str(place.python), "-c", _ASK, *modules],
        env=place.variables(os.environ), stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/",
        timeout=ASK_TIMEOUT_S, check=True,
    )  # fmt: skip
    found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return found


def _devices() -> Iterator[Finding]:
    found = devices()
    if not found:
        yield Finding(NOTE, "Devices", "no NVIDIA GPU is found", "llama.cpp and remote APIs need none.")
    for device in found:
        yield _device(device)


def _device(device: Device) -> Finding:
    if device.trouble:
        return Finding(BAD, f"Device {device.index}", f"{device.name} does not answer: {device.trouble}".lstrip())
    used = f"{_size(device.used_bytes)} of {_size(device.total_bytes)} in use"
    who = [_user_of(process.pid, process.used_bytes) for process in device.processes]
    state = NOTE if who else GOOD
    return Finding(state, f"Device {device.index}", f"{device.name}, {used}" + (f": {'; '.join(who)}" if who else ""))


def _user_of(pid: int, used_bytes: int | None) -> str:
    """Who a process is, and how much it holds."""
    named = ""
    with suppress(psutil.Error):  # in another container, or another user's
        process = psutil.Process(pid)
        named = f" ({process.name()}, {process.username()})"
    return f"PID {pid}{named}" + (f" {_size(used_bytes)}" if used_bytes is not None else "")


def _backends() -> Iterator[Finding]:
    """What this environment lacks for each backend; another one may have it (`worker_env`)."""
    for name in known_backends():
        try:
            backend = load_backend(name)
            problems = list(backend.check_installed(None))
        except ConfigError as error:
            problems = list(error.problems)
            yield from (Finding(BAD, name, problem.what, problem.todo) for problem in problems)
            continue
        for problem in problems:
            yield Finding(NOTE, name, problem.what, problem.todo)
        if not problems:
            versions = {item: _version(item) for item in backend.distributions}
            found = ", ".join(f"{item} {version}" for item, version in versions.items() if version)
            yield Finding(GOOD, name, f"can be used ({found})" if found else "can be used")


def _runs() -> Iterator[Finding]:
    try:
        entries = registry.entries()
        left = cleanup.stale()
    except OSError as error:
        yield Finding(BAD, "Runs", f"cannot be listed: {error}", "evalflow ps, stop and clean do not work without.")
        return
    running = sum(entry.state in ("running", "ending") for entry in entries)
    yield Finding(GOOD, "Runs", f"{running} at work" + (" (evalflow ps)" if running else ""))
    for entry in left:
        yield Finding(
            NOTE, "Left behind", f"by run {entry.run_id} ({entry.model}), whose processes were killed", "evalflow clean"
        )
    if not left:
        yield Finding(GOOD, "Left behind", "nothing")


def _room() -> Iterator[Finding]:
    """Caches, and room on the file systems that runs fill."""
    hub = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    scope = os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope"
    for what, path in (("Hugging Face", hub), ("ModelScope", scope), ("EvalFlow", user_cache_path("evalflow"))):
        folder = Path(path).expanduser()
        yield Finding(GOOD, f"Cache of {what}", f"{folder}" + ("" if folder.is_dir() else " (empty)") + _free(folder))
    shm = Path("/dev/shm")
    if shm.is_dir() and shutil.disk_usage(shm).total < SHM_WANTED_BYTES:
        yield Finding(
            NOTE, "/dev/shm", f"holds {_size(shutil.disk_usage(shm).total)}", "For vLLM on several GPUs: --shm-size."
        )


def _free(path: Path) -> str:
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    return f", {_size(shutil.disk_usage(existing).free)} free"


def _size(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers at the start of a version: 1.14.1rc1 gives (1, 14)."""
    numbers = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers) or (0,)
