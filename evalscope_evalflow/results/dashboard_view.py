"""All runs below a folder in EvalScope's dashboard, which itself sees only runs directly below one folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.results.run_folders import RunFolder

LOOPBACK = "127.0.0.1"
PORT = 9000


@contextmanager
def dashboard_view(top: Path, runs: Sequence[RunFolder]) -> Iterator[Path]:
    """A folder of links to run folders, as EvalScope's service reads one. It is removed at the end of the block.

    Args:
        top: the folder that the runs are below.
        runs: the run folders; `a/b` becomes `a--b`, as the service takes no slash.
    """
    with tempfile.TemporaryDirectory(prefix="evalflow-dashboard-") as name:
        view = Path(name)
        for run in runs:
            relative = os.path.relpath(run.folder.resolve(), top.resolve())
            link = (
                "--".join(part for part in Path(relative).parts if part not in (".", "..")) or run.folder.resolve().name
            )
            (view / link).symlink_to(run.folder.resolve(), target_is_directory=True)
        yield view


def serve(top: Path, runs: Sequence[RunFolder], port: int = PORT) -> None:
    """Show runs in EvalScope's dashboard, on this machine alone, until Ctrl-C.

    Args:
        top: the folder that the runs are below.
        runs: the run folders.
        port: the port on the loopback address.

    Raises:
        ConfigError: the service's packages are not installed.
    """
    if find_spec("flask") is None:
        raise ConfigError(
            Problem("--browser", "EvalScope's service is not installed", "pip install 'evalscope[service]'")
        )
    with dashboard_view(top, runs) as view:
        service = ["service", "--host", LOOPBACK, "--port", str(port), "--outputs", str(view)]
        with suppress(KeyboardInterrupt):  # that is how one ends it
            subprocess.run([sys.executable, "-m", "evalscope.cli.cli", *service], check=False)
