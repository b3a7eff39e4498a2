"""VLMEvalKit for real: a small vision-language model on vLLM, asked with images and judged by a real model.

The two share one server, and what they say means little: what is tested is that images get there, that each of the
named datasets and one of our own is scored, and that whoever reads EvalScope's results finds these.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import vlm_data
from evalscope.report import Report
from test_service import ask, items, running
from vlm_runs import Outcome, run

from evalscope_evalflow import Endpoint
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ExitCode

pytestmark = pytest.mark.real
LETTERS = [name for name in (vlm_data.CUSTOM, *vlm_data.NAMED) if name != "MathVerse_MINI"]
IMAGE_TOKENS = 16


@pytest.fixture(scope="module")
def lmu_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The datasets, where VLMEvalKit looks for them."""
    folder = tmp_path_factory.mktemp("LMUData")
    vlm_data.write_all(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMUData", str(folder))
        yield folder


def _task(vllm: Endpoint, env: Path, work: Path, datasets: list[str], says: list[str], **more: Any) -> Task:
    """A task whose judge, however small, replies with one of a few words."""
    judge = {
        "model_id": vllm.model, "api_url": vllm.api_url, "api_key": vllm.api_key,
        "generation_config": {"max_tokens": 4, "extra_body": {"structured_outputs": {"choice": says}}},
    }  # fmt: skip
    return Task.parse(
        {
            "model": vllm.model, "api_url": f"{vllm.api_url}/chat/completions", "api_key": vllm.api_key,
            "datasets": datasets, "work_dir": str(work), "eval_batch_size": 8, "judge": {"models": [judge]},
            "generation_config": {"max_tokens": 4, "temperature": 0.0},
            "evalflow": {
                "backend": "VLMEvalKit", "worker_env": str(env), "verify_md5": False, "deploy": {"engine": "remote"},
                "judge_max_num_seqs": 8, **more,
            },
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def letters(
    lmu_data: Path, vllm: Endpoint, vlmeval_env: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Task, Outcome]:
    """Every dataset whose judge says a letter."""
    asked = _task(vllm, vlmeval_env, tmp_path_factory.mktemp("runs") / "letters", LETTERS, ["A", "B", "C", "D"])
    return asked, run(asked)


def test_images_reach_the_model(vllm: Endpoint) -> None:
    def tokens(*parts: dict[str, Any]) -> int:
        answer = vllm.client().chat.completions.create(
            model=vllm.model, messages=[{"role": "user", "content": list(parts)}], max_tokens=1
        )
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    text = {"type": "text", "text": "What is this?"}
    url = f"data:image/png;base64,{vlm_data.image(1)}"
    image = {"type": "image_url", "image_url": {"url": url}}
    assert tokens(image, text) - tokens(text) >= IMAGE_TOKENS
    assert tokens(image, image, text) - tokens(image, text) >= IMAGE_TOKENS


@pytest.mark.parametrize("dataset", LETTERS)
def test_a_dataset_is_scored_with_every_verdict(letters: tuple[Task, Outcome], dataset: str) -> None:
    _, found = letters
    cell = found.cells[dataset]
    assert cell.complete, cell.notes
    assert cell.requested == cell.answered == cell.judged == cell.metrics[0].samples == vlm_data.ROWS[dataset]
    assert cell.metrics[0].score is not None
    assert 0 <= cell.metrics[0].score <= 1
    assert len(cell.metrics) > 1, "its parts have scores of their own"
    assert found.code == ExitCode.COMPLETE


def test_evalscope_reads_the_reports(letters: tuple[Task, Outcome]) -> None:
    asked, found = letters
    reports = {path.stem: Report.from_json(str(path)) for path in (asked.work_dir / "reports").glob("*/*.json")}
    assert set(reports) == set(LETTERS)
    for name, report in reports.items():
        assert report.schema_version == 2
        assert report.score == found.cells[name].metrics[0].score
        assert report.num == vlm_data.ROWS[name]
        assert report.judge_summary is not None
        assert report.judge_summary.judge_models == ["smol"]


def test_evalscope_service_shows_every_run_and_score_of_both_backends(
    letters: tuple[Task, Outcome], vllm: Endpoint, stock_task: dict[str, Any], tmp_path: Path
) -> None:
    asked, found = letters
    outputs = asked.work_dir.parent
    text = {**stock_task, "model": vllm.model, "api_url": vllm.api_url, "api_key": vllm.api_key}
    section = {"backend": "Native", "deploy": {"engine": "remote"}}
    native = run(Task.parse({**text, "work_dir": str(outputs / "native"), "evalflow": section}))
    assert native.code == ExitCode.COMPLETE
    with running(outputs, tmp_path) as url:
        shown = items(ask(f"{url}/api/v1/reports?root_path={outputs}"))
    scores: dict[str, dict[str, float]] = {}
    for item in shown:
        for part in item["primary_metrics"]:
            scores.setdefault(item.get("run_id") or item["name"], {})[part["dataset_name"]] = part["score"]
    assert scores == {
        run_id: {name: cell.metrics[0].score for name, cell in outcome.cells.items()}
        for run_id, outcome in (("letters", found), ("native", native))
    }


def test_a_second_run_starts_nothing(letters: tuple[Task, Outcome]) -> None:
    asked, found = letters
    events = asked.work_dir / "evalflow" / "events.jsonl"
    before = events.read_text()
    assert run(asked).scores == found.scores
    added = [json.loads(line)["event"] for line in events.read_text()[len(before) :].splitlines()]
    assert "WorkerImported" not in added


def test_mathverse_in_two_phases(lmu_data: Path, vllm: Endpoint, vlmeval_env: Path, tmp_path: Path) -> None:
    """Answers now, without a judge; verdicts later. Its judge first says what the answer is, and then 0 or 1."""
    asked = _task(vllm, vlmeval_env, tmp_path / "work", ["MathVerse_MINI"], ["0", "1"], mode="infer")
    first = run(replace(asked, stock={name: value for name, value in asked.stock.items() if name != "judge"}))
    assert first.code == ExitCode.COMPLETE
    assert first.cells["MathVerse_MINI"].answered == vlm_data.ROWS["MathVerse_MINI"]
    assert not list((tmp_path / "work").rglob("*_extract.pkl"))
    judged = run(_task(vllm, vlmeval_env, tmp_path / "work", ["MathVerse_MINI"], ["0", "1"], mode="judge"))
    cell = judged.cells["MathVerse_MINI"]
    assert judged.code == ExitCode.COMPLETE, cell.notes
    assert cell.metrics[0].samples == vlm_data.ROWS["MathVerse_MINI"]
    assert {"Vision Only", "Text Lite"} <= {
        part for metric in cell.metrics for part in metric.name.strip(")").split("(")[-1].split(", ")
    }
