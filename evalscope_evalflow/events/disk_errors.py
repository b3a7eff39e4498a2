"""Tells a disk's fault from other errors, in the worker and in its parent. Standard library only."""

from __future__ import annotations

import errno
import os

# They are the disk's, whatever file they come with; errors of writing often come with none.
OF_DISKS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE})
_OF_FILES = frozenset({errno.EACCES, errno.EPERM})


def disk_error(error: BaseException | None, folder: str) -> OSError | None:
    """What of an error, or of what has led to it, is the fault of the disk that a run folder is on; None: nothing is.

    Args:
        error: the error.
        folder: the run folder.
    """
    seen: list[BaseException] = []  # an error may be its own cause, by way of another
    while error is not None and error not in seen:
        if isinstance(error, OSError) and _is_of(error, folder):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def _is_of(error: OSError, folder: str) -> bool:
    name = error.filename
    if not isinstance(name, (str, os.PathLike)):
        return error.errno in OF_DISKS
    within = f"{os.path.abspath(name)}{os.sep}".startswith(f"{os.path.abspath(folder)}{os.sep}")
    return within and error.errno in OF_DISKS | _OF_FILES
