"""What submitit starts on a node: it runs one job's command, and has Slurm start the job again at its time limit.

The class is pickled by value, so that nothing of EvalFlow is imported before the command itself runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from pathlib import Path

from submitit.helpers import DelayedSubmission

LOG = "job.log"
WAIT_S = 1.0
DONE = (0, 1)  # exit codes of a job that has done what it could (node_main.py)
_PR_SET_PDEATHSIG = 1


class SlurmWork:
    """Runs the command of a job's folder. It is pickled by submitit, and holds nothing but paths.

    Attributes:
        folder: the job's folder.
        command: what runs.
    """

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.folder, self.command = folder, command
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Run the command until it has ended.

        Raises:
            SystemExit: with its exit code, which Slurm then has of the job.
        """
        with (self.folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_end_with_parent
            )
        while self._process.poll() is None:  # in slices, so that a signal is handled within one
            try:
                self._process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                continue
        code = self._process.returncode
        if code:
            raise SystemExit(code if code > 0 else 128 - code)

    def checkpoint(self) -> DelayedSubmission | None:
        """End the command in order; submitit calls it at the time limit or at preemption, in its signal handler.

        Returns:
            What Slurm is to start again; None: the job was done.
        """
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait()
        if process is not None and process.returncode in DONE:
            return None
        return DelayedSubmission(SlurmWork(self.folder, self.command))


def _end_with_parent() -> None:
    """In the child: SIGTERM if this process dies, even by SIGKILL. Its guards end what it started."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
