"""`evalflow ps`, `stop` and `clean`, and cleaning up after owner and guard were killed: with an engine of another
package, in a process of its own."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from rich.console import Console
from serving_fixtures import NASTY_SIZE, SCRIPTED, SERVER, alive, below, bystander, kill, wait_gone, wait_until

from evalscope_evalflow.cli import command_line as cli
from evalscope_evalflow.cli import stop
from evalscope_evalflow.cli.clean import clean_up
from evalscope_evalflow.cli.ps import show_runs
from evalscope_evalflow.cli.stop import stop_runs, wait_until_gone
from evalscope_evalflow.display.run_list import age
from evalscope_evalflow.errors import ConfigError, EvalFlowError
from evalscope_evalflow.processes import cleanup, orphans, registry
from evalscope_evalflow.run.dead_runs import clean_up_before
from evalscope_evalflow.state import record

# Serves with the scripted engine until it is told to end; its arguments: what to do then, those of the server.
OWNER = """
import json, os, sys
from evalscope_evalflow import EvalFlowError, deploy
log, *extra = sys.argv[1:]
deployment = deploy("any/path", engine="scripted", name="m", extra_args=extra, stall_timeout_s=60, log_dir=log)
deployment.start()
print(json.dumps({"run": deployment.run_id, "guard": deployment.process.guard_pid}), flush=True)
try:
    endpoint = deployment.wait_ready()
except EvalFlowError as error:
    deployment.release()
    print(json.dumps({"error": str(error)}), flush=True)
    sys.exit(9)
print(json.dumps({"ready": endpoint.api_url}), flush=True)
print(json.dumps({"read": sys.stdin.readline()}), flush=True)
deployment.release()
"""
NASTY = ("--daemon-children", "--ignore-sigterm")  # two of its processes have no environment


class Owner:
    """A process that serves something, and all that belongs to it."""

    def __init__(self, process):
        self.process = process
        said = self.said()
        self.run_id, self.guard = said["run"], psutil.Process(said["guard"])
        self.tree = []

    def said(self):
        return json.loads(self.process.stdout.readline())

    @property
    def entry(self):
        return next((entry for entry in registry.entries() if entry.run_id == self.run_id), None)

    @property
    def scratch(self):
        return self.entry.commands["engine"].scratch

    def noted(self, size):
        """Its processes, when the guard has written down so many."""
        wait_until(lambda: len(orphans.noted(self.scratch)) == size, "what the guard writes down")
        self.tree = [self.guard, *below(self.guard.pid)]
        assert len(self.tree) == 1 + size
        return self.tree

    def kill_with_its_guard(self):
        """Both at once: neither sees the other die."""
        for process in (self.process, self.guard):
            process.send_signal(signal.SIGSTOP)
        self.guard.kill()
        self.process.kill()
        self.process.wait()
        wait_gone([self.guard])


@pytest.fixture
def serving(tmp_path):
    """Makes an owner with a deployment; `ready=False`: one that is still loading."""

    @contextlib.contextmanager
    def make(*extra, ready=True):
        env = {**os.environ, "PYTHONPATH": str(SCRIPTED)}
        with subprocess.Popen(
            [sys.executable, "-c", OWNER, str(tmp_path / "logs"), *extra],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        ) as process:  # fmt: skip
            owner = None
            try:
                owner = Owner(process)
                if ready:
                    assert owner.said()["ready"]
                yield owner
            finally:
                process.kill()
                kill(owner.tree if owner else [])

    return make


def printed(function, *arguments):
    """(what a function returned, what it printed)."""
    out = io.StringIO()
    value = function(*arguments, Console(file=out, width=200))
    return value, out.getvalue()


def command(*words):
    """(exit code, what was printed) of `evalflow WORDS`."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = cli.main(words)
    return code, out.getvalue()


def test_nothing_runs():
    done = subprocess.run(
        [sys.executable, "-m", "evalscope_evalflow", "ps"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "Nothing runs.\n"
    assert command("ps") == (0, "Nothing runs.\n")
    assert command("clean") == (0, "Nothing was left behind.\n")
    assert command("stop", "--all") == (0, "Nothing runs.\n")


def test_ps_shows_what_runs(serving):
    with serving() as owner:
        code, text = command("ps")
        assert code == 0
        row = next(line for line in text.splitlines() if owner.run_id in line)
        cells = [cell.strip() for cell in row.strip("│").split("│")]
        assert cells[:3] == [owner.run_id, "m", "scripted"]
        assert cells[3] == owner.entry.api_url
        assert cells[3].startswith("http://127.0.0.1:")
        assert cells[5] == "ready"
        assert cells[6].endswith(" s")
        assert cells[7] == f"PID {owner.process.pid}"
        owner.process.stdin.write("end\n")
        owner.process.stdin.flush()
        assert owner.process.wait(20) == 0
    assert registry.entries() == []


def test_ps_shows_that_it_is_loading(serving):
    with serving("--load-seconds", "60", ready=False) as owner:
        wait_until(lambda: owner.entry.phase == "loading" and owner.entry.guards, "the engine's start")
        assert "loading" in command("ps")[1]
        assert command("stop", "--all")[0] == 0


def test_no_key_is_written_down(serving):
    with serving() as owner:
        key = psutil.Process(below(owner.guard.pid)[0].pid).environ()["SCRIPTED_API_KEY"]
        assert key.startswith("ef-")
        for path in registry.folder().iterdir():
            assert key not in path.read_text()


class TestStop:
    @pytest.mark.parametrize("which", ["id", "beginning", "model", "--all"])
    def test_the_owner_lives_on(self, serving, which):
        """It may be a notebook's kernel."""
        with bystander(), serving() as owner:
            tree, scratch = owner.noted(1), owner.scratch
            words = {"id": owner.run_id, "beginning": owner.run_id[:-3], "model": "m"}
            code, text = command("stop", words.get(which, which))
            assert code == 0
            assert text == f"run {owner.run_id} (m) is stopped; nothing of it runs any more.\n"
            assert not any(map(alive, tree))
            assert not scratch.exists()
            assert registry.entries() == []
            assert owner.process.poll() is None
            owner.process.stdin.write("still here\n")
            owner.process.stdin.flush()
            assert owner.said()["read"] == "still here\n"

    def test_while_it_loads(self, serving):
        """The owner is told that it was stopped, and not that its engine failed."""
        with serving("--load-seconds", "60", ready=False) as owner:
            tree = owner.noted(1)
            assert command("stop", owner.run_id)[0] == 0
            assert not any(map(alive, tree))
            assert owner.said() == {"error": "stopped by `evalflow stop`"}
            assert owner.process.wait(20) == 9

    def test_a_nasty_one(self, serving):
        with serving(*NASTY) as owner:
            tree = owner.noted(NASTY_SIZE)
            assert command("stop", owner.run_id)[0] == 0
            assert not any(map(alive, tree))

    def test_one_of_two(self, serving):
        with serving() as one, serving() as other:
            assert command("stop", "m") == (
                2,
                f"evalflow: m: could be several runs\n    They are: {one.run_id}, {other.run_id}\n",
            )
            assert command("stop", one.run_id)[0] == 0
            assert [entry.run_id for entry in registry.entries()] == [other.run_id]
            assert alive(other.guard)
            assert command("stop", "--all")[0] == 0
            assert registry.entries() == []

    def test_one_whose_owner_is_dead_is_cleaned_up(self, serving):
        with serving(*NASTY) as owner:
            tree = owner.noted(NASTY_SIZE)
            found = owner.entry
            owner.kill_with_its_guard()
            assert printed(wait_until_gone, found)[0] is True
            assert not any(map(alive, tree))

    def test_an_owner_that_does_not_react(self, serving, monkeypatch):
        monkeypatch.setattr(stop, "STOP_TIMEOUT_S", 1.0)
        with serving() as owner:
            owner.process.send_signal(signal.SIGSTOP)
            gone, text = printed(stop_runs, owner.run_id)
            assert not gone
            assert f"its engine and worker are gone; its owner is PID {owner.process.pid}" in text
            assert not alive(owner.guard)

    def test_unknown_run(self, serving, capsys):
        with serving() as owner:
            assert cli.main(["stop", owner.run_id[:-1] + "x"]) == 2
            said = capsys.readouterr().err
            assert "no such run" in said
            assert f"Did you mean '{owner.run_id}'?" in said
            assert f"These run: {owner.run_id} (m)" in said

    def test_unknown_run_and_none_there(self):
        with pytest.raises(ConfigError, match="Nothing runs"):
            stop_runs("some-run")

    @pytest.mark.parametrize("words", [["stop"], ["stop", "run", "--all"]])
    def test_which_run(self, words, capsys):
        assert cli.main(words) == 2
        assert "which run?" in capsys.readouterr().err


class TestClean:
    def test_owner_and_guard_are_killed(self, serving):
        """Daemons without an environment, the private folder, the entry: all of it goes, and nothing else."""
        with bystander(), serving(*NASTY) as owner, serving() as other:
            tree, scratch, found = owner.noted(NASTY_SIZE), owner.scratch, owner.entry
            (leader,) = [process for process in tree if str(SERVER) in process.cmdline()[:3]]
            owner.kill_with_its_guard()
            wait_gone([leader])  # it dies with its guard
            daemons = [process for process in tree if alive(process)]
            assert len(daemons) == NASTY_SIZE - 1
            assert scratch.is_dir()
            assert found.state == "stale"
            began = time.monotonic()
            code, text = command("clean")
            assert time.monotonic() - began < 10
            assert code == 0
            assert text.startswith(f"run {owner.run_id} (m) had died: ended ")
            assert all(f"({process.pid})" in text for process in daemons)
            assert f"removed {scratch}" in text
            assert not any(map(alive, tree))
            assert not scratch.exists()
            assert [entry.run_id for entry in registry.entries()] == [other.run_id]
            assert alive(other.guard)
            assert command("clean") == (0, "Nothing was left behind. 1 run(s) continue: evalflow ps\n")

    def test_while_it_loads(self, serving):
        with serving("--load-seconds", "60", *NASTY, ready=False) as owner:
            tree, scratch = owner.noted(NASTY_SIZE), owner.scratch
            owner.kill_with_its_guard()
            assert command("clean")[0] == 0
            assert not any(map(alive, tree))
            assert not scratch.exists()

    def test_with_its_environment_it_is_found_without_notes(self, serving):
        with serving("--daemon-children", "kept") as owner:
            tree, scratch = owner.noted(NASTY_SIZE), owner.scratch
            owner.kill_with_its_guard()
            (scratch / orphans.NOTES).unlink()
            cleanup.clean()
            assert not any(map(alive, tree))

    def test_the_next_start_does_it(self, serving):
        with serving(*NASTY) as owner:
            tree, scratch = owner.noted(NASTY_SIZE), owner.scratch
            owner.kill_with_its_guard()
            with serving() as other:
                assert not any(map(alive, tree))
                assert not scratch.exists()
                assert [entry.run_id for entry in registry.entries()] == [other.run_id]

    def test_ps_does_it_and_says_so(self, serving):
        with serving(*NASTY) as owner:
            tree = owner.noted(NASTY_SIZE)
            owner.kill_with_its_guard()
            code, text = command("ps")
            assert code == 0
            assert f"run {owner.run_id} (m) had died" in text
            assert text.endswith("Nothing runs.\n")
            assert not any(map(alive, tree))

    def test_what_a_living_owner_or_guard_cares_for_is_left_alone(self, serving):
        with serving(*NASTY) as owner:
            tree, scratch, text = owner.noted(NASTY_SIZE), owner.scratch, registry.path_of(owner.run_id).read_text()
            assert cleanup.clean() == []
            owner.guard.send_signal(signal.SIGSTOP)
            owner.process.kill()
            owner.process.wait()
            assert owner.entry.state == "ending"
            assert cleanup.clean() == []
            assert all(map(alive, tree))
            # Even where its owner had no time to write down that it has a guard.
            data = json.loads(text)
            data["commands"]["engine"]["guard"] = None
            registry.path_of(owner.run_id).write_text(json.dumps(data))
            assert owner.entry.state == "stale"
            assert cleanup.clean() == []
            assert all(map(alive, tree))
            owner.guard.send_signal(signal.SIGCONT)
            wait_gone(tree)
            assert not scratch.exists()
            assert [cleaned.ended for cleaned in cleanup.clean()] == [{}]
            assert registry.entries() == []

    def test_after_a_reboot_only_folders_are_left(self, serving, tmp_path):
        """PIDs and start times of then mean nothing now."""
        with bystander() as other:
            scratch = tmp_path / "evalflow-abc"
            scratch.mkdir()
            run = registry.Registration("run-1", model="m")
            run.starting("engine", registry.Command(run_id="run-1-engine", scratch=scratch, log=tmp_path / "log"))
            start = registry.ProcessId.of(other.pid).start
            (scratch / orphans.NOTES).write_text(json.dumps({"tree": [[other.pid, start]]}))
            data = json.loads(registry.path_of("run-1").read_text())
            registry.path_of("run-1").write_text(json.dumps({**data, "boot": "an earlier one"}))
            (cleaned,) = cleanup.clean()
            assert (cleaned.ended, cleaned.paths, cleaned.left) == ({}, [scratch], [])
            assert not scratch.exists()
            assert registry.entries() == []

    @pytest.mark.parametrize("what", ["another name", "a link", "a file"])
    def test_a_folder_that_is_no_private_one_stays(self, what, tmp_path):
        folder = tmp_path / ("data" if what == "another name" else "evalflow-abc")
        target = tmp_path / "precious"
        target.mkdir()
        (target / "file").touch()
        if what == "a link":
            folder.symlink_to(target)
        elif what == "a file":
            folder.touch()
        else:
            folder.mkdir()
        run = registry.Registration("run-1")
        run.starting("engine", registry.Command(run_id="run-1-engine", scratch=folder, log=tmp_path / "log"))
        data = json.loads(registry.path_of("run-1").read_text())
        registry.path_of("run-1").write_text(json.dumps({**data, "owner": {"pid": os.getpid(), "start": 1}}))
        (cleaned,) = cleanup.clean()
        assert cleaned.paths == []
        assert folder.exists()
        assert (target / "file").exists()

    def test_two_at_a_time(self, serving):
        """One does it; the other, if it is no `evalflow clean`, goes its way."""
        with serving(*NASTY) as owner:
            tree = owner.noted(NASTY_SIZE)
            owner.kill_with_its_guard()
            results = []
            threads = [threading.Thread(target=lambda: results.append(cleanup.clean(30))) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert sorted(map(len, results)) == [0, 0, 0, 1]
            assert not any(map(alive, tree))

    def test_another_process_that_is_at_it_is_not_waited_for(self, serving):
        from filelock import FileLock

        with serving() as owner:
            owner.noted(1)
            owner.kill_with_its_guard()
            with FileLock(registry.folder() / "clean.lock"):
                began = time.monotonic()
                assert cleanup.clean() == []
                assert time.monotonic() - began < 10
            assert len(cleanup.clean()) == 1

    def test_with_nothing_to_do_it_costs_next_to_nothing(self, serving):
        with serving():
            cleanup.clean()
            began = time.process_time()
            for _ in range(20):
                cleanup.clean()
            assert (time.process_time() - began) / 20 < 0.005

    def test_what_cannot_be_ended_is_said(self, serving, monkeypatch):
        """It stays written down, and the exit code tells."""
        with serving(*NASTY) as owner:
            owner.noted(NASTY_SIZE)
            owner.kill_with_its_guard()
            with monkeypatch.context() as patch:
                patch.setattr(orphans, "end", lambda commands: ({}, [4711]))
                left, text = printed(clean_up)
            assert left is False
            assert "PIDs 4711 survive SIGKILL" in text
            assert f"run {owner.run_id} could not be cleaned up" in text
            assert owner.entry is not None

    def test_the_record_of_a_dead_run_says_so(self, tmp_path):
        first = record.Record(tmp_path, "run-1")
        registry.Registration("run-1", work_dir=tmp_path)
        for path in (registry.path_of("run-1"), first.folder / "run.json"):
            data = json.loads(path.read_text())
            data.update({"owner": {"pid": os.getpid(), "start": 1}} if "owner" in data else {"pid_started": 1.0})
            path.write_text(json.dumps(data))
        lines = []
        clean_up_before(lines.append)
        assert lines == []  # nothing of it was left but its entry, which concerns nobody
        assert json.loads((first.folder / "run.json").read_text())["state"] == "died"


def test_a_registry_that_cannot_be_read_fails_the_command_and_no_run(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EVALFLOW_RUNTIME_DIR", str(tmp_path / "file" / "runtime"))
    for function in (show_runs, clean_up, lambda: stop_runs(None)):
        with pytest.raises(EvalFlowError, match="the list of this machine's runs cannot be read"):
            function()
    lines = []
    clean_up_before(lines.append)
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3660, "1 h 01 min")]
)
def test_age(seconds, text):
    assert age(seconds) == text
