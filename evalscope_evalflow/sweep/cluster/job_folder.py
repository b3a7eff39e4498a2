"""A cluster job's folder on the shared file system: the pickled work in it, and what is written down of the job.

Every file is written in one step, by a rename, and each has one writer: the submitting process, or the job's own on
its node. What comes back is JSON; nothing that a job wrote is unpickled.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.events.schema import SCHEMA
from evalscope_evalflow.sweep.job import Job

JOBS = "jobs"
WORK, SUBMITTED, NODE, RESULT, STOPPED = "work.pickle", "submission.json", "node.json", "result.json", "stopped"
LOG = "job.log"
_LAST_BYTES = 2048


class Fate(str, Enum):
    """What became of one model of a job.

    ANSWERED: every answer that can be had is saved. FAILED: it could not be finished. STOPPED: somebody ended it on
    purpose. INTERRUPTED: the cluster ended the job before that, as at its time limit, and it can go on.
    """

    ANSWERED = "answered"
    FAILED = "failed"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Outcome:
    """What became of one model of a job.

    Attributes:
        fate: in a word.
        message: what there is to say of it.
        answers: how many are saved, for whoever reads a file system that shows new files late.
        devices: that the engine was given, as in `deploy.devices`; None: as the task has it.
    """

    fate: Fate
    message: str = ""
    answers: int = 0
    devices: str | None = None


@dataclass(frozen=True)
class Written:
    """What is written down of a submission; the submitting process alone writes it.

    Attributes:
        name: as the scheduler lists it, and of its folder.
        id: the scheduler's; empty: it was about to be submitted.
        executor: name and options of the executor, as in the section.
        models: the models, in the order of their turns.
        identities: by model, a hash of all that its answers would be made with.
        folders: by model, its run folder.
        devices: that it asks for.
        submitted: when it was first submitted (s since the epoch).
        host: where from.
        resubmitted: how often it was submitted again after it was lost.
        judges: whether its answers are there already, and it makes verdicts.
    """

    name: str
    id: str
    executor: Any
    models: Sequence[str]
    identities: Mapping[str, str]
    folders: Mapping[str, str]
    devices: int
    submitted: float
    host: str
    resubmitted: int = 0
    judges: bool = False


@dataclass(frozen=True)
class NodeState:
    """What a running job says of itself; the job alone writes it.

    Attributes:
        attempt: names this start of the job, and no other.
        host: the node.
        pid: its process there.
        since: when it began (s since the epoch).
        model: the model whose turn it is.
        phase: what that is busy with.
        progress: the fields of a DatasetProgress; None: nothing is counted.
    """

    attempt: str
    host: str
    pid: int
    since: float
    model: str = ""
    phase: str = "starting"
    progress: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class NodeResult:
    """What became of the models of a job, written whenever one more has had its turn.

    Attributes:
        outcomes: by model.
        ended: whether the job does nothing more.
    """

    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    ended: bool = False


def jobs_folder(work_dir: Path) -> Path:
    """Where the folders of a task's cluster jobs are: in `evalflow`, beside the records of runs."""
    return work_dir / "evalflow" / JOBS


def make_folder(work_dir: Path, name: str, jobs: Sequence[Job]) -> Path:
    """Make the folder of a job, with its pickled work; only its owner can read it.

    Raises:
        ConfigError: another user's folder is in the way, or one that others can write.
        OSError: it cannot be made.
    """
    above = jobs_folder(work_dir)
    above.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_if_others_can_write(above)
    folder = above / name
    folder.mkdir(mode=0o700)
    folder.chmod(0o700)  # whatever the umask and default ACLs make of it
    _write(folder / WORK, pickle.dumps(list(jobs)))
    return folder


def read_work(folder: Path) -> list[Job]:
    """The jobs in a folder.

    Raises:
        ConfigError: somebody else could have written them.
        OSError: they cannot be read.
    """
    refuse_if_others_can_write(folder, strict=True)
    work = folder / WORK
    found = work.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError(_not_safe(work))
    jobs: list[Job] = pickle.loads(work.read_bytes())
    return jobs


def refuse_if_others_can_write(folder: Path, *, strict: bool = False) -> None:
    """Check that a folder is this user's own, and nobody else's to write.

    Args:
        folder: it.
        strict: whether others may not read it either.

    Raises:
        ConfigError: it is not.
        OSError: it is not there.
    """
    found = folder.lstat()
    forbidden = 0o077 if strict else 0o022
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & forbidden:
        raise ConfigError(_not_safe(folder))


def _not_safe(path: Path) -> Problem:
    what = f"{path} is not this user's alone, so that what is pickled in it may be anybody's"
    return Problem("work_dir", what, "Remove it, or choose another work_dir.")


def folders(work_dir: Path) -> Iterator[Path]:
    """The folders of all jobs that are written down below a task's folder."""
    try:
        entries = list(os.scandir(jobs_folder(work_dir)))
        found = sorted(entry.path for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return
    yield from map(Path, found)


def write_submission(folder: Path, written: Written) -> None:
    """Write down what is submitted, or that it is about to be."""
    _write_json(folder / SUBMITTED, dataclasses.asdict(written))


def read_submission(folder: Path) -> Written | None:
    """What is written down of a submission; None: nothing that can be read."""
    found = _parsed(Written, _read_json(folder / SUBMITTED))
    return found if isinstance(found, Written) else None


def write_node(folder: Path, state: NodeState) -> None:
    """Write down how far a job is."""
    _write_json(folder / NODE, dataclasses.asdict(state))


def read_node(folder: Path) -> NodeState | None:
    """How far a job is; None: it was not started."""
    found = _parsed(NodeState, _read_json(folder / NODE))
    return found if isinstance(found, NodeState) else None


def write_result(folder: Path, result: NodeResult) -> None:
    """Write down what became of the models so far."""
    outcomes = {name: dataclasses.asdict(item) for name, item in result.outcomes.items()}
    _write_json(folder / RESULT, {"outcomes": outcomes, "ended": result.ended})


def read_result(folder: Path) -> NodeResult:
    """What became of the models so far."""
    found = _read_json(folder / RESULT)
    outcomes = {}
    listed = found.get("outcomes")
    for name, item in listed.items() if isinstance(listed, dict) else ():
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            devices = item.get("devices")
            outcomes[str(name)] = Outcome(
                Fate(item["fate"]),
                str(item.get("message", "")),
                int(item.get("answers", 0)),
                None if devices is None else str(devices),
            )
    return NodeResult(outcomes, bool(found.get("ended")))


def mark_stopped(folder: Path) -> None:
    """Write down that a job is ended on purpose, so that nobody submits it again."""
    with suppress(OSError):
        (folder / STOPPED).touch(mode=0o600)


def is_stopped(folder: Path) -> bool:
    """Whether a job was ended on purpose."""
    return (folder / STOPPED).exists()


def last_words(folder: Path) -> str:
    """The last line of a job's log, for a message; empty where it has none."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return f"; its log ends with: {lines[-1].strip()}" if lines else ""


def clear_for_resubmission(folder: Path) -> None:
    """Remove what the last start of a job has left of itself; the fate of each model stays."""
    (folder / NODE).unlink(missing_ok=True)
    before = read_result(folder)
    lasting = {name: item for name, item in before.outcomes.items() if item.fate is not Fate.INTERRUPTED}
    write_result(folder, NodeResult(lasting))


def remove(folder: Path) -> None:
    """Remove a job's folder. A job that has not begun finds nothing to do then, and one that runs ends itself."""
    gone = folder.with_name(f".{folder.name}.{secrets.token_hex(3)}")
    with suppress(OSError):
        folder.rename(gone)
        for path in gone.iterdir():
            path.unlink()
        gone.rmdir()


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    _write(path, json.dumps({"schema": SCHEMA, **data}, default=str).encode())


def _write(path: Path, data: bytes) -> None:
    """Write a file in one step; only its owner can read it."""
    new = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any]:
    """A file's mapping; empty where there is none that can be read. Opened anew, as NFS then asks its server."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _parsed(kind: type[Any], data: Mapping[str, Any]) -> Any:
    known = {item.name for item in dataclasses.fields(kind)}
    try:
        return kind(**{name: value for name, value in data.items() if name in known})
    except TypeError:
        return None
