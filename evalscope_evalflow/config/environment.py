"""The Python environments that engines and workers live in: conda prefixes, venvs, uv environments, plain interpreters.

They are entered without `conda run`, which leaves its children alive when it is killed and takes 2.4 s: the
environment's own interpreter is executed, with PATH and the variables that activation would set.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from evalscope_evalflow.config.one_pass import remembered
from evalscope_evalflow.config.user_paths import user_path

# Of another environment's Python, and misleading in this one.
_FOREIGN = (
    "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "__PYVENV_LAUNCHER__", "VIRTUAL_ENV",
    "VIRTUAL_ENV_PROMPT", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_PROMPT_MODIFIER", "CONDA_SHLVL", "BASH_ENV",
)  # fmt: skip
_MISSING = 3  # exit code of an interpreter that has looked for a module in vain


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
        """The environment in a folder, or behind an interpreter, or that conda knows by a name; this one for None.

        Raises:
            FileNotFoundError: there is no interpreter; the message says where it was looked for.
        """
        if where is None:
            return cls(Path(sys.prefix), Path(sys.executable), own=True)
        return remembered(("environment", where), lambda: cls._find(where))

    @classmethod
    def _find(cls, where: str) -> Environment:
        path = Path(os.path.abspath(os.path.expanduser(where)))  # not resolved: a venv's python is a link
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return cls(path.parent.parent, path)
        if not os.path.exists(path) and os.sep not in where:
            path = next((folder for folder in conda_prefixes() if folder.name == where), path)
        if os.path.isfile(path):
            raise FileNotFoundError(f"no environment {where}: that file is no program that may be run")
        if not os.path.isdir(path):
            known = "" if os.sep in where else "; nor does conda know an environment of that name"
            raise FileNotFoundError(f"no environment {where}: there is no such folder{known}")
        names = ("python", "python3")  # a system's own prefix may have the second alone
        found = [path / "bin" / name for name in names if os.access(path / "bin" / name, os.X_OK)]
        if not found:
            inside = "; did you mean its .venv?" if os.path.exists(path / ".venv" / "bin" / "python") else ""
            raise FileNotFoundError(f"no environment {where}: it has no bin/python{inside}")
        return cls(path, found[0])

    @property
    def is_conda(self) -> bool:
        """Whether conda made it."""
        return os.path.isdir(self.prefix / "conda-meta")

    @property
    def is_venv(self) -> bool:
        """Whether venv, virtualenv or uv made it."""
        return os.path.isfile(self.prefix / "pyvenv.cfg")

    @property
    def installer(self) -> str:
        """The beginning of a command that installs packages there; uv's environments have no pip of their own."""
        if self.has_module("pip"):
            return f"{self.python} -m pip install"
        return f"uv pip install --python {self.python}"

    def has_module(self, name: str) -> bool:
        """Whether a top-level module can be found there. Nothing is imported."""
        return self.why_no_module(name) is None

    def why_no_module(self, name: str) -> str | None:
        """Why a top-level module cannot be had there, in words; None if it can. Nothing is imported."""
        missing = f"its interpreter {self.python} finds no module {name!r}"
        if self.own:
            return None if importlib.util.find_spec(name) is not None else missing
        code = f"import importlib.util as u, sys; sys.exit({_MISSING} * (u.find_spec({name!r}) is None))"
        try:
            done = subprocess.run(
                [str(self.python), "-c", code],
                env=self.variables(os.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=60,
                cwd="/",
            )
        except OSError as error:
            return f"its interpreter {self.python} cannot be run: {error.strerror or error}"
        except subprocess.TimeoutExpired:
            return f"its interpreter {self.python} did not start within a minute"
        if done.returncode in (0, _MISSING):
            return missing if done.returncode else None
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return f"its interpreter {self.python} fails ({done.returncode}){': ' + said[-1] if said else ''}"

    def file_of(self, package: str, name: str) -> Path | None:
        """A file of a package that is installed there; None if it is not found. Nothing is run or imported."""
        if self.own:
            spec = importlib.util.find_spec(package)
            folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
        else:
            folders = sorted(self.prefix.glob(f"lib/python3*/site-packages/{package}"))
        return next((folder / name for folder in folders if os.path.isfile(folder / name)), None)

    def version_of(self, distribution: str) -> str | None:
        """The version of an installed distribution; None if its metadata are not found there.

        Read from the name of its metadata's folder (`NAME-VERSION.dist-info`): no interpreter is started.
        """
        found = self.dist_info(distribution)
        return version_in(found) if found else None

    def dist_info(self, distribution: str) -> Path | None:
        """The folder with the metadata of an installed distribution; None if it is not found. Nothing is run."""
        return remembered(("distribution", self, distribution), lambda: self._dist_info(_normalised(distribution)))

    def _dist_info(self, wanted: str) -> Path | None:
        for folder in self.package_folders:
            for found in folder.glob("*.dist-info"):
                if _normalised(found.name.removesuffix(".dist-info").rpartition("-")[0]) == wanted:
                    return found
        return None

    @property
    def package_folders(self) -> list[Path]:
        """Where its packages are installed; nothing is run to find out."""
        return remembered(("package folders", self), self._package_folders)

    def _package_folders(self) -> list[Path]:
        if self.own:
            return [Path(folder) for folder in sys.path if folder]
        pattern = "lib*/python3*/*-packages"  # Debian's own Python has dist-packages
        folders = sorted(self.prefix.glob(pattern))
        with suppress(OSError):
            lines = (self.prefix / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
            settings = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
            if settings.get("include-system-site-packages", "").lower() == "true" and settings.get("home"):
                folders += sorted(Path(settings["home"]).parent.glob(pattern))
        for folder in tuple(folders):  # as `site` does: a line of a .pth file is a folder, or code
            for listed in sorted(folder.glob("*.pth")):
                with suppress(OSError, UnicodeDecodeError):
                    lines = listed.read_text(encoding="utf-8").splitlines()
                    folders += [folder / line for line in lines if line and not line.startswith(("#", "import "))]
        return folders

    def variables(self, base: Mapping[str, str]) -> dict[str, str]:
        """The variables of a process in this environment, made from those of this process."""
        env = dict(base)
        if self.own:
            env["PATH"] = f"{self.python.parent}{os.pathsep}{env.get('PATH', os.defpath)}"
            return env
        for name in _FOREIGN:
            env.pop(name, None)
        env["PATH"] = f"{self.prefix / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
        if self.is_conda:
            env.update(CONDA_PREFIX=str(self.prefix), CONDA_DEFAULT_ENV=self.prefix.name, CONDA_SHLVL="1")
        elif self.is_venv:
            env["VIRTUAL_ENV"] = str(self.prefix)
        env["PYTHONSAFEPATH"] = "1"
        return env

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """A command, run after the environment's activation scripts, if it has any."""
        scripts = self.prefix / "etc" / "conda" / "activate.d"
        if self.own or not any(scripts.glob("*.sh")):
            return list(argv)
        source = 'for script in "$0"/*.sh; do . "$script"; done; exec "$@"'
        return ["bash", "-c", source, str(scripts), *argv]


def version_in(dist_info: Path) -> str:
    """The version of a distribution, from the name of its metadata's folder, `NAME-VERSION.dist-info`."""
    return dist_info.name.removesuffix(".dist-info").rpartition("-")[2]


def _normalised(distribution: str) -> str:
    """A distribution's name in the form in which names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def conda_prefixes() -> list[Path]:
    """The environments that conda or mamba has written down for this user, and those where it keeps them.

    Read from files: asking conda itself takes a second.
    """
    found = []
    with suppress(OSError):
        lines = user_path("~/.conda/environments.txt").read_text(encoding="utf-8").splitlines()
        found += [Path(line.strip()) for line in lines if line.strip()]
    roots = [Path(item) for item in os.environ.get("CONDA_ENVS_PATH", "").split(os.pathsep) if item]
    active = os.environ.get("CONDA_PREFIX")
    if active:
        roots += [Path(active) / "envs", Path(active).parent]
    conda = os.environ.get("CONDA_EXE") or os.environ.get("MAMBA_EXE")
    if conda:
        roots.append(Path(conda).parent.parent / "envs")
    if os.environ.get("MAMBA_ROOT_PREFIX"):
        roots.append(Path(os.environ["MAMBA_ROOT_PREFIX"]) / "envs")
    for root in roots:
        with suppress(OSError):
            found += sorted(root.iterdir())
    return [path for path in dict.fromkeys(found) if os.path.isdir(path / "conda-meta")]
