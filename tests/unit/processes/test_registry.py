"""What is written down of each run: who owns it, what it has started, and whether anybody still cares for it."""

import json
import os
import signal
import stat
import subprocess
import threading

import psutil
import pytest
from serving_fixtures import NASTY, NASTY_SIZE, SLEEP, alive, bystander, guarded, nasty_tree, wait_until

from evalscope_evalflow.errors import ConfigError, EngineError, Problem, Stopped
from evalscope_evalflow.processes import guard, orphans, registry
from evalscope_evalflow.processes.registry import Entry, ProcessId, Registration, new_run_id


@pytest.fixture
def dead():
    """A process that has ended."""
    process = subprocess.Popen(SLEEP)
    found = ProcessId.of(process.pid)
    process.kill()
    process.wait()
    return found


def rewrite(run_id, **fields):
    """Change the file of a run."""
    path = registry.path_of(run_id)
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def only():
    """The one entry there is."""
    (found,) = registry.entries()
    return found


def test_an_entry_tells_who_runs_what(tmp_path):
    run = Registration("run-1", model="m", work_dir=tmp_path)
    run.set(engine="vllm", port=8000, api_url="http://127.0.0.1:8000/v1", devices="0,1")
    run.phase("loading")
    found = only()
    assert (found.run_id, found.model, found.engine, found.port) == ("run-1", "m", "vllm", 8000)
    assert (found.devices, found.work_dir, found.phase) == ("0,1", tmp_path, "loading")
    assert found.phase_since >= found.since
    assert found.owner.pid == os.getpid()
    assert found.state == "running"
    run.close()
    assert registry.entries() == []
    assert os.listdir(registry.folder()) == []


def test_commands_are_in_it_from_before_their_start_to_their_end(tmp_path):
    run = Registration("run-1")
    with guarded(SLEEP, tmp_path / "log", run_id="run-1-engine", entry=run, role="engine") as process:
        command = only().commands["engine"]
        assert command.guard == ProcessId.of(process.guard_pid)
        assert (command.run_id, command.scratch, command.log) == ("run-1-engine", process.scratch, tmp_path / "log")
        assert only().guards == [command.guard]
        process.stop()
        assert only().commands == {}
    run.close()


def test_a_command_that_cannot_be_started_is_not_in_it(tmp_path):
    run = Registration("run-1")
    with (
        pytest.raises(OSError, match="Argument list too long"),
        guarded(SLEEP, tmp_path / "log", env={"A": "x" * 3_000_000}, entry=run),
    ):
        pass
    assert only().commands == {}


def test_two_commands_at_a_time(tmp_path):
    run = Registration("run-1")
    with (
        guarded(SLEEP, tmp_path / "a", entry=run, role="engine") as one,
        guarded(SLEEP, tmp_path / "b", entry=run, role="worker") as other,
    ):
        assert set(only().commands) == {"engine", "worker"}
        one.stop()
        assert set(only().commands) == {"worker"}
        other.stop()


def test_what_survives_sigkill_stays_written_down(tmp_path):
    run = Registration("run-1")
    run.starting("engine", registry.Command(run_id="run-1-engine", scratch=tmp_path, log=tmp_path / "log"))
    run.ended("engine", [12345])
    run.close()
    assert only().commands["engine"].left == [12345]


def test_an_entry_of_one_command_ends_with_it(tmp_path):
    run = Registration("run-1", one_command=True)
    with guarded(SLEEP, tmp_path / "log", entry=run) as process:
        assert registry.entries()
        process.stop()
        assert registry.entries() == []
    run.phase("releasing")  # too late: it does not come back
    assert registry.entries() == []


@pytest.mark.parametrize("known", [True, False], ids=["guard is known", "guard is not"])
def test_what_its_owner_lost_hold_of_is_ended_by_the_entry(tmp_path, known):
    """A Ctrl-C between the start of a command and the line that would have kept it."""
    run = Registration("run-1")
    with guarded(NASTY, tmp_path / "log", run_id="run-1-engine", entry=run, role="engine") as process:
        tree = [psutil.Process(process.guard_pid), *nasty_tree(process.guard_pid, tmp_path / "log")]
        wait_until(lambda: len(orphans.noted(process.scratch)) == NASTY_SIZE, "what the guard writes down")
        if not known:
            run.starting("engine", only().commands["engine"].model_copy(update={"guard": None}))
        assert run.end_commands() == []
        run.close()
        assert not any(map(alive, tree))
        assert not process.scratch.exists()
        assert registry.entries() == []


def test_closing_an_entry_ends_no_process(tmp_path):
    """Its file stays, so that whoever starts next can clean up once the owner is dead."""
    run = Registration("run-1")
    with guarded(SLEEP, tmp_path / "log", run_id="run-1-engine", entry=run, role="engine") as process:
        process.wait_started()
        run.close()
        assert not process.exited.is_set()
        assert only().commands["engine"].guard == ProcessId.of(process.guard_pid)
        process.stop()
        assert registry.entries() == []


def test_others_may_not_look_into_it():
    Registration("run-1")
    assert stat.S_IMODE(registry.folder().stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_a_folder_that_others_can_write_is_refused(mode):
    """They could have us end our own processes."""
    registry.folder().chmod(mode)
    with pytest.raises(PermissionError, match="EVALFLOW_RUNTIME_DIR"):
        registry.entries()


def test_a_link_in_place_of_the_folder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("EVALFLOW_RUNTIME_DIR", str(tmp_path / "link"))
    with pytest.raises(PermissionError):
        registry.folder()


def test_a_registry_that_cannot_be_written_harms_no_run(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EVALFLOW_RUNTIME_DIR", str(tmp_path / "file" / "runtime"))
    run = Registration("run-1")
    with guarded(SLEEP, tmp_path / "log", entry=run) as process:
        run.phase("loading")
        assert process.stop() == []
    run.close()


def test_a_full_disk_leaves_the_old_entry_and_nothing_beside_it(monkeypatch):
    run = Registration("run-1", model="m")

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(registry.Path, "write_text", full)
    run.phase("loading")
    assert os.listdir(registry.folder()) == ["run-1.json"]
    assert only().phase == "starting"
    run.close()
    assert registry.entries() == []


def test_files_of_another_kind_are_passed_over():
    Registration("run-1")
    (registry.folder() / "other.json").write_text('{"half": ')
    (registry.folder() / "newer.json").write_text('{"run": "of a version to come"}')
    assert only().run_id == "run-1"


def test_the_default_folder_is_this_users_whatever_tmpdir_says(monkeypatch, tmp_path):
    """`evalflow ps` in another shell must look at the same place."""
    monkeypatch.delenv("EVALFLOW_RUNTIME_DIR")
    first = registry.folder()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(registry.tempfile, "tempdir", None)
    assert registry.folder() == first
    assert str(os.getuid()) in first.name


class TestState:
    def test_owner_is_dead(self, dead):
        Registration("run-1")
        rewrite("run-1", owner=dead.model_dump())
        assert only().state == "stale"

    def test_owner_is_a_zombie(self):
        Registration("run-1")
        process = subprocess.Popen(SLEEP)
        rewrite("run-1", owner=ProcessId.of(process.pid).model_dump())
        assert only().state == "running"
        process.kill()
        wait_until(lambda: guard.stat(process.pid)[0] == "Z", "a zombie")
        assert only().state == "stale"
        process.wait()

    def test_owners_pid_is_another_process_now(self):
        Registration("run-1")
        rewrite("run-1", owner={"pid": os.getpid(), "start": 1})
        assert only().state == "stale"

    def test_owner_is_dead_and_a_guard_cleans_up(self, tmp_path, dead):
        run = Registration("run-1")
        with guarded(SLEEP, tmp_path / "log", entry=run) as process:
            rewrite("run-1", owner=dead.model_dump())
            assert only().state == "ending"
            path, text = registry.path_of("run-1"), registry.path_of("run-1").read_text()
            process.stop()
            path.write_text(text)
            assert only().state == "stale"

    def test_before_the_last_reboot(self):
        Registration("run-1")
        rewrite("run-1", boot="another")
        assert only().state == "stale"

    @pytest.mark.parametrize("field", ["host", "namespace"])
    def test_of_another_machine_or_container(self, field, dead):
        """Its PIDs mean nothing here."""
        Registration("run-1")
        rewrite("run-1", owner=dead.model_dump(), **{field: "another"})
        assert only().state == "foreign"


class TestProcessId:
    def test_of_nobody(self):
        assert ProcessId.of(2**22 + 1) is None

    def test_a_signal_reaches_that_process_alone(self):
        with bystander() as other:
            found = ProcessId.of(other.pid)
            ProcessId(pid=other.pid, start=found.start - 1).send(signal.SIGKILL)
            ProcessId(pid=2**22 + 1, start=1).send(signal.SIGKILL)
            assert found.lives
        assert not found.lives
        found.send(signal.SIGKILL)  # nobody


class TestStopped:
    def test_a_failure_of_what_was_stopped_is_no_failure(self, tmp_path):
        run = Registration("run-1", work_dir=tmp_path)
        run.ended("engine", [], stopped=True)
        with pytest.raises(Stopped, match="what was saved is kept") as caught:
            run.as_stopped(EngineError, EngineError("it died"), None)
        assert caught.value.exit_code == 130

    @pytest.mark.parametrize("error", [None, KeyboardInterrupt(), OSError("full")])
    def test_everything_else_stays_what_it_is(self, error):
        run = Registration("run-1")
        run.ended("engine", [], stopped=True)
        run.as_stopped(type(error), error, None)

    def test_a_failure_of_what_was_not_stopped_stays_one(self):
        run = Registration("run-1")
        run.ended("engine", [])
        run.as_stopped(ConfigError, ConfigError(Problem("a", "b")), None)


def test_many_threads_change_it():
    run = Registration("run-1")
    threads = [threading.Thread(target=run.phase, args=(f"phase {number}",)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert only().phase.startswith("phase ")
    assert os.listdir(registry.folder()) == ["run-1.json"]


def test_times_and_ids_are_what_other_processes_see():
    Registration(new_run_id())
    seen = Entry.model_validate_json(next(registry.folder().glob("*.json")).read_bytes())
    assert seen.boot == registry.boot_id()
    assert seen.owner == ProcessId.of(os.getpid())
