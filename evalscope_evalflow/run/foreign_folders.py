"""Folders and links that another user has put where this user's run is going to write.

Whoever may write where everybody may, as in /tmp, can make a folder there before we do, and exchange what is in it; a
link of theirs in a run folder would have us write to one of this user's own files.
"""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from evalscope_evalflow.errors import Problem

_ROOT = 0
# What a run writes into, below a run folder; VLMEvalKit's files are in a folder that has the model's name.
_WRITTEN = ("evalflow", "predictions", "reviews", "reports", "configs", "logs")


def foreign_folder(folder: Path) -> Iterator[Problem]:
    """Whether the folder, or one above it, was made by another user in a folder that everybody can write."""
    place = Path(os.path.abspath(folder))
    for path in (place, *place.parents):
        try:
            found, above = path.lstat(), path.parent.stat()
        except OSError:  # it is still to be made
            continue
        shared = above.st_mode & stat.S_IWOTH and found.st_uid not in (_ROOT, os.geteuid())
        if shared and found.st_uid != _uid_of_new_files(path):
            what = f"{path} was made by {_name(found.st_uid)} in {path.parent}, which everybody can write"
            yield Problem("work_dir", what, "Choose a folder of your own: its owner could exchange what is in it.")
            return


def foreign_links(folder: Path, model: str) -> Iterator[Problem]:
    """Links that another user has made where the run of a model writes; links of the user's own are followed.

    Args:
        folder: the run folder.
        model: the model's name, as folders have it.
    """
    found = list(_links(folder, {*_WRITTEN, model}))
    if found and found[0][1] != _uid_of_new_files(folder):
        path, owner = found[0]
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        what = f"{path} is a link that {_name(owner)} has made{more}: what is written there would go elsewhere"
        yield Problem("work_dir", what, "Remove it, or choose a folder of your own.")


def _links(folder: Path, names: set[str]) -> Iterator[tuple[str, int]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # it is still to be made, or no folder: other checks say so
        return
    for entry in entries:
        if entry.is_symlink():
            owner = entry.stat(follow_symlinks=False).st_uid
            if owner not in (_ROOT, os.geteuid()):
                yield entry.path, owner
        elif entry.is_dir(follow_symlinks=False) and (not names or entry.name in names):
            yield from _links(Path(entry.path), set())


def _uid_of_new_files(folder: Path) -> int:
    """Who owns what this user makes there; not always this user, as with root on NFS."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_uid
    except OSError:
        return os.geteuid()


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
