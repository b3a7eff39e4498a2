"""Ports on this machine: chosen outside the range of outgoing connections, and never given out twice by us."""

from __future__ import annotations

import errno
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from evalscope_evalflow.config.file_locks import has_no_locks
from evalscope_evalflow.processes.private_folder import private_folder

# Below Linux's range of ephemeral ports (32768–60999): no outgoing connection can take one meanwhile.
RANGE = range(20000, 32000)


class PortLease:
    """A port that is free now, and that no other EvalFlow process will choose while the lease is held."""

    def __init__(self, port: int, lock: FileLock) -> None:
        self.port, self._lock = port, lock

    def release(self) -> None:
        """Give the port back."""
        self._lock.release()


def lease(host: str, first: int | None = None) -> PortLease:
    """Lease a port.

    Args:
        host: address that will be bound.
        first: the port to try first; the next free one above it is the second choice. None: any.

    Raises:
        OSError: the host is no address of this machine, or no port is free.
    """
    reason = why_not(host, 0)
    if reason is not None:
        raise OSError(f"cannot listen at {host}: {reason.strerror}")
    for port in _candidates(first):
        lock = FileLock(_lock_folder() / f"port-{port}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        except (OSError, NotImplementedError) as error:
            if not has_no_locks(error):
                raise
        if is_free(host, port):
            return PortLease(port, lock)
        lock.release()
    raise OSError(f"no free port on {host}" + (f" from {first} upwards" if first else ""))


def is_free(host: str, port: int) -> bool:
    """Whether a server could bind the port now."""
    return why_not(host, port) is None


def why_not(host: str, port: int) -> OSError | None:
    """What keeps a server from listening there now; None: nothing. Port 0 asks for the host alone."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:  # a name that cannot be resolved is one, too
        return error
    except (TypeError, ValueError):  # a text that no name can be, such as one with control characters
        return OSError(errno.EINVAL, "it is not the form of an address or of a name")
    return None


def _candidates(first: int | None) -> Iterator[int]:
    if first is not None:
        yield from range(first, min(first + 1000, 65536))
    else:
        yield from random.sample(RANGE, 1000)


def _lock_folder() -> Path:
    folder = Path(tempfile.gettempdir(), f"evalflow-ports-{os.getuid()}")  # of this machine, unlike a home folder
    return private_folder(folder, "set TMPDIR to another folder")  # a lock's file is emptied, also behind a link
