"""The wheel and the sdist hold what they must, and could be published."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

import evalscope_evalflow

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[3]
SHIM = {
    "evalscope_evalflow_startup.py",
    "evalscope_evalflow_startup.pth",
    "evalscope_evalflow_startup.start",
}
REQUIRED = {
    *SHIM,
    "evalscope_evalflow/py.typed",
    "evalscope_evalflow/_demo/mcq/demo_val.jsonl",
    "evalscope_evalflow/_demo/qa/demo.jsonl",
    "evalscope_evalflow/processes/guard.py",
    "evalscope_evalflow/testing/engine_suite.py",
}
TEMPLATES = {
    str(path.relative_to(ROOT)) for path in (ROOT / "evalscope_evalflow" / "results" / "html" / "templates").iterdir()
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that is built from it."""
    target = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", target, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture(scope="module")
def wheel(packages: Path) -> Path:
    return next(packages.glob("*.whl"))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as files:
        name = next(name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(files.read(name))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
    assert names >= REQUIRED
    assert len(TEMPLATES) >= 3
    assert names >= TEMPLATES
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "evalscope_evalflow").rglob("*.py")}
    assert modules - names == {"evalscope_evalflow/plugin/startup.py"}  # it is installed as the shim's module
    tops = {name.split("/")[0] for name in names}
    dist_info = {name for name in tops if name.endswith(".dist-info")}
    assert len(dist_info) == 1
    assert tops - dist_info == {"evalscope_evalflow", *SHIM}


def test_the_sdist_holds_what_its_tests_and_docs_need(packages: Path) -> None:
    with tarfile.open(next(packages.glob("*.tar.gz"))) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    needed = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "mkdocs.yml", "pyproject.toml"]
    assert names >= {*needed, "docs/index.md", "docs/reference_tables.py", "examples/vllm.yaml", "tests/conftest.py"}
    assert names >= TEMPLATES
    assert not [name for name in names if "__pycache__" in name or name.startswith(("outputs/", "site/", ".venv/"))]


def test_twine_finds_nothing_wrong(packages: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *packages.iterdir()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_metadata_says_what_it_is(metadata: Message) -> None:
    assert metadata["Version"] == evalscope_evalflow.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).startswith("# EvalFlow")
    assert {"vllm", "lmdeploy", "vlmeval", "llamacpp", "demo", "docs", "test"} <= set(
        metadata.get_all("Provides-Extra", [])
    )
    assert metadata.get_all("Project-URL") is None  # it has no public address yet


def test_the_changelog_has_the_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == evalscope_evalflow.__version__
