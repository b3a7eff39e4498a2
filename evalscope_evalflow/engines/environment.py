"""The Python environments that engines and workers live in: conda prefixes, venvs, uv environments.

They are entered without `conda run`, which leaves its children alive when it is killed and takes 2.4 s: the
environment's own interpreter is executed, with PATH and the variables that activation would set.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Of another environment's Python, and misleading in this one.
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONSTARTUP", "__PYVENV_LAUNCHER__")


@dataclass(frozen=True)
class Environment:
    """A Python environment.

    Attributes:
        prefix: its folder.
        python: its interpreter.
        own: whether it is the one that runs this.
    """

    prefix: Path
    python: Path
    own: bool = False

    @classmethod
    def find(cls, where: str | None) -> Environment:
        """The environment in a folder, or behind an interpreter; this one for None.

        Raises:
            FileNotFoundError: there is no interpreter; the message says where it was looked for.
        """
        if where is None:
            return cls(Path(sys.prefix), Path(sys.executable), own=True)
        path = Path(os.path.abspath(os.path.expanduser(where)))  # not resolved: a venv's python is a link
        if path.is_file() and os.access(path, os.X_OK):
            return cls(path.parent.parent, path)
        if not path.is_dir():
            raise FileNotFoundError(f"no environment {where}: there is no such folder")
        python = path / "bin" / "python"
        if not os.access(python, os.X_OK):
            raise FileNotFoundError(f"no environment {where}: it has no bin/python")
        return cls(path, python)

    @property
    def is_conda(self) -> bool:
        """Whether conda made it."""
        return (self.prefix / "conda-meta").is_dir()

    def has_module(self, name: str) -> bool:
        """Whether a top-level module can be found there. Nothing is imported."""
        if self.own:
            return importlib.util.find_spec(name) is not None
        code = f"import importlib.util as u, sys; sys.exit(u.find_spec({name!r}) is None)"
        try:
            done = subprocess.run(
                [str(self.python), "-c", code],
                env=self.variables(os.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=60,
                cwd="/",
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    def variables(self, base: Mapping[str, str]) -> dict[str, str]:
        """The variables of a process in this environment, made from those of this process."""
        env = dict(base)
        if self.own:
            env["PATH"] = f"{self.python.parent}{os.pathsep}{env.get('PATH', os.defpath)}"
            return env
        for name in _FOREIGN:
            env.pop(name, None)
        env["PATH"] = f"{self.prefix / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
        env["CONDA_PREFIX" if self.is_conda else "VIRTUAL_ENV"] = str(self.prefix)
        env["PYTHONSAFEPATH"] = "1"
        return env

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """A command, run after the environment's activation scripts, if it has any."""
        scripts = self.prefix / "etc" / "conda" / "activate.d"
        if self.own or not any(scripts.glob("*.sh")):
            return list(argv)
        source = 'for script in "$0"/*.sh; do . "$script"; done; exec "$@"'
        return ["bash", "-c", source, str(scripts), *argv]
