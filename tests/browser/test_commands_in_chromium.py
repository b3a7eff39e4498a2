"""`show` and `compare` of runs whose answers, prompts and names are hostile, looked at in a real browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import made_report
import pytest

from evalscope_evalflow.cli.command_line import main

pytestmark = pytest.mark.browser

RUN = Path(__file__).parents[1] / "run_folders_0_1" / "complete" / "work"
NAME = "<script>window.harmed=6<!--\"'><img src=x onerror=window.harmed=7>"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two runs that were asked the same: one of a usual name, and one of a hostile name with hostile answers."""
    top = tmp_path_factory.mktemp("runs")
    for name, folder in (("smol", top / "usual"), (NAME, top / "hostile")):
        shutil.copytree(RUN, folder)
        record = folder / "evalflow" / "run.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "model": name}))
        for kind in ("predictions", "reviews", "reports"):
            (folder / kind / "smol").rename(folder / kind / name)
        for path in folder.glob("reviews/*/*.jsonl"):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            rows[0]["messages"][1]["content"] = made_report.HOSTILE
            if name == NAME:
                rows[0]["messages"][-1]["content"] = made_report.HOSTILE
                score = rows[0]["sample_score"]["score"]
                score["explanation"] = score["extracted_prediction"] = made_report.HOSTILE
                score["value"] = dict.fromkeys(score["value"], 0.0)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(top / "usual"), str(top / "hostile")]


@pytest.mark.parametrize("command", ["show", "compare"])
def test_a_hostile_run_does_no_harm(browser, folders, tmp_path, command):
    path = tmp_path / "report.html"
    given = [str(Path(folders[0]).parent)] if command == "show" else folders
    assert main([command, *given, "--format", "html", "--output", str(path)]) == 0
    browser.open(path)
    browser.run("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert browser.run("return window.harmed") is None
    assert browser.messages() == []
    assert [url for url in browser.requests() if not url.startswith("data:")] == [path.as_uri()]
    assert browser.run("return document.images.length + document.body.querySelectorAll('script').length") == 2
    assert NAME in browser.run("return document.getElementById('scores-table').innerText")
    texts = browser.run("return [...document.querySelectorAll('#sample-list pre')].map(item => item.textContent)")
    assert sum(made_report.HOSTILE in text for text in texts) >= 4  # two prompts, an answer, what was extracted
    assert browser.run("return document.querySelectorAll('#scores ~ .plots figure svg').length") == 2
    assert bool(browser.run("return document.getElementById('comparison')")) == (command == "compare")
