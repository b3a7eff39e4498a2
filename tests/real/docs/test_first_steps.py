"""What README.md and docs/getting-started.md have a new user do, done as it is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import all_blocks

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent
QUESTIONS = "questions/capitals.jsonl"


def _texts(page: str, language: str) -> list[str]:
    return [block.text for block in all_blocks(language) if block.page == page]


@pytest.fixture
def home(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the demo's model where the demo puts it."""
    models = tmp_path / "home" / ".cache" / "evalflow" / "models"
    models.mkdir(parents=True)
    (models / gguf.name).symlink_to(gguf)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / ".venv").symlink_to(BIN.parent)
    return tmp_path


def _shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-e", "-c", script], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def _write_questions(page: str, folder: Path) -> None:
    path = folder / QUESTIONS
    path.parent.mkdir()
    path.write_text(_texts(page, "jsonl")[0])


def test_the_readmes_own_questions(home: Path) -> None:
    _write_questions("README.md", home)
    command = next(text for text in _texts("README.md", "bash") if "--datasets general_qa" in text)
    done = _shell(command, home)
    assert done.returncode == 0, done.stderr
    assert "2/2" in done.stdout
    assert "1.0000" in done.stdout


def test_getting_started(home: Path) -> None:
    page = "docs/getting-started.md"
    _write_questions(page, home)
    task = home / "capitals.yaml"
    task.write_text(_texts(page, "yaml")[0])
    commands = next(text for text in _texts(page, "bash") if "evalflow run capitals.yaml" in text)
    first = _shell(commands, home)
    assert first.returncode == 0, first.stderr
    assert "2/2" in first.stdout
    again = _shell("evalflow run capitals.yaml", home)
    assert again.returncode == 0, again.stderr
    assert "nothing was started" in again.stderr
    task.write_text(task.read_text().replace("max_tokens: 16", "max_tokens: 8"))
    changed = _shell("evalflow run capitals.yaml", home)
    assert changed.returncode == 2, changed.stderr
    assert "max_tokens" in changed.stderr
