"""A run folder that can be written no more: noticed while the run goes on, and told with what to do."""

from __future__ import annotations

import errno
import shutil
from contextlib import suppress
from pathlib import Path

from evalscope_evalflow.errors import EvalFlowError

PROBE_BYTES = 4096
_TODO = {
    errno.ENOSPC: "Make room",
    errno.EDQUOT: "Make room (your quota is used up)",
    errno.EROFS: "Make it writable",
    errno.EACCES: "Make it writable",
    errno.EPERM: "Make it writable",
}


class FolderError(EvalFlowError):
    """The run folder cannot be written; what was saved is kept."""


def probe(folder: Path) -> None:
    """Write a little, for EvalScope goes on asking the model when it can save no answer.

    Raises:
        OSError: nothing can be written.
    """
    path = folder / ".probe"
    try:
        path.write_bytes(b"\0" * PROBE_BYTES)
    finally:
        with suppress(OSError):
            path.unlink()


def explain(folder: Path, error: OSError) -> EvalFlowError:
    """The error for a run that was ended by an OSError."""
    todo = _TODO.get(error.errno or 0)
    if todo is None:
        return EvalFlowError(f"{folder}: {error}")
    free = ""
    with suppress(OSError):
        free = f" ({shutil.disk_usage(folder).free / 1e6:.1f} MB free)" if error.errno == errno.ENOSPC else ""
    return FolderError(
        f"{folder} cannot be written: {error.strerror}{free}"
        f"\n    {todo}, and run the same command: it goes on from the answers that were saved."
    )
