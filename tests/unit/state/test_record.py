import json
import stat
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from evalscope_evalflow.state.record import Record, mark_dead, read

KEY = "sk-never-to-be-seen"


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path, "run-1", model="m", task={"datasets": ["a"], "judge": {"models": [{"api_key": KEY}]}})


def saved(record):
    return json.loads((record.folder / "run.json").read_text())


def events(record):
    return [json.loads(line) for line in (record.folder / "events.jsonl").read_text().splitlines()]


def test_it_is_on_disk_from_the_start(record, tmp_path):
    assert record.folder == tmp_path / "evalflow"
    found = saved(record)
    assert (found["run_id"], found["state"], found["model"]) == ("run-1", "running", "m")
    assert found["task"]["datasets"] == ["a"]
    assert found["versions"]["evalscope"]
    assert found["pid"]
    assert events(record)[0]["event"] == "started"


def test_no_key_is_ever_in_it(record):
    record.set(deploy={"api_key": SecretStr(KEY), "env_vars": {"HF_TOKEN": KEY}}, reference={"api_key": "${MY_KEY}"})
    record.event("asked", headers={"Authorization": KEY})
    record.finish("failed", error="it died", request={"api_key": KEY})
    for path in record.folder.iterdir():
        assert KEY not in path.read_text()
    assert saved(record)["reference"] == {"api_key": "${MY_KEY}"}


def test_phases_have_their_seconds(record):
    for _ in range(2):  # an engine that was started again
        with record.phase("load"):
            threading.Event().wait(0.05)
    record.finish("complete")
    assert list(saved(record)["phases_s"]) == ["load"]
    assert 0.1 <= saved(record)["phases_s"]["load"] < 10
    once = ["phase begins", "phase ends"]
    assert [item["event"] for item in events(record)] == ["started", *once, *once, "complete"]


def test_a_phase_that_was_interrupted_is_closed(record):
    with pytest.raises(KeyboardInterrupt), record.phase("load"):
        raise KeyboardInterrupt
    record.finish("interrupted")
    found = saved(record)
    assert (found["state"], list(found["phases_s"])) == ("interrupted", ["load"])
    assert found["ended"]


def test_what_is_no_json_is_written_as_text(record, tmp_path):
    record.set(folder=tmp_path, score=0.5, name="Prüfung")
    assert saved(record)["folder"] == str(tmp_path)
    assert "Prüfung" in (record.folder / "run.json").read_text()


def test_a_second_run_appends_to_the_events_and_replaces_the_record(record, tmp_path):
    record.finish("failed")
    again = Record(tmp_path, "run-2", model="m")
    assert saved(again)["run_id"] == "run-2"
    assert "error" not in saved(again)
    assert [item["event"] for item in events(again)] == ["started", "failed", "started"]


def test_the_record_is_replaced_as_a_whole_and_nothing_is_left_beside_it(record, monkeypatch):
    class Full(Exception):
        pass

    def dump(*args, **kwargs):
        raise Full

    before = (record.folder / "run.json").read_text()
    monkeypatch.setattr(Path, "replace", dump)
    with pytest.raises(Full):
        record.set(score=1)
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
        record.finish("failed")
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
        assert [item["event"] for item in events(again)] == ["started", "died", "started"]
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
