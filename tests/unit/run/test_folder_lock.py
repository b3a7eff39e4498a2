"""Two runs never share a run folder; the second is told whose it is."""

import os

import pytest
from filelock import FileLock

from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.events.run_events import RunFinished, RunState
from evalscope_evalflow.run.folder_lock import folder_in_use, refuse_folders_in_use
from evalscope_evalflow.state import record


class TestFolderInUse:
    def test_it_names_the_run(self, tmp_path):
        record.Record(tmp_path, "run-1")
        problem = folder_in_use(tmp_path)
        assert f"{tmp_path} is in use by another run: run-1 (PID {os.getpid()} on " in problem.what
        assert "evalflow stop run-1" in problem.todo

    def test_where_the_record_is_not_of_the_run_that_has_it(self, tmp_path):
        record.Record(tmp_path, "run-1").on_event(RunFinished(RunState.COMPLETE))
        assert folder_in_use(tmp_path).what == f"{tmp_path} is in use by another run"

    def test_no_record_yet(self, tmp_path):
        assert folder_in_use(tmp_path).what == f"{tmp_path} is in use by another run"


def test_every_folder_that_is_locked_is_named_and_no_other(tmp_path):
    for name in ("one", "two", "free", "new"):
        (tmp_path / name / "evalflow").mkdir(parents=True)
    for name in ("one", "two", "free"):
        (tmp_path / name / "evalflow" / "run.lock").touch()
    refuse_folders_in_use(tmp_path / name for name in ("one", "two", "free", "new"))
    locks = FileLock(tmp_path / "one/evalflow/run.lock"), FileLock(tmp_path / "two/evalflow/run.lock")
    with locks[0], locks[1], pytest.raises(ConfigError) as error:
        refuse_folders_in_use(tmp_path / name for name in ("one", "free", "two", "new"))
    assert [problem.what.split()[0] for problem in error.value.problems] == [str(tmp_path / n) for n in ("one", "two")]
