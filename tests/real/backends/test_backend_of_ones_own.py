"""The backend that docs/contributing/add-a-backend.md shows passes the conformance suite, and runs by the command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from evalscope_evalflow import Endpoint
from evalscope_evalflow.testing.backend_suite import BackendConformance

pytestmark = pytest.mark.real
DOCUMENT = Path(__file__).parents[3] / "docs" / "contributing" / "add-a-backend.md"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, as if they were installed."""
    folder = tmp_path_factory.mktemp("package")
    blocks = re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```', DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    files = dict(blocks)
    assert len(blocks) == len(files) == 5
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (folder / "evalflow_flashcards" / "__init__.py").write_text("")
    entry = re.search(r'^\[project\.entry-points\."(.+?)"\]\n(\w+) = "(.+?)"', files["pyproject.toml"], re.MULTILINE)
    assert entry is not None
    metadata = folder / "evalflow_flashcards-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: evalflow-flashcards\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{entry[1]}]\n{entry[2]} = {entry[3]}\n")
    return folder


def test_it_passes_the_conformance_suite(package: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--junitxml=report.xml", "test_flashcards.py"],
        cwd=package, env={**os.environ, "PYTHONPATH": str(package)}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    ran = {str(case.get("name")) for case in ElementTree.parse(package / "report.xml").iter("testcase")}
    assert ran == {name for name in dir(BackendConformance) if name.startswith("test_")}


def test_the_command_runs_its_task(package: Path, llamacpp: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(
        (package / "task.yaml").read_text().replace("http://127.0.0.1:8000/v1", llamacpp.api_url)
    )
    rows = [{"id": str(number), "question": "Say Paris.", "answer": "Paris"} for number in range(3)]
    (tmp_path / "capitals.cards.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    done = subprocess.run(
        [sys.executable, "-m", "evalscope_evalflow", "run", "task.yaml"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(package), "MY_KEY": llamacpp.api_key or "none"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "flashcards" / "capitals.report.json").read_text())
    assert (report["scored"], report["requested"]) == (3, 3)
    record = json.loads((tmp_path / "out" / "evalflow" / "run.json").read_text())
    assert record["state"] == "complete"
    assert record["results"]["capitals"]["metrics"] == {"exact_match": report["score"]}
