"""What a notebook's cell shows of a run: in a real kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.real

CODE = """
import json, logging
from evalscope.run import run_task
found = run_task(json.loads({task!r}))
"""


def test_a_cell_shows_a_line_that_is_updated_and_a_few_lines_of_text(
    stock_task: dict[str, Any], gguf: Path, tmp_path: Path
) -> None:
    models = [{"name": name, "path": str(gguf)} for name in ("one", "two")]
    section = {"backend": "Native", "models": models, "deploy": {"engine": "llamacpp", "max_model_len": 512}}
    code = CODE.format(task=json.dumps({**stock_task, "limit": 4, "evalflow": section}))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (code, "found")])
    NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    ran, shown = notebook.cells
    said = "".join(output["text"] for output in ran.outputs if output.output_type == "stream")
    assert len(said.splitlines()) < 20
    assert len(said) < 3000
    assert "HTTP Request" not in said
    assert "one: llamacpp is ready at" in said
    (line,) = [output for output in ran.outputs if output.output_type == "display_data"]
    assert line["data"]["text/plain"].startswith("2 models, ")
    assert line["data"]["text/plain"].endswith("2 done")
    (table,) = shown.outputs
    assert table["data"]["text/html"].count("<tr>") == 3
    assert table["data"]["text/plain"].splitlines()[1].startswith("one ")
    work = Path(stock_task["work_dir"]) / "one" / "evalflow"
    events = [json.loads(text) for text in (work / "events.jsonl").read_text().splitlines()]
    counted = [event for event in events if event["event"] == "DatasetProgress" and event["ended"]]
    assert [(event["judging"], event["done"], event["total"]) for event in counted] == [(False, 4, 4), (True, 4, 4)]
    cost = json.loads((work / "run.json").read_text())["cost"]
    assert cost["output_tokens"] == counted[0]["output_tokens"] > 0
    assert cost["held_s"] == pytest.approx(cost["loading_s"] + cost["answering_s"] + cost["idle_s"], abs=0.05)
    assert cost["cells"]["general_mcq"]["answering_s"] > 0
