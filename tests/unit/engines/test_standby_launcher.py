"""A launcher that imports ahead: what becomes of it at its owner's word, and what it forks instead of spawning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines.launchers import ImportsAhead, standby_argv

WAIT_S = 60
# Spawns a process, which says what it has of the variables and modules, and whose child it is.
ENGINE = """
import json, multiprocessing, os, sys

def pass_on(queue):
    process = multiprocessing.get_context("spawn").Process(target=tell, args=[queue])
    process.start()
    process.join()

def tell(queue):
    status = open(f"/proc/{os.getppid()}/cmdline").read()
    queue.put([os.environ.get("LATE"), os.environ.get("EARLY"), "chaosmodule" in sys.modules, "forkserver" in status])

if __name__ == "__main__":
    if "--omp" in sys.argv:
        os.environ["OMP_PLACES"] = "{0}"
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=pass_on if "--deep" in sys.argv else tell, args=[queue])
    process.start()
    print(json.dumps([queue.get(), [os.environ.get("LATE"), os.environ.get("EARLY"), "chaosmodule" in sys.modules]]))
    process.join()
    assert process.exitcode == 0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "engine.py").write_text(ENGINE)
    (tmp_path / "chaosmodule.py").touch()
    (tmp_path / "brokenmodule.py").write_text("raise RuntimeError('broken')")
    return tmp_path


def launch(folder: Path, word: dict[str, Any] | None) -> subprocess.CompletedProcess[str]:
    ahead = ImportsAhead(("chaosmodule", "no_such_module"), ("chaosmodule", "brokenmodule"))
    return subprocess.run(
        standby_argv(Environment.find(None), ahead), input=json.dumps(word) + "\n" if word else "",
        env={**os.environ, "PYTHONPATH": str(folder), "TMPDIR": str(folder), "EARLY": "1"},
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip


def word(folder: Path, *arguments: str) -> dict[str, Any]:
    argv = [sys.executable, str(folder / "engine.py"), *arguments]
    return {"argv": argv, "variables": {"LATE": "2", "EARLY": None}}


def test_it_becomes_the_engine_and_what_that_spawns_is_forked_with_its_variables(folder: Path) -> None:
    done = launch(folder, word(folder))
    assert done.returncode == 0, done.stderr
    *said, found = done.stdout.splitlines()
    assert json.loads(found) == [["2", None, True, True], ["2", None, True]]
    assert "evalflow: not imported ahead: no_such_module: No module named 'no_such_module'" in said
    assert "evalflow: not imported ahead: brokenmodule: broken" in said
    assert any(line.startswith("evalflow: imported ahead in ") for line in said)


def test_what_is_spawned_by_what_was_spawned_comes_from_the_same_server(folder: Path) -> None:
    done = launch(folder, word(folder, "--deep"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])[0] == ["2", None, True, True]
    assert done.stdout.count("not imported ahead: brokenmodule") == 1  # there was one server


def test_what_libraries_read_when_they_are_loaded_is_never_forked(folder: Path) -> None:
    done = launch(folder, word(folder, "--omp"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])[0] == ["2", None, False, False]


def test_without_a_word_it_ends(folder: Path) -> None:
    done = launch(folder, None)
    assert done.returncode == 1
    assert "chaosmodule" not in done.stderr
