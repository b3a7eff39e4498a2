"""Folders of ours below /tmp, where everybody may make a folder or a link of that name first."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def private_folder(path: Path, todo: str) -> Path:
    """A folder that only this user can write; made if it is not there.

    Args:
        path: the folder.
        todo: what the user can do where it is somebody else's.

    Raises:
        OSError: it cannot be made; or it is a link, somebody else's, or others can write it (PermissionError).
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{path} is not a folder that only this user can write; {todo}")
    return path
