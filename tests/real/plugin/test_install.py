"""Installing attaches, uninstalling leaves no trace: wheel and editable, pip and uv."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[3]
UV = Path(sys.executable).parent / "uv"
ASK = (
    "import evalscope.arguments as a, argparse, evalscope.run\n"
    "p = argparse.ArgumentParser(); a.add_argument(p)\n"
    "print('evalflow' in next(x for x in p._actions if '--eval-backend' in x.option_strings).choices)"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from its sdist, so that both are complete."""
    target = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", target, ROOT], check=True, capture_output=True, timeout=300
    )
    return next(target.glob("*.whl"))


def _environment(folder: Path) -> Path:
    """A fresh environment that sees this one's packages by path, and so not what is attached at their start."""
    venv.create(folder, with_pip=True)
    packages = next(folder.glob("lib/python3*/site-packages"))
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def _files(python: Path) -> set[str]:
    root = python.parent.parent
    return {
        str(path.relative_to(root)) for path in root.rglob("*") if "__pycache__" not in path.parts and path.is_file()
    }


@pytest.mark.parametrize("editable", [False, True], ids=["wheel", "editable"])
@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_install_and_uninstall(installer: str, editable: bool, wheel: Path, tmp_path: Path) -> None:
    python = _environment(tmp_path / "env")
    # The borrowed packages hold this project too, as metadata; its start-up shim is not among what they run.
    before = _files(python)
    tool = [python, "-m", "pip"] if installer == "pip" else [UV, "pip"]
    where = [] if installer == "pip" else ["--python", python]
    what = ["--editable", ROOT] if editable else [wheel]
    _run(*tool, "install", *where, "--no-deps", *what)
    assert _attached(python)
    assert not _attached(python, EVALFLOW_DISABLE="1")
    assert (
        _run(
            python,
            "-c",
            "from evalscope_evalflow.cli import demo; print([p.name for p in demo.data_folder().glob('*/*.jsonl')])",
        ).stdout.count(".jsonl")
        == 2
    )
    assert (python.parent / "evalflow").exists()
    doctor = subprocess.run([python.parent / "evalflow", "doctor"], capture_output=True, text=True, check=False)
    assert "attaches to EvalScope at every start of this Python" in doctor.stdout, doctor.stderr
    quiet = [] if installer == "uv" else ["--yes"]
    _run(*tool, "uninstall", *where, *quiet, "evalscope-evalflow")
    assert _files(python) - {".lock"} == before  # uv locks an environment, and leaves the lock
    assert not _attached(python)


def _attached(python: Path, **env: str) -> bool:
    return _run(python, "-c", ASK, **env).stdout.strip().endswith("True")


def _run(*command: object, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd="/", timeout=300, check=False,
        env={**os.environ, **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done
