"""Has what an engine spawns forked from a process that has imported what it needs (multiprocessing's fork server).

Imported in the engine's process, which begins the server, and in the server, and so in all that is forked from it.

A spawned process has its parent's variables, and one that is forked from the server those of the server's start. So
the parent sends its own along, and they are put in place before anything else is done. Some are read when a library is
loaded, and never again: where one of those has changed, the process is spawned as before; so it is where the server is
dead, or the CUDA driver was initialised in it.
"""

from __future__ import annotations

import ctypes
import glob
import importlib
import importlib.util
import multiprocessing.context
import multiprocessing.forkserver
import multiprocessing.popen_forkserver
import multiprocessing.popen_spawn_posix
import multiprocessing.resource_tracker
import multiprocessing.spawn
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

MODULES, READY = "EVALFLOW_IMPORT_SPAWNED", "EVALFLOW_FORK_SERVER_READY"
LOADED_WITH = ("OMP_", "KMP_", "GOMP_", "MKL_", "LD_", "PYTHON", "MALLOC_")
THREADS = "OMP_NUM_THREADS"  # read when a library is loaded, and can be set afterwards as well
GPUS = ("/dev/nvidia[0-9]*", "/dev/kfd")
CUDA_NOT_INITIALISED = 3  # CUresult
PATIENCE_S = 120.0  # with imports that are still under way: to begin them anew would take no less

_describe, _prepare = multiprocessing.spawn.get_preparation_data, multiprocessing.spawn.prepare
_loaded_with: dict[str, str] = {}


def import_all(names: str) -> None:
    """Import modules, by commas, as far as that goes."""
    for name in filter(None, names.split(",")):
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - other versions of the engine have other modules
            print(f"evalflow: not imported ahead: {name}: {error}", flush=True)


def knows_devices() -> bool:
    """Whether the CUDA driver was initialised in this process: it answers by the variables of that time."""
    try:
        driver = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD)
    except OSError:
        return False  # nobody has loaded it
    device = ctypes.c_int()
    return bool(driver.cuCtxGetDevice(ctypes.byref(device)) != CUDA_NOT_INITIALISED)


def preloaded(patterns: str) -> str:
    """LD_PRELOAD as the engine will set it where it computes on processors; else empty.

    Args:
        patterns: of files below the folder of packages; by commas, alternatives by `|`.
    """
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None or any(map(glob.glob, GPUS)):
        return ""
    home = os.path.dirname(os.path.dirname(found.origin))
    groups = [[glob.glob(os.path.join(home, one)) for one in group.split("|")] for group in patterns.split(",")]
    first = (next((files[0] for files in group if files), "") for group in groups)
    return ":".join(filter(None, first))


def begin(modules: str, patterns: str = "") -> int:
    """Start the server; returns its PID.

    Args:
        modules: what it imports, by commas.
        patterns: of libraries that what is spawned loads before all others; see `preloaded`.
    """
    server: Any = multiprocessing.forkserver._forkserver
    ready = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"forks-{os.getpid()}")
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "LD_PRELOAD")}
    path = before["PYTHONPATH"]
    here = os.path.dirname(os.path.abspath(__file__))
    os.environ.update({MODULES: modules, READY: ready, "PYTHONPATH": os.pathsep.join(filter(None, [here, path]))})
    preload = preloaded(patterns) if patterns else ""
    if preload and not before["LD_PRELOAD"]:
        os.environ["LD_PRELOAD"] = preload
    _loaded_with.update(_load_variables(), PYTHONPATH=path or "")
    try:
        server.set_forkserver_preload([__name__])
        server.ensure_running()
    finally:
        del os.environ[MODULES]
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    _fork_what_is_spawned()
    return int(server._forkserver_pid)


class _Process(multiprocessing.context.ForkServerProcess):
    """A spawned process that is forked, where that is the same."""

    @staticmethod
    def _Popen(process: Any) -> Any:
        if _server_is_good():
            return multiprocessing.popen_forkserver.Popen(process)
        return multiprocessing.popen_spawn_posix.Popen(process)


class _Context(multiprocessing.context.SpawnContext):
    Process = _Process  # type: ignore[assignment]


def _server_is_good() -> bool:
    """Whether what is forked is what would be spawned; waits for the server's imports."""
    now = _load_variables()
    changed = sorted(name for name in {*now, *_loaded_with} if now.get(name) != _loaded_with.get(name))
    if changed:
        print(f"evalflow: spawned, not forked, as these were set: {', '.join(changed)}", flush=True)
        return False
    ready, deadline = os.environ.get(READY, ""), time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            with open(ready, encoding="ascii") as file:
                said = file.read()
        except OSError:
            said = ""
        if said:
            return said == "good"
        time.sleep(0.05)
    return False


def _load_variables() -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if name.startswith(LOADED_WITH) and name != THREADS}
    return {"PYTHONPATH": "", **found}


def _describe_with_variables(name: str) -> dict[str, Any]:
    server: Any = multiprocessing.forkserver._forkserver
    found = {"evalflow_variables": dict(os.environ), "evalflow_fork_server": server._forkserver_address}
    return {**_describe(name), **found}


def _prepare_with_variables(data: Mapping[str, Any]) -> None:
    variables = data.get("evalflow_variables")
    if variables is not None:
        threads = os.environ.get(THREADS)
        for name in set(os.environ) - set(variables):
            del os.environ[name]
        os.environ.update(variables)
        torch = sys.modules.get("torch")
        if torch is not None and os.environ.get(THREADS, "") not in ("", threads):
            torch.set_num_threads(int(os.environ[THREADS]))
        # What this process spawns comes from the same server: multiprocessing would begin another, without imports.
        server: Any = multiprocessing.forkserver._forkserver
        server._forkserver_address = data["evalflow_fork_server"]
        server.ensure_running = multiprocessing.resource_tracker.ensure_running
    _prepare(data)


def _fork_what_is_spawned() -> None:
    contexts: dict[str, Any] = multiprocessing.context._concrete_contexts  # type: ignore[attr-defined]
    contexts["spawn"] = _Context()
    multiprocessing.spawn.get_preparation_data = _describe_with_variables
    multiprocessing.spawn.prepare = _prepare_with_variables


def _serve() -> None:
    """In the server: import, and say whether what is forked from here is as good as new."""
    path = os.environ["PYTHONPATH"].partition(os.pathsep)[2]
    if path:
        os.environ["PYTHONPATH"] = path
    else:
        del os.environ["PYTHONPATH"]
    _loaded_with.update(_load_variables())
    import_all(os.environ.pop(MODULES))
    _fork_what_is_spawned()
    new = f"{os.environ[READY]}.new"
    with open(new, "w", encoding="ascii") as file:
        file.write("bad" if knows_devices() else "good")
    os.replace(new, os.environ[READY])


if MODULES in os.environ:
    _serve()
