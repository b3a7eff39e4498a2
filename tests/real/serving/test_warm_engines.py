"""Tasks of one process that want the same engine: the second one finds it there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from leftovers import servers_of

from evalscope_evalflow import release_kept
from evalscope_evalflow.processes import registry

pytestmark = pytest.mark.real
LOADS = "loading model"  # in llama.cpp's log


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("EVALFLOW_RUNTIME_DIR", str(tmp_path / "runtime"))
    yield
    release_kept()


def tasks(stock_task: dict[str, Any], tmp_path: Path, **deploy: Any) -> list[dict[str, Any]]:
    """Two tasks, alike but for their folders."""
    section = {"backend": "Native", "deploy": {"keep_alive_s": 120, **deploy}}
    task = {**stock_task, "eval_backend": "evalflow", "evalflow": section, "model_id": "smol"}
    return [{**task, "work_dir": str(tmp_path / name)} for name in ("first", "second")]


def records(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads((tmp_path / name / "evalflow" / "run.json").read_text()) for name in ("first", "second")]


def events(folder: Path) -> list[str]:
    lines = (folder / "evalflow" / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


def answers(folder: Path) -> list[str]:
    lines = next(folder.glob("predictions/*/*.jsonl")).read_text().splitlines()
    return sorted(json.loads(line)["model_output"]["choices"][0]["message"]["content"] for line in lines)


def test_a_list_of_tasks_loads_the_model_once(stock_task: dict[str, Any], gguf: Path, tmp_path: Path) -> None:
    from evalscope.run import run_task

    model = tmp_path / "model.gguf"  # which nobody else serves
    model.symlink_to(gguf)
    both = tasks({**stock_task, "model": str(model), "limit": 3}, tmp_path, max_model_len=1024, max_num_seqs=1)
    found = run_task(both)
    assert [report["general_mcq"].num for report in found] == [3, 3]
    assert answers(tmp_path / "first") == answers(tmp_path / "second")
    first, second = records(tmp_path)
    assert second["command"] == first["command"], "the port, too"
    assert (first.get("reused"), second["reused"]["run_id"]) == (None, first["run_id"])
    logs = [(tmp_path / name / "evalflow" / "engine.log").read_text() for name in ("first", "second")]
    assert [LOADS in log for log in logs] == [True, False]  # seconds of the phase say little on a busy machine
    assert "release" not in first["phases_s"]
    for record in (first, second):
        assert record["state"] == "complete"
        assert record["release"]["released"] is False
        assert record["release"]["kept_until"] > record["started"][:10]
        beside = record["engine_held_s"] - record["phases_s"]["load"] - record["phases_s"]["infer"]
        assert -0.1 < beside < 3  # each of the three is rounded, and taken by another thread
    assert len(servers_of(model)) == 2, "a guard and its server"
    assert [entry.phase[:10] for entry in registry.entries()] == ["kept until"]
    assert [bool(released) for released in release_kept()] == [True]
    assert servers_of(model) == set()
    assert registry.entries() == []
    said = "KeptEngineReleased"
    assert (said in events(tmp_path / "first"), said in events(tmp_path / "second")) == (False, True)


def test_a_kept_engine_that_dies_in_mid_run_is_started_again(stock_task: dict[str, Any], tmp_path: Path) -> None:
    from evalscope.run import run_task

    # Asked once when it is ready, 8 times by the first task, once when it is taken; it dies of the third sample then.
    both = tasks(
        {**stock_task, "model": "any/path"},
        tmp_path,
        engine="scripted",
        extra_args=["--die-after-requests", "12"],
    )
    found = run_task(both)
    assert [report["general_mcq"].num for report in found] == [8, 8]
    first, second = records(tmp_path)
    assert [record["state"] for record in (first, second)] == ["complete", "complete"]
    assert events(tmp_path / "second").count("EngineDied") == 1
    assert second["command"] != first["command"]
    assert second["release"]["released"] is False, "the new one is kept"
    log = (tmp_path / "second" / "evalflow" / "engine.log").read_text()
    assert log.count("listening on") == 1
