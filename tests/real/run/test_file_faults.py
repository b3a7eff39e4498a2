"""A write that fails, is cut, or is the last before a SIGKILL: the run says so, and the next one makes it good.

Some of the faults that `tests/injected/file_faults.py` makes by the thousand, chosen by a seed.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from failing_calls import Fault, faults_of, library
from fault_trials import Trials, WarmProcess
from question_server import QuestionServer
from trial_kinds import PartTrials, make_trials

pytestmark = pytest.mark.real
SEED = 17
PARTS = {"record": 10, "answers": 14, "rows": 8, "vlm": 8, "registry": 8}


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmProcess]:
    process = WarmProcess(tmp_path_factory.mktemp("warm"))
    yield process
    process.close()


@pytest.fixture(scope="module")
def server() -> Iterator[QuestionServer]:
    with QuestionServer() as found:
        yield found


@pytest.fixture(scope="module")
def judged(warm: WarmProcess, server: QuestionServer, tmp_path_factory: pytest.TempPathFactory) -> Trials:
    """Real EvalScope, real guard, an API and a judge."""
    trials = make_trials("judged", tmp_path_factory.mktemp("judged"), server, warm)
    trials.undisturbed()
    return trials


def some(trials: Trials, number: int) -> list[Fault]:
    return random.Random(SEED).sample(list(faults_of(trials.calls, SEED)), number)


def test_the_library_makes_one_call_fail_and_no_other(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "hits").write_bytes(b"\0" * 8)
    rules = {"root": root, "role": "other", "op": "write", "path": "a.*", "at": 2, "act": "cut-ENOSPC"}
    rules["hits"] = tmp_path / "hits"
    (tmp_path / "control").write_text("".join(f"{name}={value}\n" for name, value in rules.items()))
    script = """
import os
for number in (1, 2, 3):
    for name in ("a.txt", "b.txt"):
        file, data = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), f"line {number}\\n".encode()
        try:
            while data:
                data = data[os.write(file, data):]
        except OSError as error:
            print(name, number, error.strerror)
        os.close(file)
"""
    env = {"LD_PRELOAD": str(library()), "FAILING_CALLS": str(tmp_path / "control")}
    command = [sys.executable, "-IS", "-c", script]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "a.txt 2 No space left on device\n"
    assert (root / "a.txt").read_text() == "line 1\nlinline 3\n"
    assert (root / "b.txt").read_text() == "line 1\nline 2\nline 3\n"


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_that_writes_files(kind: str, warm: WarmProcess, server: QuestionServer, tmp_path: Path) -> None:
    trials = make_trials(kind, tmp_path, server, warm)
    assert isinstance(trials, PartTrials)
    trials.undisturbed()
    struck = 0
    for fault in some(trials, PARTS[kind]):
        hit, wrong = trials.trial(fault)
        struck += hit
        assert not wrong, f"{fault}\n" + "\n".join(wrong)
    assert struck >= PARTS[kind] // 2


def test_a_whole_task(judged: Trials) -> None:
    must = [
        Fault("worker", "write", "work/m/predictions/m/general_mcq_tiny.jsonl", 2, "cut-ENOSPC"),
        Fault("worker", "write", "work/m/reviews/m/general_mcq_tiny.jsonl", 2, "EIO"),
        Fault("worker", "write", "work/m/evalflow/usage.jsonl", 3, "EDQUOT"),
        Fault("parent", "rename", "work/m/evalflow/cells.json", 2, "kill"),
    ]
    for fault in (*must, *some(judged, 2)):
        hit, wrong = judged.trial(fault)
        assert hit or fault not in must, fault
        assert not wrong, f"{fault}\n" + "\n".join(wrong)


def test_a_run_that_is_killed_again_and_again_ends(judged: Trials) -> None:
    """Each time after longer, by SIGKILL of the orchestrator: what it had finished is never done again."""
    killed, in_flight = judged.killed_in_a_row(first_s=0.3, longer=1.4)
    assert killed >= 2
    assert judged.result() == judged.wanted
    asked_again = sum(number - 1 for number in judged.server.asked.values())
    assert asked_again <= killed * in_flight
