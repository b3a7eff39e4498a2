"""Reads the files of the next model into the page cache while the present one answers.

The kernel is asked for blocks of 64 MB by a process of the lowest I/O priority (`posix_fadvise`, WILLNEED); a request
cannot be taken back, so no more than a block is asked for at a time, and the next one when that is there.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.engines.checkpoints import safetensors_headers
from evalscope_evalflow.engines.checkpoints.checkpoint_location import locate
from evalscope_evalflow.events.run_events import FilesReadAhead
from evalscope_evalflow.sweep.job import Job

BLOCK_BYTES = 64 * 2**20
# Of what is free, the share that is left to the engine that answers and to everybody else.
LEFT_FREE = 0.25
_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
# ioprio_set(2): the class idle of this thread. The number of the call is that of x86-64 and, second, of aarch64.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS, _IOPRIO_IDLE = 1, 3 << 13


class Prefetch:
    """Reads files ahead in a thread of its own, until all are read, memory is short, or nobody wants it any more."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Begin.

        Args:
            files: what to read, in this order.
        """
        self._files = list(files)
        self._stop = threading.Event()
        self._found = FilesReadAhead()
        self._thread = threading.Thread(target=self._work, daemon=True, name="evalflow prefetch")
        self._thread.start()

    def stop(self) -> FilesReadAhead:
        """End it, after the block that is being read at most.

        Returns:
            What it has read.
        """
        self._stop.set()
        self._thread.join()
        return self._found

    def wait(self, timeout_s: float | None = None) -> FilesReadAhead:
        """Wait until all is read.

        Args:
            timeout_s: seconds; None: for as long as it takes.
        """
        self._thread.join(timeout_s)
        return self._found

    def _work(self) -> None:
        began, done = time.monotonic(), 0
        _be_idle()
        why_not = ""
        try:
            if sum(file.stat().st_size for file in self._files) > room_bytes():
                why_not = "memory is short"  # what was read first would be gone when it is wanted
            for file in self._files if not why_not else ():
                if in_memory(file):
                    why_not = f"{file.parent} is in memory already"
                    continue
                done, why_not = self._read(file, done)
                if why_not:
                    break
        except OSError as error:
            why_not = f"{error.filename or 'a file'} cannot be read: {error.strerror}"
        self._found = FilesReadAhead(done, round(time.monotonic() - began, 3), why_not)

    def _read(self, file: Path, done: int) -> tuple[int, str]:
        """Read a file; (bytes of all that were read, why it was not read to its end)."""
        with file.open("rb", buffering=0) as opened:
            size = os.fstat(opened.fileno()).st_size
            for start in range(0, size, BLOCK_BYTES):
                length = min(BLOCK_BYTES, size - start)
                if self._stop.is_set():
                    return done, "it was stopped"
                if length > room_bytes():
                    return done, "memory is short"
                os.posix_fadvise(opened.fileno(), start, length, os.POSIX_FADV_WILLNEED)
                # The last page is there when the block is: this waits for it, and copies no more than a byte.
                os.pread(opened.fileno(), 1, start + length - 1)
                done += length
        return done, ""


def weights_of(job: Job) -> list[Path]:
    """The files of weights that a job's engine will read; none where they cannot be found, which its start explains."""
    if not job.model.path or not resolve_engine(job.model, job.deploy).local:
        return []
    try:
        return safetensors_headers.files(locate(job.model.path))
    except (OSError, ValueError):
        return []


def room_bytes() -> int:
    """Bytes that may be read ahead: the least of what the machine and the cgroup have free, less a share."""
    free = [_available()]
    limit, used, cached = (_cgroup(name) for name in ("memory.max", "memory.current", "inactive_file"))
    if limit is not None and used is not None:
        free.append(limit - used + (cached or 0))
    return max(0, int(min(free) * (1 - LEFT_FREE)))


def in_memory(file: Path) -> bool:
    """Whether a file lies on a file system that is in memory, where there is nothing to read ahead."""
    best, kind = "", ""
    place = str(file.resolve())
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
            fields = line.split()
            mount = fields[1].replace("\\040", " ") if len(fields) > 2 else ""
            inside = mount == "/" or place == mount or place.startswith(mount + "/")
            if inside and len(mount) >= len(best):
                best, kind = mount, fields[2]
    return kind in _IN_MEMORY


def _available() -> int:
    """MemAvailable, in bytes; 0 where it cannot be read."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    return 0


def _cgroup(name: str) -> int | None:
    """A figure of this process's cgroup (version 2); None where there is none, or no limit."""
    with suppress(OSError, ValueError, StopIteration):
        path = next(
            line.split("::", 1)[1] for line in Path("/proc/self/cgroup").read_text().splitlines() if "0::" in line
        )
        folder = Path("/sys/fs/cgroup", path.strip("/"))
        if not (folder / "memory.current").exists():
            folder = Path("/sys/fs/cgroup")
        if name == "inactive_file":
            lines = (folder / "memory.stat").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("inactive_file ")).split()[1])
        return int((folder / name).read_text())
    return None


def _be_idle() -> None:
    """Give this thread the lowest I/O priority; without it where the system has no such call."""
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        with suppress(OSError):
            ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)
