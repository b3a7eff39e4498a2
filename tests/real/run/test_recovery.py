"""Recovery in mid-run, with EvalScope itself: on a server that fails as it is told, and on llama.cpp.

Whatever happens to the engine, the answers are those of a run that nothing happened to; and what could not be
answered is no answer, is named, and is asked again only where that can help.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from evalscope_evalflow import Endpoint

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent
SCRIPTED = Path(__file__).resolve().parents[2] / "scripted"
POISON = "A) stone"  # stands in the question of one sample of the eight, the one with index 2
ITEMS = 8


class Run:
    """One `evalflow run` in a folder.

    Attributes:
        code: its exit code.
        said: all that it printed.
        work: the run folder.
    """

    def __init__(self, task: dict[str, Any], folder: Path) -> None:
        file = folder / "task.yaml"
        file.write_text(yaml.safe_dump(task))
        env = {**os.environ, "PYTHONPATH": str(SCRIPTED), "COLUMNS": "300"}
        done = subprocess.run(
            [BIN / "evalflow", "run", file], capture_output=True, text=True, timeout=240, check=False, env=env
        )
        self.code, self.said, self.work = done.returncode, done.stdout + done.stderr, Path(task["work_dir"])
        (folder / "said.txt").write_text(self.said)

    @property
    def answers(self) -> dict[int, str]:
        """What was answered, by the sample's index; each of them once."""
        found: dict[int, str] = {}
        for path in self.work.glob("predictions/*/*.jsonl"):
            for item in map(json.loads, path.read_text().splitlines()):
                assert item["index"] not in found, "answered twice"
                found[item["index"]] = item["model_output"]["choices"][0]["message"]["content"]
        return found

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The lines of failures.jsonl."""
        path = self.work / "evalflow" / "failures.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.work / "evalflow" / "run.json").read_text())
        return record

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = self.record["results"]["general_mcq"]
        return found


@pytest.fixture
def scripted(stock_task: dict[str, Any], tmp_path: Path) -> Any:
    """Runs the task with the scripted engine, with these arguments for its server."""

    def run(*arguments: str, work: str = "work", generation: dict[str, Any] | None = None, **deploy: Any) -> Run:
        task = {
            **stock_task,
            "model": "any",
            "model_id": "m",
            "work_dir": str(tmp_path / work),
            "generation_config": {"max_tokens": 6, "temperature": 0.0, "retries": 1, **(generation or {})},
            "evalflow": {
                "backend": "Native",
                "deploy": {"engine": "scripted", "extra_args": list(arguments), "max_restarts": 4, **deploy},
            },
        }
        return Run(task, tmp_path)

    return run


@pytest.fixture(scope="session")
def undisturbed() -> dict[int, str]:
    """The answers of the scripted server, filled in by the first run that nothing happens to."""
    return {}


def journal(path: Path) -> Counter[str]:
    """How often each prompt was asked, by its hash."""
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else iter(())
    return Counter(line["prompt"] for line in lines if line["prompt"])


# Each server fails at its 5th chat request, the first of which is our look whether it is ready: three answers a life.
FAULTS = {
    "dies": (["--die-after-requests", "4"], "scripted stopped in the middle of the evaluation (exit code 137"),
    "is ill": (["--sick-after", "4"], "scripted does not work any more: /health says '503"),
    "hangs": (["--hang-after", "4"], "scripted hangs: 1 requests are in flight"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_results_after_recovery_are_those_of_an_undisturbed_run(
    fault: str, scripted: Any, undisturbed: dict[int, str], tmp_path: Path
) -> None:
    if not undisturbed:
        whole = scripted(work="undisturbed")
        assert whole.code == 0, whole.said
        undisturbed.update(whole.answers)
    arguments, says = FAULTS[fault]
    run = scripted(*arguments, "--journal", str(tmp_path / "journal"), stall_timeout_s=2)
    assert run.code == 0, run.said
    assert says in run.said
    assert "starting it again (1 of 4); 3 answers are saved, 3 of them since its last start" in run.said
    assert run.answers == undisturbed
    assert len(run.answers) == ITEMS
    assert run.failures == []
    asked = journal(tmp_path / "journal")
    assert sum(asked.values()) <= ITEMS + 2 + 3  # two were lost in flight, and each start asks one
    assert run.record["release"]["released"] is True


def test_an_engine_that_a_prompt_kills_is_given_up_and_says_so(scripted: Any) -> None:
    run = scripted("--stuck-prompt", POISON, max_restarts=2)
    assert run.code == 1
    assert "starting it again (1 of 2); 2 answers are saved, 2 of them since its last start" in run.said
    assert "starting it again (2 of 2); 2 answers are saved, 0 of them since its last start" in run.said
    assert "not one answer was added since its start: a prompt that it was asked may be the cause" in run.said
    assert len(run.answers) == 2


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("openai", "context_too_long"),
        ("vllm", "context_too_long"),
        ("llamacpp", "context_too_long"),
        ("azure", "content_refused"),
    ],
)
def test_an_error_is_no_answer(form: str, kind: str, scripted: Any, tmp_path: Path) -> None:
    """EvalScope takes the text of such an error for the model's answer, and scores it."""
    arguments = ["--fail-prompt-like", f"{POISON}={form}", "--journal", str(tmp_path / "journal")]
    run = scripted(*arguments, generation={"retries": 5, "retry_interval": 10})
    words = f"1 × {kind.replace('_', ' ')} (permanent)"
    assert run.code == 3, run.said
    assert f"general_mcq is incomplete: 7 of 8 answered; {words}" in run.said
    assert len(run.answers) == ITEMS - 1
    assert run.result["failures"] == {kind: 1}
    (note,) = run.result["notes"]
    assert note.startswith(f"{words}: "), "with the server's own words"
    (failure,) = run.failures
    assert failure["kind"] == kind
    assert failure["transient"] is False
    assert (failure["dataset"], failure["subset"], failure["sample"]) == ("general_mcq", "tiny", 2)
    assert set(journal(tmp_path / "journal").values()) == {1}, "it was not asked again"


def test_what_failed_permanently_is_asked_again_only_if_its_cause_changed(scripted: Any, tmp_path: Path) -> None:
    arguments = ["--fail-prompt-like", f"{POISON}=vllm", "--journal", str(tmp_path / "journal")]
    first = scripted(*arguments)
    asked = sum(journal(tmp_path / "journal").values())
    again = scripted(*arguments)
    assert (first.code, again.code) == (3, 3)
    assert "7 of 8 answered; 1 × context too long (permanent)" in again.said
    assert sum(journal(tmp_path / "journal").values()) <= asked + 1, "at most the look whether the engine is ready"
    assert len(again.failures) == 1
    changed = scripted("--journal", str(tmp_path / "journal"), max_model_len=4096)
    assert changed.code == 0, changed.said
    assert len(changed.answers) == ITEMS
    assert changed.result["failures"] == {}


@pytest.mark.parametrize(("status", "kind"), [(500, "server_error"), (429, "rate_limited"), (503, "server_error")])
def test_what_may_work_later_is_asked_again(status: int, kind: str, scripted: Any, tmp_path: Path) -> None:
    first = scripted("--fail-prompt", f"{POISON}={status}")
    assert first.code == 3, first.said
    assert f"7 of 8 answered; 1 × {kind.replace('_', ' ')} (transient)" in first.said
    again = scripted()
    assert again.code == 0, again.said
    assert len(again.answers) == ITEMS
    assert again.result["failures"] == {}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_sample_would_survive_ends_the_run(status: int, scripted: Any, tmp_path: Path) -> None:
    run = scripted("--fail-prompt", f"{POISON}={status}")
    assert run.code == 1
    assert f"/v1/chat/completions refuses every request ({status}: " in run.said
    assert len(run.answers) == 2, "those before it are saved"


@pytest.mark.parametrize(
    ("reason", "kind"), [("content_filter", "content refused (permanent)"), ("abort", "broken off (transient)")]
)
def test_an_answer_that_was_withheld_or_broken_off_is_none(reason: str, kind: str, scripted: Any) -> None:
    run = scripted("--finish-reason", reason)
    assert run.code == 3
    assert run.answers == {}
    assert f"8 × {kind}" in run.said


def test_an_answer_at_its_length_limit_is_one(scripted: Any) -> None:
    run = scripted("--finish-reason", "length")
    assert run.code == 0, run.said
    assert len(run.answers) == ITEMS
    score = run.result["score"]
    assert (score["complete"], score["cut_off"], score["answer_kinds"]) == (True, ITEMS, {"cut_off": ITEMS})
    assert f"{ITEMS} of {ITEMS} answers were cut off at max_tokens " in run.said


def test_an_empty_answer_is_one(scripted: Any) -> None:
    run = scripted("--answer", "")
    assert run.code == 0, run.said
    assert set(run.answers.values()) == {""}
    assert run.result["score"]["empty"] == ITEMS
    assert f"{ITEMS} of {ITEMS} answers hold no text: {ITEMS} × nothing at all" in run.said


def test_a_prompt_that_is_too_long_for_llamacpp(
    stock_task: dict[str, Any], llamacpp: Endpoint, data: Path, tmp_path: Path
) -> None:
    """The run's shared server has a context of 1024 tokens."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [json.loads(line) for line in (data / "tiny_val.jsonl").read_text().splitlines()[:3]]
    lines[1]["question"] = "word " * 3000 + lines[1]["question"]
    (folder / "tiny_val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stock_task["dataset_args"]["general_mcq"]["local_path"] = str(folder)
    task = {
        **stock_task,
        "model": "smol",
        "api_url": llamacpp.api_url,
        "api_key": llamacpp.api_key,
        "evalflow": {"backend": "Native"},
    }
    run = Run(task, tmp_path)
    assert run.code == 3, run.said
    assert "2 of 3 answered; 1 × context too long (permanent)" in run.said
    assert set(run.answers) == {0, 2}
    (failure,) = run.failures
    assert "exceeds the available context size (1024 tokens)" in failure["message"]
