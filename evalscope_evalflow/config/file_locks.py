"""Locks of files, also where the file system has none: NFS without its lock daemon, many FUSE mounts."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_NONE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


def has_no_locks(error: BaseException) -> bool:
    """Whether an error says that there are no locks, and not that somebody else has one."""
    return isinstance(error, NotImplementedError) or (
        isinstance(error, OSError) and not isinstance(error, Timeout) and error.errno in _NONE
    )


@contextmanager
def locked(path: Path, timeout_s: float = -1) -> Iterator[bool]:
    """A block in which nobody else has a lock; whether it has one itself, as without locks it is entered all the same.

    Args:
        path: the lock's file.
        timeout_s: how long to wait for it; below 0: for ever.

    Raises:
        Timeout: somebody else has it.
        OSError: the file cannot be made.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout_s)
        held = True
    except (OSError, NotImplementedError) as error:
        if not has_no_locks(error):
            raise
        held = False
    try:
        yield held
    finally:
        if held:
            lock.release()
