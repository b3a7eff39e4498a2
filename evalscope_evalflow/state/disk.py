"""A run folder that cannot be written any more: noticed while the run goes on, and reported with what to do."""

from __future__ import annotations

import errno
import os
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
# What a write says, which names no file.
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


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
    """The error for a run that was ended by an OSError; it need not be of the run folder.

    Args:
        folder: the run's.
        error: what ended it.
    """
    todo = _TODO.get(error.errno or 0)
    named = Path(os.fsdecode(error.filename)).absolute() if isinstance(error.filename, (str, bytes)) else None
    ours = named is None or folder.absolute() in (named, *named.parents)
    if todo is None or (named is None and error.errno not in _OF_WRITING):
        return EvalFlowError(str(error))
    if error.errno not in _OF_WRITING and not ours:
        return EvalFlowError(f"{named}: {error.strerror}\n    Is it yours to use? Then run the same command again.")
    where = folder if ours or named is None else named
    free = ""
    with suppress(OSError):
        existing = next(path for path in (where, *where.parents) if path.exists())
        free = f" ({shutil.disk_usage(existing).free / 1e6:.1f} MB free)" if error.errno == errno.ENOSPC else ""
    return FolderError(
        f"{where} cannot be written: {error.strerror}{free}"
        f"\n    {todo}, and run the same command again: it resumes with the answers that were saved."
    )
