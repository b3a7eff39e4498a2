"""What a test has for itself alone: /dev/shm, and a small disk to be filled or made read-only.

Both are in a mount namespace that ends with the test.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from types import TracebackType

_OWN = [] if os.geteuid() == 0 else ["--user"]


class PrivateDisk:
    """A small disk at a folder, and a /dev/shm, seen only by commands that are started with `inside`."""

    def __init__(self, folder: Path, size: str = "128m") -> None:
        """Mount them.

        Args:
            folder: where the disk is to be; it has to exist.
            size: of the disk, as mount(8) takes it.
        """
        self.folder = folder
        script = (
            'mount -t tmpfs none /dev/shm && mount -t tmpfs -o "size=$2" none "$1" && mkdir "$1/work" '
            "&& echo mounted && exec cat"
        )
        map_root = ["--map-root-user"] if _OWN else []
        self._holder = subprocess.Popen(
            ["unshare", "--mount", *map_root, "sh", "-c", script, "sh", str(folder), size],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"mounted\n", "no mount namespace can be made here"
        self._filler = self.path("filler")

    def inside(self, *command: str | Path) -> list[str]:
        """The command, to be run where the disk is."""
        credentials = ["--preserve-credentials"] if _OWN else []
        return ["nsenter", "--target", str(self._holder.pid), "--mount", *_OWN, *credentials, *map(str, command)]

    def path(self, *parts: str) -> Path:
        """A path on the disk, as it is reached from outside."""
        return Path(f"/proc/{self._holder.pid}/root{self.folder}", *parts)

    def shared_memory(self) -> list[Path]:
        """What is in /dev/shm."""
        return list(Path(f"/proc/{self._holder.pid}/root/dev/shm").iterdir())

    def fill(self) -> None:
        """Leave no room."""
        with self._filler.open("ab", buffering=0) as file:
            for block in (1048576, 65536, 4096, 512, 1):
                try:
                    while file.write(b"\0" * block):
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def make_room(self) -> None:
        """Give it back."""
        self._filler.unlink()

    def turn_read_only(self) -> None:
        """Whatever opens a file from now on may only read it."""
        work = str(self.folder / "work")
        subprocess.run(self.inside("mount", "--bind", work, work), check=True)
        subprocess.run(self.inside("mount", "-o", "remount,bind,ro", work), check=True)

    def turn_writable(self) -> None:
        """As before."""
        subprocess.run(self.inside("umount", "--lazy", self.folder / "work"), check=True)

    def __enter__(self) -> PrivateDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.communicate()  # its input ends, and so does it
