"""The kinds of trials: whole tasks, the orchestrator with a stand-in for EvalScope, commands, and parts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import part_files
import yaml
from fault_trials import Outcome, Place, Trials, WarmProcess, native_task, write_rows
from question_server import QuestionServer


class PartTrials(Trials):
    """Trials of a part (see `part_files.py`)."""

    def _run(self, learn: Path | str = "") -> Outcome:
        return self.place.run(learn=learn, part=self.argv[0])

    def _found(self) -> Any:
        return part_files.PARTS[self.argv[0]].result(self.place.root)


class CommandTrials(Trials):
    """Trials of a command that reads finished runs, and writes files into `out`."""

    def _found(self) -> Any:
        out = self.place.root / "out"
        return {str(path.relative_to(out)): _contents(path) for path in sorted(out.rglob("*")) if path.is_file()}


def _contents(path: Path) -> Any:
    """What is in a file; of an HTML page its length, as it holds times."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pylist()
    text = path.read_text()
    if path.suffix == ".html":
        assert text.rstrip().endswith("</html>"), f"{path} is cut"
        return path.name
    return text


COMMANDS = {
    "show-html": ("show", "work", "--output", "out/report.html"),
    "show-json": ("show", "work", "--output", "out/report.json"),
    "export": ("show", "work", "--export", "csv", "jsonl", "parquet", "--output", "out"),
    "compare": ("compare", "work", "--baseline", "m", "--min_share", "0.5", "--output", "out/compare.csv"),
    "compare-html": ("compare", "work", "--baseline", "m", "--min_share", "0.5", "--output", "out/compare.html"),
    "gate": ("gate", "work", "--baseline", "m", "--policy", "policy.yaml", "--junit", "out/junit.xml"),
    "init": ("init", "out/new.yaml"),
}
RUNS = {"native": ("m",), "judged": ("m",), "sweep": ("m", "n")}


def make_trials(kind: str, folder: Path, server: QuestionServer, warm: WarmProcess) -> Trials:
    """Trials of a kind: a whole task, `parent-` and a task with a stand-in for EvalScope, a command, or a part."""
    folder.mkdir(parents=True, exist_ok=True)
    template = folder / "template"
    shutil.rmtree(template, ignore_errors=True)
    place = Place(folder, warm)
    if kind in part_files.PARTS:
        template.mkdir()
        trials = PartTrials(place, server, template, (kind,))
        trials.forgiving = part_files.PARTS[kind].forgiving
        return trials
    task_kind = "sweep" if kind in COMMANDS else kind.removeprefix("parent-")
    write_rows(template / "data")
    task = native_task(server.url, place.root / "data", judge=task_kind == "judged", models=RUNS[task_kind])
    (template / "task.yaml").write_text(yaml.safe_dump(task))
    (template / "policy.yaml").write_text("min_share: 0.5\ncritical:\n  general_mcq: {max_drop: 0.3}\n")
    trials: Trials = Trials(place, server, template, ("run", "task.yaml"))
    if kind == task_kind:
        return trials
    trials.undisturbed()
    if kind.startswith("parent-"):
        whole = folder / "whole"
        shutil.copytree(place.root / "work", whole)
        place.more = {"STAND_IN_TEMPLATE": str(whole)}
        trials.roles = ("parent", "guard")
        return trials
    shutil.copytree(place.root / "work", template / "work")
    (template / "out").mkdir()
    return CommandTrials(place, server, template, COMMANDS[kind])


KINDS = (*part_files.PARTS, *COMMANDS, *(f"parent-{name}" for name in RUNS), *RUNS)
