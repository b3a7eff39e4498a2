"""Paths as users write them.

Look at them by `os.path.exists`, `isfile` and `isdir`: where `pathlib` raises an error, such as for a name that is too
long, those say that nothing is there.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


def user_path(text: str | os.PathLike[str]) -> Path:
    """A path with `~` and `~user` expanded; it stays as it is where there is no such user."""
    return Path(os.path.expanduser(text))


def why_no_path(text: str | os.PathLike[str]) -> str:
    """Why no file can have this path, such as a name that is too long; empty: one can, whether it is there or not."""
    try:
        os.stat(user_path(text))
    except OSError as error:
        return str(error.strerror) if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ) else ""
    except ValueError as error:  # a null byte, or half of a Unicode character
        return str(error)
    return ""
