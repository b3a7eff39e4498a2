"""Runs a pickled job in a fresh Python process; for executors that start processes, here or on other machines.

    python -m evalscope_evalflow.sweep.job_process JOB RESULT

JOB is a file with the pickled job, or `-` for standard input, which leaves no file that could hold a key. RESULT is a
file that then holds the pickled `ModelResult`, or the error that ended the job, written in one step. SIGINT, SIGTERM
and SIGHUP end the job in order: its engine is released and its record is written. If this process is killed, its
engine and its worker end, too. The job is reported on standard error.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import RESUME, EvalFlowError, ExitCode, Stopped
from evalscope_evalflow.processes.signals import interruptible
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.sweep.job import Job

STDIN = "-"


def job_command(result: Path, *, job: Path | None = None, python: str = sys.executable) -> list[str]:
    """The command that runs a job.

    Args:
        result: the file that it writes; an earlier one should be removed before.
        job: the file with `pickle.dumps(job)`; default: that is given on standard input.
        python: an interpreter that has EvalFlow.
    """
    return [python, "-m", "evalscope_evalflow.sweep.job_process", STDIN if job is None else str(job), str(result)]


def read_result(path: Path, *, ended: str) -> ModelResult:
    """The result of a job that ran in another process.

    Args:
        path: the file that the job was to write.
        ended: how its process ended, such as "exit code -9", for the message where there is no result.

    Raises:
        EvalFlowError: the one that ended the job; or there is no result, as its process was killed.
    """
    try:
        found = pickle.loads(path.read_bytes())
    except (OSError, EOFError, pickle.UnpicklingError):
        raise EvalFlowError(f"the job's process left no result ({ended})") from None
    if isinstance(found, EvalFlowError):
        raise found
    assert isinstance(found, ModelResult)
    return found


def main(argv: list[str]) -> int:
    """Run the job that the arguments name; returns the exit code."""
    source, target = argv
    job: Job = pickle.loads(sys.stdin.buffer.read() if source == STDIN else Path(source).read_bytes())
    result = _run(job)
    new = Path(f"{target}.new")
    new.write_bytes(pickle.dumps(result))
    new.replace(target)
    return ExitCode.COMPLETE if isinstance(result, ModelResult) else result.exit_code


def _run(job: Job) -> ModelResult | EvalFlowError:
    """The job's result, or the error that ended it."""
    try:
        with interruptible():
            return job.run(Reporter())
    except KeyboardInterrupt:
        return Stopped.all(f"interrupted; {RESUME}")
    except EvalFlowError as error:
        return error
    except Exception as error:  # noqa: BLE001 - whoever submitted the job must hear of a defect, too
        return EvalFlowError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
