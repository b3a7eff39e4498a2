"""Imports what an engine needs, and waits for a word before it becomes that engine. Nothing here touches a device.

    python standby_launcher.py AHEAD SPAWNED PRELOAD

AHEAD and SPAWNED are names of modules, by commas; one that cannot be imported is passed over. AHEAD is imported in
this process. SPAWNED is imported in a process that spawned processes are forked from, and which has
loaded PRELOAD first: see inside/evalflow_fork_server.py.

The word is a line of JSON on standard input: `{"argv": [PYTHON, SCRIPT, …], "variables": {NAME: VALUE or null}}`. This
process gets the variables, and goes on as `python SCRIPT …` would. If somebody has asked the CUDA driver for its
devices meanwhile, which it answers by the variables of that time, the command is executed anew. Without a word, as when
the owner is gone, this process ends.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import runpy
import sys
import time
from collections.abc import Callable

IMPORTED = "evalflow: imported ahead in"  # this process says so, in its log
_HERE = os.path.dirname(os.path.abspath(__file__))


def give_way() -> Callable[[], None]:
    """Lower the priority of this process and of all that it starts; returns what raises this one's again."""
    place = os.path.join(os.path.dirname(_HERE), "worker", "priority.py")
    spec = importlib.util.spec_from_file_location("evalflow_priority", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    restore: Callable[[], None] = module.give_way()
    return restore


def main() -> None:
    began = time.monotonic()
    before = os.getpriority(os.PRIO_PROCESS, 0)
    restore = give_way()
    # Run by its path, a file of ours named like the engine would be found in the engine's place.
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _HERE]
    ahead, spawned, preload = sys.argv[1:]
    sys.path.append(os.path.join(_HERE, "inside"))
    fork_server = importlib.import_module("evalflow_fork_server")
    fork_server.import_all(ahead)
    # Last: with the variables that imports have set, as what is spawned has them.
    server = fork_server.begin(spawned, preload) if spawned else None
    print(f"{IMPORTED} {time.monotonic() - began:.1f} s", flush=True)
    line = sys.stdin.readline()
    if not line:
        os._exit(1)
    word = json.loads(line)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for name, value in word["variables"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    restore()
    argv = word["argv"]
    if fork_server.knows_devices():
        os.execv(argv[0], argv)
    if server is not None and os.getpriority(os.PRIO_PROCESS, 0) == before:
        os.setpriority(os.PRIO_PROCESS, server, before)
    sys.argv = argv[1:]
    sys.path.insert(0, os.path.dirname(argv[1]))
    runpy.run_path(argv[1], run_name="__main__")


if __name__ == "__main__":
    main()
