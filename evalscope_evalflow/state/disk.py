"""A run folder that cannot be written any more: noticed while the run goes on, and reported with what to do."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from evalscope_evalflow.errors import EvalFlowError
from evalscope_evalflow.events.disk_errors import OF_DISKS

PROBE_BYTES = 4096
_TODO = {
    errno.ENOSPC: "Make room",
    errno.EDQUOT: "Make room (your quota is used up)",
    errno.EROFS: "Make it writable",
    errno.EACCES: "Make it writable",
    errno.EPERM: "Make it writable",
    errno.EIO: "See to the disk, or to the connection to it (`dmesg` has more)",
    errno.ESTALE: "See to the network file system, which has lost the file",
}
_AGAIN = "run the same command again: it resumes with the answers that were saved."


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
    if todo is None or (named is None and error.errno not in OF_DISKS):
        return EvalFlowError(f"{error}\n    See to that, and {_AGAIN}")
    if error.errno not in OF_DISKS and not ours:
        return EvalFlowError(f"{named}: {error.strerror}\n    Is it yours to use? Then {_AGAIN}")
    where = named or folder
    free = ""
    with suppress(OSError):
        existing = next(path for path in (where, *where.parents) if path.exists())
        free = f" ({shutil.disk_usage(existing).free / 1e6:.1f} MB free)" if error.errno == errno.ENOSPC else ""
    cannot = "cannot be written" if error.errno in _OF_WRITING else "cannot be read or written"
    return FolderError(f"{where} {cannot}: {error.strerror}{free}\n    {todo}, and {_AGAIN}")
