"""Supervised commands as their owner sees them, and what becomes of them when the owner or the guard is killed."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from serving_fixtures import (
    NASTY,
    SLEEP,
    alive,
    below,
    bystander,
    guarded,
    kill,
    nasty_tree,
    python,
    read,
    wait_gone,
    wait_until,
)

from evalscope_evalflow.processes import guard, orphans
from evalscope_evalflow.processes.registry import new_run_id
from evalscope_evalflow.processes.supervised import SupervisedProcess
from evalscope_evalflow.serving.diagnosis import diagnose_process

# Starts a command under a guard, says so, and does what it is told; its arguments: log, what, command.
OWNER = """
import json, os, sys, threading
from pathlib import Path
from evalscope_evalflow.serving import SupervisedProcess, new_run_id
log, what, *argv = sys.argv[1:]
process = SupervisedProcess(argv, env=dict(os.environ), log=Path(log), run_id=new_run_id(), grace_s=0.3).start()
process.wait_started()
sibling = 0
if what == "fork":  # it has every descriptor of ours, the write ends of pipes too
    sibling = os.fork()
    if sibling == 0:
        os.execv(sys.executable, [sys.executable, "-ISc", "import time; time.sleep(600)"])
print(json.dumps({"guard": process.guard_pid, "scratch": str(process.scratch), "sibling": sibling}), flush=True)
sys.stdin.readline()
if what == "raise":
    raise RuntimeError("the owner has a fault")
if what == "_exit":
    os._exit(5)
threading.Event().wait()
"""
POLITE = [argument for argument in NASTY if argument != "--ignore-sigterm"]  # itself, not its children
NASTY_KEPT = [*NASTY[:-1], "--daemon-children=kept"]


@contextmanager
def nasty(log, command=NASTY, **options):
    """NASTY under a guard: (SupervisedProcess, its processes). What is left of it at the end is killed."""
    with guarded(command, log, **options) as process:
        tree = []
        try:
            tree = nasty_tree(process.guard_pid, log)
            yield process, tree
        finally:
            kill(tree)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "engine.log"


def test_success(log):
    with guarded(python("print('hello')"), log) as process:
        assert process.exited.wait(20)
        assert (process.exit_code, process.left) == (0, [])
        assert process.leader > 0
        assert not process.scratch.exists()
        assert read(log) == "hello\n"
        assert process.stop() == []  # once more does no harm


def test_failure(log):
    with guarded(python("raise SystemExit(3)"), log) as process:
        assert process.exited.wait(20)
        assert process.exit_code == 3
        assert not process.scratch.exists()


def test_no_such_command(log):
    with guarded(["/no/such/program"], log) as process:
        assert process.exited.wait(20)
        assert process.exit_code == 127
        assert "cannot run /no/such/program" in read(log)
        assert not process.scratch.exists()


def test_stop(log):
    with bystander(), nasty(log) as (process, tree):
        assert process.exit_code is None
        assert process.stop() == []
        assert not any(map(alive, tree))
        assert process.exit_code == 137
        assert not process.scratch.exists()
        assert not psutil.pid_exists(process.guard_pid)


def test_stop_is_prompt(log):
    """A command that ends when it is asked to is not waited for any longer."""
    with guarded(SLEEP, log, grace_s=60) as process:
        process.wait_started()
        stopping = threading.Thread(target=process.stop)
        stopping.start()
        stopping.join(20)
        assert not stopping.is_alive()
        assert process.exit_code == 128 + signal.SIGTERM


def test_stop_at_once(log):
    """Whatever the guard has got to."""
    with guarded(SLEEP, log) as process:
        assert process.stop() == []
        assert not process.scratch.exists()
        assert not psutil.pid_exists(process.guard_pid)


def test_stop_from_several_threads(log):
    with nasty(log) as (process, tree):
        threads = [threading.Thread(target=process.stop) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        assert not any(map(alive, tree))


def test_command_is_killed(log):
    with nasty(log) as (process, tree):
        os.kill(process.leader, signal.SIGKILL)
        assert process.exited.wait(20)
        assert not any(map(alive, tree))
        assert process.exit_code == 137
        assert "killed by somebody" in diagnose_process(process).cause
        assert not process.scratch.exists()


def test_exit_is_told_when_all_is_over(log):
    told = threading.Event()
    seen = []

    def on_exit():
        seen.append((process.exited.is_set(), process.exit_code, [alive(one) for one in tree]))
        told.set()

    with nasty(log, [*NASTY, "--load-seconds=0.5", "--exit-after-start=3"], on_exit=on_exit) as (process, tree):
        assert told.wait(20)
    assert seen == [(True, 3, [False] * len(tree))]


def test_surroundings_of_the_command(log):
    """A folder of its own for temporary files, another, empty one to be in; the run's id."""
    code = "import os, json; print(json.dumps([os.environ['TMPDIR'], os.getcwd(), os.listdir('.'), dict(os.environ)]))"
    with guarded(python(code), log, env={"A": "b"}, run_id="some-run") as process:
        assert process.exited.wait(20)
        scratch, cwd, files, env = json.loads(read(log))
        assert scratch == str(process.scratch)
        assert Path(cwd).parent == Path(scratch)
        assert files == []
        assert (env["A"], env[orphans.RUN_ID]) == ("b", "some-run")
        assert "HOME" not in env
        assert len(scratch) < 50  # unix sockets have to fit in it


def test_terminal_signals_do_not_reach_it(log):
    """Ctrl-C goes to the owner's group; the owner decides."""
    with guarded(SLEEP, log) as process:
        leader = process.wait_started()
        assert os.getsid(process.guard_pid) == process.guard_pid != os.getsid(0)
        wait_until(lambda: os.getpgid(leader) == leader, "the command's own group")


def test_started_by_a_thread_that_ends(log):
    """PR_SET_PDEATHSIG would end it with the thread."""
    made = []
    thread = threading.Thread(target=lambda: made.append(guarded(SLEEP, log)) or made.append(made[0].__enter__()))
    thread.start()
    thread.join()
    manager, process = made
    try:
        leader = psutil.Process(process.wait_started())
        wait_until(lambda: not psutil.pid_exists(thread.native_id) or thread.native_id is None, "the thread's end")
        assert not process.exited.wait(0.3)
        assert alive(leader)
    finally:
        manager.__exit__(None, None, None)


@contextmanager
def owner(log, what="wait", command=NASTY):
    """Another process that owns NASTY: (Popen, its guard, the tree, the private folder, a forked sibling)."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(log), what, *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        tree = []
        try:
            said = json.loads(process.stdout.readline())
            tree = [psutil.Process(said["guard"]), *nasty_tree(said["guard"], log)]
            sibling = psutil.Process(said["sibling"]) if said["sibling"] else None
            yield process, tree, Path(said["scratch"]), sibling
        finally:
            process.kill()
            kill(tree)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_owner_gets_a_signal(log, number):
    command = NASTY if number == signal.SIGKILL else POLITE
    with bystander(), owner(log, command=command) as (process, tree, scratch, _):
        process.send_signal(number)
        wait_gone(tree)
        assert not scratch.exists()
        assert process.wait(20) != 0


@pytest.mark.parametrize("what", ["raise", "_exit"])
def test_owner_has_a_fault(log, what):
    with owner(log, what, POLITE) as (process, tree, scratch, _):
        process.stdin.write("now\n")
        process.stdin.flush()
        wait_gone(tree)
        assert not scratch.exists()
        assert process.wait(20) != 0


def test_owner_dies_and_leaves_a_fork_of_itself(log):
    """Which holds every pipe that the owner held: only a pidfd tells."""
    with owner(log, "fork", POLITE) as (process, tree, scratch, sibling):
        try:
            process.kill()
            wait_gone(tree)
            assert not scratch.exists()
            assert alive(sibling), "what the owner has started otherwise is its own"
        finally:
            kill([sibling])


def test_owner_dies_while_the_guard_starts(log, tmp_path):
    """Nothing is begun, or all of it is ended; in the end nothing is there, private folder included."""
    code = OWNER.replace("process.wait_started()\n", "").replace("sys.stdin.readline()", "os.kill(os.getpid(), 9)")
    done = subprocess.run(
        [sys.executable, "-c", code, str(log), "wait", *SLEEP],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    said = json.loads(done.stdout)
    wait_until(lambda: guard.stat(said["guard"]) is None or guard.stat(said["guard"])[0] == "Z", "the guard's end")
    assert not Path(said["scratch"]).exists()


def test_guard_is_killed(log):
    """The owner ends what is left: it knows it by the run's id."""
    with bystander(), nasty(log, NASTY_KEPT) as (process, tree):
        os.kill(process.guard_pid, signal.SIGKILL)
        assert process.exited.wait(20), "the owner does not notice that the guard is dead"
        assert not any(map(alive, tree))
        assert (process.exit_code, process.left) == (137, [])
        assert "its guard process was killed" in diagnose_process(process).cause
        assert not process.scratch.exists()


def written_down(process):
    """PIDs that the guard of a command has noted."""
    return {one.pid for one in orphans.noted(process.scratch)}


def test_guard_is_killed_and_the_daemons_have_no_environment(log):
    """The owner ends them, too: the guard has written down who they are."""
    with bystander(), nasty(log) as (process, tree):
        wait_until(lambda: written_down(process) == {one.pid for one in tree}, "what the guard writes down")
        os.kill(process.guard_pid, signal.SIGKILL)
        assert process.exited.wait(20), "the owner does not notice that the guard is dead"
        assert not any(map(alive, tree))
        assert process.left == []
        assert not process.scratch.exists()


def test_what_the_guard_writes_down_follows_the_tree(log):
    """A daemon that is started later is in it within seconds; one that has ended is not."""
    code = (
        "import os, subprocess, sys\n"
        "one = subprocess.Popen(sys.argv[1:], env={}, start_new_session=True)\n"
        "print(one.pid, flush=True)\n"
        "one.wait()\n"
        "print(subprocess.Popen(sys.argv[1:], env={}, start_new_session=True).pid, flush=True)\n"
        "os.wait()\n"
    )
    with guarded(python(code, *SLEEP), log) as process:
        leader = process.wait_started()
        (first,) = wait_until(lambda: read(log).split(), "the first daemon")
        wait_until(lambda: written_down(process) == {leader, int(first)}, "the first daemon's being noted")
        os.kill(int(first), signal.SIGKILL)
        _, second = wait_until(lambda: len(read(log).split()) == 2 and read(log).split(), "the second daemon")
        wait_until(lambda: written_down(process) == {leader, int(second)}, "the second daemon's being noted")


def test_a_pid_that_was_written_down_is_another_process_now(tmp_path):
    """The same PID with another start time is nobody's business."""
    with bystander() as other:
        start = guard.stat(other.pid)[2]
        (tmp_path / orphans.NOTES).write_text(json.dumps({"tree": [[other.pid, start - 1], [2**22 + 1, start]]}))
        assert orphans.noted(tmp_path) == []
        assert orphans.end_run(new_run_id(), tmp_path) == []
        (tmp_path / orphans.NOTES).write_text(json.dumps({"tree": [[other.pid, start]]}))
        assert [found.pid for found in orphans.noted(tmp_path)] == [other.pid]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"tree": [1]}', '{"tree": [["a", "b"]]}'])
def test_what_was_written_down_may_be_damaged(tmp_path, text):
    """The command can write to its own folder."""
    (tmp_path / orphans.NOTES).write_text(text)
    assert orphans.noted(tmp_path) == []


def test_guard_is_told_to_end_by_somebody_else(log):
    with guarded(SLEEP, log) as process:
        process.wait_started()
        os.kill(process.guard_pid, signal.SIGTERM)
        assert process.exited.wait(20)
        assert process.stopped


def test_being_stopped_by_the_owner_is_not_being_stopped_by_somebody_else(log):
    with guarded(SLEEP, log) as process:
        process.wait_started()
        process.stop()
        assert not process.stopped
    with guarded(python("pass"), log) as process:
        assert process.exited.wait(20)
        assert not process.stopped


def test_guard_is_killed_while_it_is_being_stopped(log):
    with nasty(log, NASTY_KEPT, grace_s=30) as (process, tree):
        stopping = threading.Thread(target=process.stop)
        stopping.start()
        os.kill(process.guard_pid, signal.SIGKILL)
        stopping.join(30)
        assert not stopping.is_alive()
        assert not any(map(alive, tree))
        assert not process.scratch.exists()


def test_a_killed_guard_does_not_concern_other_runs(log, tmp_path):
    other_log = tmp_path / "other.log"
    mine = new_run_id()
    with (
        guarded(SLEEP, other_log, run_id=mine + "0") as other,
        nasty(log, NASTY_KEPT, run_id=mine) as (process, tree),
    ):
        leader = psutil.Process(other.wait_started())
        process._guard.kill()
        assert process.exited.wait(20)
        wait_gone(tree)
        assert alive(leader)
        assert not other.exited.is_set()


def test_orphans_are_found_by_the_whole_id():
    mine, other = new_run_id(), new_run_id()
    processes = [
        subprocess.Popen(SLEEP, env={**os.environ, orphans.RUN_ID: run_id})
        for run_id in (mine, other, mine + "0", "x" + mine)
    ]
    processes.append(subprocess.Popen(SLEEP, env={**os.environ, "NOT_" + orphans.RUN_ID: mine}))
    try:
        wait_until(lambda: [found.pid for found in orphans.of_run(mine)] == [processes[0].pid], "the one of the run")
        assert orphans.end_run(mine) == []
        assert processes[0].poll() is not None
        assert [process.poll() for process in processes[1:]] == [None] * 4
        assert orphans.of_run(mine) == []
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_orphans_are_ended_where_nobody_collects_them():
    """As in a container whose first process is no init: what was killed stays a zombie, and is gone all the same."""
    cleaner = (
        "import json, sys, time; from evalscope_evalflow.processes import orphans\n"
        "began = time.monotonic(); found = len(orphans.of_run(sys.argv[1])); left = orphans.end_run(sys.argv[1])\n"
        "print(json.dumps([found, left, time.monotonic() - began]))\n"
    )
    code = (
        "import ctypes, os, subprocess, sys\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"  # a subreaper that does not reap
        "ready, ready_end = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    for _ in range(3):\n"
        "        if os.fork() == 0:\n"
        "            os.close(ready); env = {**os.environ, 'EVALFLOW_RUN_ID': sys.argv[2]}\n"
        "            os.execve(sys.executable, [sys.executable, '-ISc', 'import time; time.sleep(60)'], env)\n"
        "    os._exit(0)\n"
        "os.close(ready_end); os.read(ready, 1)\n"  # closed by all: they have got to their program
        "subprocess.run([sys.executable, '-c', *sys.argv[1:]], check=True)\n"
    )
    command = [sys.executable, "-c", code, cleaner, new_run_id()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found, left, seconds = json.loads(done.stdout)
    assert (found, left) == (3, [])
    assert seconds < 5


def test_cleaning_up_spares_its_own_process(monkeypatch):
    """A program that is part of the run may clean up after it."""
    code = (
        "import os; from evalscope_evalflow.processes import orphans\n"
        "mine = os.environ[orphans.RUN_ID]\n"
        "print([process.pid for process in orphans.of_run(mine)], orphans.end_run(mine))"
    )
    monkeypatch.setenv(orphans.RUN_ID, new_run_id())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"


def test_stdin_is_the_commands_alone(log):
    code = "import sys; print('got', sys.stdin.readline().strip(), flush=True)"
    with guarded(python(code), log, stdin=subprocess.PIPE) as process:
        process.stdin.write(b"a word\n")
        process.stdin.flush()
        assert process.exited.wait(20)
        assert read(log) == "got a word\n"
        with pytest.raises(BrokenPipeError):
            os.write(process.stdin.fileno(), b"another")


def test_stdin_ends_with_the_commands(log):
    """Although the guard lives: it keeps no end of it."""
    code = "import os, sys, time; os.close(0); print('closed', flush=True); time.sleep(600)"
    with guarded(python(code), log, stdin=subprocess.PIPE) as process:
        wait_until(lambda: "closed" in read(log), "the command")
        os.set_blocking(process.stdin.fileno(), False)
        with pytest.raises(BrokenPipeError):
            os.write(process.stdin.fileno(), b"x")
        assert not process.exited.is_set()


def test_no_stdin(log):
    with guarded(python("import sys; print(repr(sys.stdin.read()))"), log) as process:
        assert process.exited.wait(20)
        assert read(log) == "''\n"


def test_descriptor_for_the_command(log):
    """It ends when the command closes it, while guard and command live."""
    given, given_end = os.pipe()
    code = "import os, sys, time; fd = int(sys.argv[1]); os.write(fd, b'hello'); os.close(fd); time.sleep(600)"
    with guarded(python(code, given_end), log, pass_fds=(given_end,)) as process:
        os.close(given_end)
        with os.fdopen(given, "rb") as pipe:
            assert pipe.read() == b"hello"
        assert not process.exited.is_set()


def test_output_is_handed_on(log):
    """As it comes, and without keys."""
    go, go_end = os.pipe()
    got, first, last = [], threading.Event(), threading.Event()

    def output(data):
        got.append(data)
        if b"first" in b"".join(got):
            first.set()
        if b"last" in b"".join(got):
            last.set()

    code = "import os, sys; print('first', os.environ['KEY'], flush=True); os.read(int(sys.argv[1]), 1); print('last')"
    env = {**os.environ, "KEY": "sk-secret"}
    with guarded(python(code, go), log, env=env, secrets=("KEY",), output=output, pass_fds=(go,)) as process:
        assert first.wait(20)
        assert not process.exited.is_set()
        os.write(go_end, b"x")
        assert process.exited.wait(20)
        assert last.wait(20)
    assert b"".join(got) == b"first **********\nlast\n"
    os.close(go)
    os.close(go_end)


def test_flood(log):
    """Nobody reads the log; the command must not wait for anybody."""
    with guarded(python("import os\nfor _ in range(50): os.write(1, b'x' * 99_999 + b'\\n')"), log) as process:
        assert process.exited.wait(60)
        assert process.exit_code == 0
        assert log.stat().st_size == 5_000_000


def test_log_is_appended_to(log):
    log.write_text("of an earlier run\n")
    with guarded(python("print('new')"), log) as process:
        assert process.exited.wait(20)
    assert read(log) == "of an earlier run\nnew\n"


def test_key_is_in_no_command_line(log):
    env = {**os.environ, "KEY": "sk-secret-0123"}
    with guarded(SLEEP, log, env=env, secrets=("KEY",)) as process:
        process.wait_started()
        for one in [psutil.Process(process.guard_pid), *below(process.guard_pid)]:
            assert "sk-secret-0123" not in " ".join(one.cmdline())


def test_cpu_time_of_the_whole_tree(log):
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n    while True: pass\n"  # the child works
        "os.wait()\n"
    )
    with guarded(python(code), log) as process:
        wait_until(lambda: process.cpu_seconds() > 0.3, "CPU time of the child")
        process.stop()
        assert process.cpu_seconds() == 0


def test_two_commands_of_one_run(log, tmp_path):
    """Stopping one is no reason to end the other."""
    both = new_run_id()
    with guarded(SLEEP, log, run_id=both) as one, guarded(SLEEP, tmp_path / "other.log", run_id=both) as other:
        leader = psutil.Process(other.wait_started())
        one.wait_started()
        one.stop()
        assert not other.exited.is_set()
        assert alive(leader)


def test_what_cannot_be_started_leaves_nothing(log, tmp_path, monkeypatch):
    """Not a folder, not a descriptor: the environment is larger than the kernel takes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Argument list too long"):
        SupervisedProcess(SLEEP, env={"A": "x" * 3_000_000}, log=log, run_id="none").start()
    assert os.listdir(tmp_path / "tmp") == []
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_nothing_of_it_stays_in_the_owner(log):
    """Descriptors and threads are given back."""
    with guarded(python("pass"), log) as process:  # once, for what is made once
        process.exited.wait(20)
    wait_until(lambda: "evalflow-status" not in [thread.name for thread in threading.enumerate()], "its thread's end")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with guarded(python("print('x')"), log, output=lambda data: None) as process:
            assert process.exited.wait(20)
    names = {"evalflow-status", "evalflow-output"}
    wait_until(lambda: not names & {thread.name for thread in threading.enumerate()}, "its threads' end")
    assert len(os.listdir("/proc/self/fd")) == before
