"""Runs a task with one call failing, then again on a good disk, and looks at what became of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from failing_calls import Control, Fault, library
from question_server import CUT, REFUSED, QuestionServer

HERE = Path(__file__).parent
MODEL_KEY, JUDGE_KEY = "sk-model-5f1e8d0c", "sk-judge-77aa01bc"
AT_ONCE = 2
ROWS = 6
TRIAL_S = 90.0
# What a message says to do.
TODO = re.compile(
    r"[Rr]un the same command again|[Mm]ake room|[Mm]ake it writable|Choose another|Is it yours|resumes|is kept|then: "
)


def write_rows(data: Path) -> None:
    """The rows of the multiple-choice set: one that is refused, one whose answer is cut off."""
    data.mkdir(parents=True)
    special = {2: REFUSED, 4: CUT}
    with (data / "tiny_val.jsonl").open("w") as file:
        for number in range(ROWS):
            row = {letter: f"word {number}{letter}" for letter in "ABCD"}
            question = f"Which one is it of number {number}? {special.get(number, '')}"
            file.write(
                json.dumps({"id": str(number), "question": question, **row, "answer": "ABCD"[number % 4]}) + "\n"
            )


def native_task(url: str, data: Path, *, judge: bool = False, models: tuple[str, ...] = ("m",)) -> dict[str, Any]:
    """A task on these rows, with the Native backend."""
    task: dict[str, Any] = {
        "datasets": ["general_mcq"],
        "dataset_args": {"general_mcq": {"local_path": str(data), "subset_list": ["tiny"]}},
        "generation_config": {"max_tokens": 16, "temperature": 0.0, "retries": 1, "retry_interval": 0},
        "eval_batch_size": AT_ONCE,
        "work_dir": "work",
        "evalflow": {
            "backend": "Native",
            "judge_max_num_seqs": AT_ONCE,
            "models": [{"name": name, "api_url": url, "api_key": "${MODEL_KEY}"} for name in models],
        },
    }
    if judge:
        options = {"generation_config": {"retries": 0, "retry_interval": 0}}
        model = {"model_id": "judge", "api_url": url, "api_key": "${JUDGE_KEY}", **options}
        task["judge"] = {"strategy": "llm", "models": [model]}
    if len(models) > 1:
        task["evalflow"]["exporters"] = ["csv", "jsonl", "parquet"]
    return task


class WarmProcess:
    """The process that forks runs."""

    def __init__(self, folder: Path) -> None:
        env = {
            **os.environ, "LD_PRELOAD": str(library()), "EVALFLOW_DISABLE": "1", "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONFAULTHANDLER": "1",
        }  # fmt: skip
        env.pop("FAILING_CALLS", None)
        self._log = (folder / "warm.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, HERE / "warm_process.py"], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        assert self._replies.readline() == "{}\n", (folder / "warm.log").read_text()

    def run(self, **request: Any) -> dict[str, Any]:
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        reply: dict[str, Any] = json.loads(self._replies.readline())
        return reply

    def close(self) -> None:
        self._requests.close()
        self._process.wait()
        self._replies.close()
        self._log.close()


@dataclass
class Outcome:
    """How a command ended.

    Attributes:
        code: its exit code.
        output: what it has said.
        left: processes that it left.
    """

    code: int
    output: str
    left: list[str] = field(default_factory=list)


class Place:
    """A folder in which a command runs, with a home, a temporary folder and a registry of its own."""

    def __init__(self, folder: Path, warm: WarmProcess) -> None:
        self.root, self._warm = folder / "root", warm
        self.more: dict[str, str] = {}  # variables beside the usual ones
        self._output = folder / "output.log"
        self.control = Control(folder / "control", self.root)

    def reset(self, template: Path) -> None:
        """Begin with a copy of a folder."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(template, self.root, symlinks=True)
        (self.root.parent / "asked.txt").unlink(missing_ok=True)
        for name in ("home", "tmp", "runtime"):
            (self.root / name).mkdir(exist_ok=True, mode=0o700)

    @property
    def variables(self) -> dict[str, str]:
        return self.more | {
            "PATH": os.environ["PATH"], "HOME": str(self.root / "home"), "TMPDIR": str(self.root / "tmp"),
            "EVALFLOW_RUNTIME_DIR": str(self.root / "runtime"), "COLUMNS": "200", "HF_HUB_OFFLINE": "1",
            "MODEL_KEY": MODEL_KEY, "JUDGE_KEY": JUDGE_KEY, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def run(self, *argv: str, learn: Path | str = "", part: str = "", kill_after: float = 0) -> Outcome:
        """Run `evalflow` there."""
        done = self._warm.run(
            argv=list(argv), env=self.variables, cwd=str(self.root), control=str(self.control.path),
            output=str(self._output), seconds=TRIAL_S, learn=str(learn), part=part,
            kill_after=kill_after,
        )  # fmt: skip
        return Outcome(done["code"], self._output.read_text(errors="replace"), done["left"])


def settled(tree: Any) -> Any:
    """A JSON tree without what differs from run to run."""
    if isinstance(tree, dict):
        return {name: settled(value) for name, value in tree.items() if not _changes(name)}
    return [settled(item) for item in tree] if isinstance(tree, list) else tree


def _changes(name: str) -> bool:
    return name in {"report", "ended", "run_id", "time", "timestamp"} or "perf" in name


def result_of(work: Path) -> dict[str, Any]:
    """What a task has come to: results, answers and verdicts of every model."""
    found: dict[str, Any] = {}
    for record in sorted(work.glob("**/evalflow/run.json")):
        folder = record.parent.parent
        data = json.loads(record.read_text())
        answers, verdicts = {}, {}
        for path in folder.glob("predictions/*/*.jsonl"):
            for item in rows(path):
                name = f"{path.name} {item['index']}"
                assert name not in answers, f"answered twice: {name}"
                answers[name] = item["model_output"]["choices"][0]["message"]["content"]
        for path in folder.glob("reviews/*/*.jsonl"):
            for item in rows(path):
                name = f"{path.name} {item['index']}"
                assert name not in verdicts, f"judged twice: {name}"
                verdicts[name] = item["sample_score"]["score"]["value"]
        reports = {
            path.name: {key: settled(value) for key, value in json.loads(path.read_text()).items() if key == "metrics"}
            for path in folder.glob("reports/*/*.json")
        }
        found[str(folder.relative_to(work))] = {
            "state": data["state"], "results": settled(data.get("results")), "answers": answers,
            "verdicts": verdicts, "reports": reports,
        }  # fmt: skip
    return found


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; each of them has to be whole."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def unreadable(root: Path, *, torn: bool) -> list[str]:
    """Files that are not as their names say; `torn`: the last line of a JSON-lines file may be half."""
    found = []
    for path in root.rglob("*"):
        if not path.is_file():
            continue
        text = path.read_bytes()
        if any(key.encode() in text for key in (MODEL_KEY, JUDGE_KEY)):
            found.append(f"{path} holds a key")
        try:
            if path.suffix == ".json":
                json.loads(text)
            elif path.suffix == ".jsonl":
                lines = text.split(b"\n")
                for line in lines[: len(lines) - 1 if torn else None]:
                    if line.strip():
                        json.loads(line)
        except ValueError as error:
            found.append(f"{path}: {error}")
    return found


def strays(root: Path) -> list[str]:
    """Files that should not be there once a run is over. Those of xlsxwriter are in a folder that the guard removes."""
    allowed = re.compile(r"tmp/evalflow-ports-|tmp/tmp")
    found = [str(path) for path in (root / "tmp").iterdir() if not allowed.search(str(path.relative_to(root)))]
    found += [str(path) for path in (root / "runtime").rglob("*") if path.suffix in (".json", ".new")]
    found += [str(path) for path in root.rglob("*") if path.name.endswith(".new") or path.name == ".probe"]
    return found


class Trials:
    """Trials of one task."""

    def __init__(self, place: Place, server: QuestionServer, template: Path, argv: tuple[str, ...]) -> None:
        self.place, self.server, self.template, self.argv = place, server, template, argv
        self.calls: Counter[tuple[str, str, str]] = Counter()
        self.roles: tuple[str, ...] = ("parent", "worker", "guard")
        self.forgiving = False
        self.asked: Counter[tuple[str, str]] = Counter()
        self.wanted: dict[str, Any] = {}
        self.code = 0
        self.wanted_output = ""

    def _run(self, learn: Path | str = "") -> Outcome:
        return self.place.run(*self.argv, learn=learn)

    def undisturbed(self) -> None:
        """Do it once with no fault, and note what it comes to and which calls it makes."""
        learn = self.place.root.parent / "imported"
        learn.mkdir(exist_ok=True)
        for folder in (learn, ""):
            self.place.reset(self.template)
            self.server.asked.clear()
            self.place.control.watch()
            done = self._run(folder)
            assert not done.left, done.left
        self.code, self.wanted_output = done.code, done.output
        self.asked = Counter(self.server.asked)
        assert set(self.asked.values()) <= {1}, self.asked
        found = self.place.control.calls()
        self.calls = Counter({call: number for call, number in found.items() if call[0] in self.roles})
        self.wanted = self._found()
        assert not unreadable(self.place.root, torn=False)
        assert not strays(self.place.root), strays(self.place.root)

    def trial(self, fault: Fault) -> tuple[bool, list[str]]:
        """Whether the fault has struck, and what is wrong then."""
        place, root = self.place, self.place.root
        place.reset(self.template)
        self.server.asked.clear()
        place.control.inject(fault)
        first = self._run()
        struck = place.control.struck()
        if not struck:
            return False, []
        place.control.rest()
        wrong = [f"left: {line}" for line in first.left]
        wrong += [f"after the fault: {line}" for line in unreadable(root, torn=True)]
        wrong += self._message(fault, first)
        if first.code == self.code and not fault.kills and not self.forgiving and self.result() != self.wanted:
            wrong.append(f"exit code {first.code}, but another result: {self._difference()}")
        asked = Counter(self.server.asked)
        again = self._run()
        if again.code != self.code:
            wrong.append(f"run again: exit code {again.code}")
        wrong += [f"run again, left: {line}" for line in again.left]
        wrong += [f"run again: {line}" for line in unreadable(root, torn=False)]
        wrong += [f"run again, stray: {line}" for line in strays(root)]
        if self.result() != self.wanted:
            wrong.append(f"run again: another result: {self._difference()}")
        twice = {name: number for name, number in self.server.asked.items() if number > self.asked.get(name, 0)}
        for model in {name for name, _ in twice}:
            count = sum(name == model for name, _ in twice)
            if count > AT_ONCE:
                wrong.append(f"{count} questions to {model} were asked twice")
        if any(number > 2 for number in twice.values()):
            wrong.append(f"a question was asked {max(twice.values())} times")
        if first.code == self.code and not fault.kills and self.server.asked != asked:
            wrong.append("it had ended well, and asked more when it was run again")
        if wrong:
            wrong += ["first: " + first.output[-3000:], "again: " + again.output[-3000:]]
        return True, wrong

    def killed_in_a_row(self, first_s: float, longer: float) -> tuple[int, int]:
        """Kill the orchestrator, and run the same again, until a run ends by itself.

        Args:
            first_s: seconds until the first kill.
            longer: how many times as long as the one before each further run may take.

        Returns:
            How often it was killed, and how many questions may be in flight at a kill, the judge's included.
        """
        self.place.reset(self.template)
        self.place.control.rest()
        self.server.asked.clear()
        killed = 0
        while True:
            done = self.place.run(*self.argv, kill_after=first_s * longer**killed)
            assert not done.left, done.left
            assert not unreadable(self.place.root, torn=True)
            if done.code != -signal.SIGKILL:
                assert done.code == self.code, done.output
                return killed, 2 * AT_ONCE
            killed += 1

    def _message(self, fault: Fault, done: Outcome) -> list[str]:
        """What is wrong with what was said."""
        if "Traceback" in done.output:
            return ["a traceback"]
        if fault.kills and fault.role == "parent":
            return [] if done.code == -9 else [f"exit code {done.code}"]
        if done.code == self.code:
            return []
        if done.code not in (1, 2, 3):
            return [f"exit code {done.code}"]
        found = []
        if not TODO.search(done.output):
            found.append("no word of what to do")
        if not fault.kills and str(self.place.root) not in done.output and not re.search(r"\b(work|out)/", done.output):
            found.append("no file is named")
        return found

    def _found(self) -> Any:
        return result_of(self.place.root / "work")

    def result(self) -> Any:
        try:
            return self._found()
        except (AssertionError, ValueError, LookupError, OSError) as error:
            return f"{type(error).__name__}: {error}"

    def _difference(self) -> str:
        found = self.result()
        if not isinstance(found, dict):
            return str(found)
        return "; ".join(differences(self.wanted, found))[:1500]


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """What differs between two JSON trees."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = [*one, *(name for name in other if name not in one)]
        return [line for name in names for line in differences(one.get(name), other.get(name), f"{where}/{name}")]
    return [] if one == other else [f"{where}: {str(one)[:200]} → {str(other)[:200]}"]
