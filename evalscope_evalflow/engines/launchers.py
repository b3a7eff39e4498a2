"""How engines that are Python programs are started: with a key that no argument shows, and ahead of their turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evalscope_evalflow.config.environment import Environment

STANDBY_LAUNCHER = Path(__file__).with_name("standby_launcher.py")


@dataclass(frozen=True)
class ImportsAhead:
    """Modules that an engine imports whatever it serves; those that a version lacks are passed over.

    Attributes:
        own: of the server's process.
        spawned: of the processes that it spawns with multiprocessing.
        preload: patterns of libraries below the folder of packages, alternatives by `|`: where the engine computes on
            processors, it sets LD_PRELOAD to the first of each for what it spawns.
        room_bytes: memory that they take, in all processes.
    """

    own: tuple[str, ...]
    spawned: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    room_bytes: int = 4 << 30


def standby_argv(env: Environment, ahead: ImportsAhead) -> list[str]:
    """A command that imports these modules, and then waits to become an engine (see standby_launcher.py)."""
    names = (",".join(part) for part in (ahead.own, ahead.spawned, ahead.preload))
    return [str(env.python), str(STANDBY_LAUNCHER), *names]


def key_launcher(env: Environment, option: str, program: str) -> list[str]:
    """The beginning of the command of a server that takes its key only as an argument, which everybody could read.

    The launcher runs the server in the same process, and hands it the key of the variable `KEY_VARIABLE`.

    Args:
        env: environment that has the server; it need not have EvalFlow.
        option: the server's option for its key, without dashes, such as "api-key"; "api-keys+" for one that takes
            several. The server has to use argparse.
        program: "package.module" that is run as with `python -m`, or "package.module:function" that is called.
    """
    return [str(env.python), str(Path(__file__).with_name("key_launcher.py")), option, program]
