import dataclasses
import json
import os
import stat

import pytest
from pydantic import SecretStr

from evalscope_evalflow.events.api_events import ApiBack, ApiDown, ApiGivenUp, ApiSilent
from evalscope_evalflow.events.engine_events import EngineReleased, EngineReused, EngineStarting, EngineWeights
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.events.run_events import (
    Phase,
    PhaseBegan,
    PhaseEnded,
    Progress,
    ResultsArchived,
    RunFinished,
    RunState,
)
from evalscope_evalflow.state import record as module
from evalscope_evalflow.state.record import SCHEMA, Record, answers_from, mark_dead, read

KEY = "sk-never-to-be-seen"


@pytest.fixture
def record(tmp_path):
    task = {"datasets": ["a"], "judge": {"models": [{"api_key": KEY}]}}
    return Record(tmp_path, "run-1", versions={"evalscope": "1.14.1"}, model="m", task=task)


def saved(record):
    return json.loads((record.folder / "run.json").read_text())


def events(record):
    return [json.loads(line) for line in (record.folder / "events.jsonl").read_text().splitlines()]


def names(record):
    return [item["event"] for item in events(record)]


def end(record, state=RunState.COMPLETE, **fields):
    record.on_event(RunFinished(state, **fields))


STARTING = EngineStarting("vllm", "0.32.0", True, "engine.log", ["vllm", "serve"], {"devices": ["0"]})
RELEASED = EngineReleased("vllm", True, 0.5, 30.0, [], [], {"processes": ()})


def test_it_is_on_disk_from_the_start(record, tmp_path):
    assert record.folder == tmp_path / "evalflow"
    found = saved(record)
    assert (found["run_id"], found["state"], found["model"]) == ("run-1", "running", "m")
    assert found["schema"] == SCHEMA
    assert found["task"]["datasets"] == ["a"]
    assert found["versions"]["evalscope"] == "1.14.1"
    assert found["versions"]["evalscope-evalflow"]
    assert found["pid"]
    assert names(record) == ["RunStarted"]
    assert events(record)[0]["schema"] == SCHEMA


def test_no_key_is_ever_in_it(tmp_path):
    request = {"deploy": {"api_key": SecretStr(KEY), "env_vars": {"HF_TOKEN": KEY}}, "judge": {"api_key": "${MY_KEY}"}}
    record = Record(tmp_path, "run-1", task=request)
    record.on_event(EngineReleased("vllm", True, 0.5, 30.0, [], [], {"headers": {"Authorization": KEY}}))
    end(record, results={"request": {"api_key": KEY}})
    for path in record.folder.iterdir():
        assert KEY not in path.read_text()
    assert saved(record)["task"]["judge"] == {"api_key": "${MY_KEY}"}


def test_progress_is_written_down_at_its_ends_and_once_a_minute(record, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    for second in range(150):
        now[0] += 1
        record.on_event(DatasetProgress("a", False, second, 150))
    record.on_event(DatasetProgress("a", False, 150, 150, ended=True))
    record.on_event(DatasetProgress("a", True, 0, 150))
    found = [item for item in events(record) if item["event"] == "DatasetProgress"]
    assert [(item["judging"], item["done"]) for item in found] == [
        (False, 0), (False, 60), (False, 120), (False, 150), (True, 0),
    ]  # fmt: skip


def test_the_seconds_of_a_phase_add_up(record):
    for _ in range(2):  # an engine that was started again
        record.on_event(PhaseBegan(Phase.LOAD))
        record.on_event(PhaseEnded(Phase.LOAD, 1.25))
    record.on_event(PhaseEnded(Phase.COLLECT, 1.0))  # which is not measured
    end(record)
    assert saved(record)["phases_s"] == {"load": 2.5}
    once = ["PhaseBegan", "PhaseEnded"]
    assert names(record) == ["RunStarted", *once, *once, "PhaseEnded", "RunFinished"]
    assert events(record)[1]["phase"] == "load"


def test_the_engine_is_recorded_with_its_own_version(record):
    record.on_event(STARTING)
    found = saved(record)
    assert (found["engine"], found["versions"]["vllm"]) == ("vllm", "0.32.0")
    assert found["command"] == ["vllm", "serve"]
    assert found["placement"] == {"devices": ["0"]}


def test_what_answers_come_from_is_recorded_over_all_runs_of_a_folder(record, tmp_path):
    def starts(record, version, answers, note=""):
        facts = {"engine": "vllm", "version": version}
        record.on_event(dataclasses.replace(STARTING, facts=facts, answers=answers, note=note))
        return [(batch["version"], batch["answers_before"], batch.get("note")) for batch in answers_from(tmp_path)]

    assert starts(record, "0.32.0", 0) == [("0.32.0", 0, None)]
    again = Record(tmp_path, "run-2", model="m")
    assert starts(again, "0.33.0", 5, "other") == [("0.32.0", 0, None), ("0.33.0", 5, "other")]
    # One that added none is forgotten; with another beginning, so is everything.
    assert starts(again, "0.34.0", 5) == [("0.32.0", 0, None), ("0.34.0", 5, None)]
    assert [batch["run_id"] for batch in answers_from(tmp_path)] == ["run-1", "run-2"]
    assert starts(again, "0.35.0", 0) == [("0.35.0", 0, None)]


def test_an_engine_that_was_kept_is_recorded_until_another_is_started(record):
    record.on_event(EngineReused("vllm", "0.32.0", "run-0", "engine.log", ["vllm"], {}))
    assert saved(record)["reused"] == {"run_id": "run-0", "log": "engine.log"}
    record.on_event(STARTING)
    assert "reused" not in saved(record)


def test_the_weights_that_answered_are_recorded_until_another_engine_is_started(record):
    reused = EngineReused("vllm", "0.32.0", "run-0", "engine.log", ["vllm"], {})
    record.on_event(reused)
    record.on_event(EngineWeights("vllm", "/m/step-2", "f2", 291, "step-1", 250, 1.5, 0.6, 0.7))
    assert saved(record)["weights"] == {
        "checkpoint": "/m/step-2", "fingerprint": "f2", "tensors": 291, "took_from": "step-1", "compared": 250,
        "swap_s": 1.5, "read_s": 0.6, "proof_s": 0.7,
    }  # fmt: skip
    end(record)
    assert saved(record)["weights"]["fingerprint"] == "f2"
    record.on_event(STARTING)
    assert "weights" not in saved(record), "nobody has told yet which weights that engine has"
    record.on_event(EngineWeights("vllm", "/m/step-2", "f2", 291))
    found = saved(record)["weights"]
    assert (found["took_from"], found["compared"], found["swap_s"]) == ("", 0, 0)
    record.on_event(reused)
    assert "weights" not in saved(record)


def test_the_time_in_which_engines_were_held_adds_up(record):
    for _ in range(2):
        record.on_event(RELEASED)
    assert saved(record)["engine_held_s"] == 60.0
    assert saved(record)["release"] == {"released": True, "processes": []}


def test_how_it_ended(record):
    end(record, RunState.FAILED, error="no memory")
    found = saved(record)
    assert (found["state"], found["error"]) == ("failed", "no memory")
    assert found["ended"]
    assert not (record.folder / ".reserve").exists()


def test_results_are_in_the_record_and_not_once_more_in_the_events(record):
    end(record, results={"a": {"metrics": {"acc": 0.5}, "name": "Prüfung"}})
    assert saved(record)["results"]["a"]["metrics"] == {"acc": 0.5}
    assert "Prüfung" in (record.folder / "run.json").read_text()
    assert events(record)[-1]["results"] is None


def test_progress_is_shown_and_not_recorded(record):
    record.on_event(Progress(Phase.INFER, 3))
    assert names(record) == ["RunStarted"]


def test_a_second_run_appends_to_the_events_and_replaces_the_record(record, tmp_path):
    end(record, RunState.FAILED, error="x")
    again = Record(tmp_path, "run-2", model="m")
    assert saved(again)["run_id"] == "run-2"
    assert "error" not in saved(again)
    assert names(again) == ["RunStarted", "RunFinished", "RunStarted"]


def test_the_record_is_replaced_as_a_whole_and_nothing_is_left_beside_it(record, monkeypatch):
    class Full(Exception):
        pass

    def dump(*args, **kwargs):
        raise Full

    before = (record.folder / "run.json").read_text()
    monkeypatch.setattr(os, "replace", dump)
    with pytest.raises(Full):
        record.on_event(STARTING)
    assert (record.folder / "run.json").read_text() == before
    assert sorted(path.name for path in record.folder.iterdir()) == [".reserve", "events.jsonl", "run.json"]


def test_others_who_may_read_the_folder_may_read_the_record(record):
    """On a shared work_dir: it holds no keys, and is no more private than the reports beside it."""
    modes = {stat.S_IMODE((record.folder / name).stat().st_mode) for name in ("run.json", "events.jsonl")}
    assert len(modes) == 1


class TestRead:
    @pytest.fixture
    def killed(self, tmp_path):
        """The folder of a run that was killed: its PID is another process's now."""
        Record(tmp_path, "run-1")
        change(tmp_path, pid_started=1.0)
        return tmp_path

    def test_none(self, tmp_path):
        assert read(tmp_path) is None

    @pytest.mark.parametrize("text", ["", "[]", '{"state":'])
    def test_damaged(self, record, tmp_path, text):
        (record.folder / "run.json").write_text(text)
        assert read(tmp_path) is None

    def test_it_runs(self, record, tmp_path):
        assert read(tmp_path)["state"] == "running"

    def test_it_has_ended(self, record, tmp_path):
        end(record, RunState.FAILED)
        change(tmp_path, pid=2**22 + 1)
        assert read(tmp_path)["state"] == "failed"

    def test_it_was_killed(self, killed):
        assert read(killed)["state"] == "died"
        change(killed, pid_started=None, pid=2**22 + 1)
        assert read(killed)["state"] == "died"

    def test_on_another_machine_nobody_knows(self, killed):
        change(killed, host="another")
        assert read(killed)["state"] == "running"

    def test_the_next_run_tells_of_it(self, killed):
        again = Record(killed, "run-2")
        assert [item["event"] for item in events(again)] == ["RunStarted", "PreviousRunDied", "RunStarted"]
        assert events(again)[1]["run_id"] == "run-1"

    def test_marking_it(self, killed):
        mark_dead(killed, "another-run")
        assert json.loads((killed / "evalflow" / "run.json").read_text())["state"] == "running"
        mark_dead(killed, "run-1")
        assert json.loads((killed / "evalflow" / "run.json").read_text())["state"] == "died"

    def test_marking_one_that_lives(self, record, tmp_path):
        before = (record.folder / "run.json").read_text()
        mark_dead(tmp_path, "run-1")
        mark_dead(tmp_path / "none", "run-1")
        assert (record.folder / "run.json").read_text() == before


def change(folder, **fields):
    path = folder / "evalflow" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_how_an_api_is_and_for_how_long_it_was_not_usable(record):
    api = ("model", "https://api.example/v1", "m")
    record.on_event(ApiDown(*api, "connection refused", False, 300.0))
    found = saved(record)["apis"]["model"]
    assert (found["state"], found["reason"], found["url"]) == ("down", "connection refused", api[1])
    record.on_event(ApiBack(*api, 12.5))
    record.on_event(ApiSilent(*api, 60.0, 8, True))
    found = saved(record)["apis"]["model"]
    assert (found["state"], found["reason"]) == ("silent", "no answer for 60 s to 8 requests")
    record.on_event(ApiGivenUp(*api, "503: no capacity", 300.0))
    found = saved(record)["apis"]["model"]
    assert (found["state"], found["reason"], found["unusable_s"]) == ("given up", "503: no capacity", 312.5)
    assert names(record)[1:] == ["ApiDown", "ApiBack", "ApiSilent", "ApiGivenUp"]


def test_results_of_earlier_runs_on_other_datasets_stand(tmp_path):
    def run(name, *datasets):
        record = Record(tmp_path, name, task={"datasets": list(datasets)}, model="m")
        record.on_event(RunFinished(RunState.COMPLETE, results={item: {"score": {"value": name}} for item in datasets}))

    run("run-1", "a", "b")
    run("run-2", "c")
    run("run-3", "b")
    found = read(tmp_path)
    assert list(found["results"]) == ["b"]
    assert {name: item["run_id"] for name, item in found["earlier_results"].items()} == {"a": "run-1", "c": "run-2"}


def test_results_that_are_archived_stand_no_more(tmp_path):
    record = Record(tmp_path, "run-1", task={"datasets": ["a"]}, model="m")
    record.on_event(RunFinished(RunState.COMPLETE, results={"a": {}}))
    record = Record(tmp_path, "run-2", task={"datasets": ["b"]}, model="m")
    record.on_event(ResultsArchived("kept/1", ["b"]))
    assert "a" in read(tmp_path)["earlier_results"]
    record.on_event(ResultsArchived("kept/2"))
    record.on_event(RunFinished(RunState.COMPLETE, results={"b": {}}))
    assert "earlier_results" not in read(tmp_path)
