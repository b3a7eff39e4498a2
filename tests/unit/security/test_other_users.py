"""Another user of the machine: what they make first below /tmp is not used, and what is ours they cannot read.

As root, they are made by chown and asked by a process of theirs. A user who may not do that looks from the other side:
the files are this user's, and EvalFlow is told that it runs as somebody else.
"""

import json
import os
import re
import stat
import subprocess

import pytest
from serving_fixtures import guarded, python, wait_until

from evalscope_evalflow.cli import command_line as cli
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.processes import guard, ports, registry
from evalscope_evalflow.processes.registry import Registration
from evalscope_evalflow.run.preflight import preflight
from evalscope_evalflow.worker.request_slots import RequestSlots

STRANGER = 54321


@pytest.fixture
def given_to_a_stranger(monkeypatch):
    """A function that has another user own a file, a folder, or a link."""

    def give(*paths):
        if os.geteuid() == 0:
            for path in paths:
                os.lchown(path, STRANGER, STRANGER)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: STRANGER)

    return give


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A folder like /tmp, which is the one for temporary files."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_the_runtime_folder_is_not_taken_from_somebody_else(shared, given_to_a_stranger, monkeypatch, capsys):
    folder = shared / "runtime"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("EVALFLOW_RUNTIME_DIR", str(folder))
    given_to_a_stranger(folder)
    with pytest.raises(PermissionError, match="EVALFLOW_RUNTIME_DIR"):
        registry.folder()
    assert cli.main(["ps"]) == 1
    assert "EVALFLOW_RUNTIME_DIR" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["folder", "link", "writable"])
def test_nor_is_the_folder_of_the_ports_locks(shared, tmp_path, given_to_a_stranger, how):
    """A lock's file is emptied when it is taken: in a folder of theirs it could be a link to a file of ours."""
    victim = tmp_path / "precious"
    victim.write_text("data")
    folder = shared / f"evalflow-ports-{os.getuid()}"
    real = tmp_path / "elsewhere" if how == "link" else folder
    real.mkdir()
    for port in (20000, 20001, 20002):
        (real / f"port-{port}.lock").symlink_to(victim)
    if how == "link":
        folder.symlink_to(real)
    elif how == "folder":
        given_to_a_stranger(folder)
    else:
        folder.chmod(0o777)
    with pytest.raises(PermissionError, match="TMPDIR"):
        ports.lease("127.0.0.1", 20000)
    assert victim.read_text() == "data"


def test_folders_for_temporary_files_have_names_that_nobody_knows_before(shared, tmp_path):
    with guarded(python("import time; time.sleep(60)"), tmp_path / "log") as process:
        assert process.scratch.parent == shared
        assert re.fullmatch(r"evalflow-[0-9a-f]{10}", process.scratch.name)
        assert stat.S_IMODE(process.scratch.stat().st_mode) == 0o700
        process.stop()
    process.scratch.mkdir()  # by somebody else, who has guessed it
    with pytest.raises(FileExistsError):
        process.start()


def test_slots_are_below_the_runtime_folder_and_ours_alone(tmp_path):
    folder = registry.folder() / "requests-1"
    with RequestSlots(folder, 1).one():
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "slot-0").stat().st_mode) == 0o600


def test_what_a_dead_run_names_is_removed_only_if_it_is_a_folder_of_ours(tmp_path, shared, given_to_a_stranger):
    """`clean` follows no link, and takes no folder of others, whatever stands in the list of runs."""
    from evalscope_evalflow.processes.cleanup import _is_ours

    (tmp_path / "precious").mkdir()
    (shared / "evalflow-link").symlink_to(tmp_path / "precious")
    (shared / "evalflow-theirs").mkdir()
    (shared / "evalflow-ours").mkdir()
    (shared / "other").mkdir()
    assert _is_ours(shared / "evalflow-ours")
    assert not _is_ours(shared / "other")
    assert not _is_ours(shared / "evalflow-link")
    assert not _is_ours(shared / "nothing")
    given_to_a_stranger(shared / "evalflow-theirs")
    if os.geteuid() == os.getuid():
        assert not _is_ours(shared / "evalflow-theirs")


def test_shared_memory_of_others_is_left_alone(tmp_path, monkeypatch, given_to_a_stranger):
    path = tmp_path / "segment"
    path.touch(mode=0o600)
    inode = path.stat().st_ino
    assert guard.is_private(str(path), inode)
    (tmp_path / "link").symlink_to(path)
    assert not guard.is_private(str(tmp_path / "link"), inode)
    given_to_a_stranger(path)
    assert not guard.is_private(str(path), inode)


def task(work_dir):
    return Task.parse({
        "datasets": ["general_qa"], "work_dir": str(work_dir),
        "evalflow": {"backend": "Native", "models": [{"name": "m", "api_url": "http://127.0.0.1:9/v1"}]},
    })  # fmt: skip


def told(work_dir):
    with pytest.raises(ConfigError) as caught:
        preflight(task(work_dir))
    return str(caught.value)


def test_a_work_dir_that_somebody_else_has_made_in_tmp_is_refused(shared, given_to_a_stranger):
    (shared / "work" / "mine").mkdir(parents=True)
    assert "which everybody can write" not in told(shared / "work" / "mine")
    (shared / "work").chmod(0o777)  # so that it can be written by us
    given_to_a_stranger(shared / "work")
    assert "which everybody can write\n    Choose a folder of your own" in told(shared / "work" / "mine")


@pytest.mark.parametrize("place", ["evalflow/engine.log", "predictions", "predictions/m/d.jsonl", "m", "evalflow"])
def test_links_that_somebody_else_has_put_into_a_run_folder_are_refused(tmp_path, given_to_a_stranger, place):
    link = tmp_path / "work" / "m" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "precious")
    assert "would go elsewhere" not in told(tmp_path / "work")  # a link of the user's own
    given_to_a_stranger(link)
    said = told(tmp_path / "work")
    assert f"{link} is a link" in said
    assert "would go elsewhere" in said
    assert not (tmp_path / "precious").exists()


def test_others_read_no_key_and_no_list_of_runs(tmp_path):
    """Modes, as another user meets them; as root, a process of that user tries."""
    key = "sk-secret-0123456789"
    entry = Registration("run-1", model="m")
    ready = "import os, time; print(os.environ['A_KEY'][:2], flush=True); time.sleep(60)"
    with guarded(
        python(ready), tmp_path / "log", env={**os.environ, "A_KEY": key}, secrets=["A_KEY"], entry=entry
    ) as one:
        one.wait_started()
        wait_until(lambda: (tmp_path / "log").read_text(), "it has said something")
        closed = [f"/proc/{one.leader}/environ", str(registry.path_of("run-1")),
                  str(tmp_path / "log")]  # fmt: skip
        assert stat.S_IMODE(registry.folder().stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600
        assert stat.S_IMODE(os.stat(closed[0]).st_mode) == 0o400
        for pid in (one.leader, one.guard_pid):
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                assert key.encode() not in file.read()
        if os.geteuid() == 0:
            stranger = {"user": STRANGER, "group": STRANGER, "extra_groups": [], "cwd": "/", "capture_output": True}
            assert subprocess.run(["cat", "/proc/self/status"], check=False, **stranger).stdout
            seen = subprocess.run(["cat", *closed], check=False, **stranger)
            assert seen.stdout == b""
    entry.close()


def test_no_core_file_keeps_a_key(tmp_path):
    """Neither beside the command nor where the kernel's pattern says: its limit is zero."""
    code = "import json, resource; print(json.dumps(resource.getrlimit(resource.RLIMIT_CORE)), flush=True)"
    with guarded(python(code), tmp_path / "log") as process:
        process.exited.wait(30)
    assert json.loads((tmp_path / "log").read_text())[0] == 0
