"""The files of a checkpoint that may still be written, as one look at its folder shows them; no content is read."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR

_DIGITS = re.compile(r"\d+")
# What a writer, or a copy, renames when it is done.
_UNFINISHED = re.compile(r".+\.(tmp|temp|part|partial|incomplete|download)|\..+\.[A-Za-z0-9]{6}|~.+", re.IGNORECASE)


@dataclass(frozen=True)
class FileState:
    """One file, by what changes when it is written.

    Attributes:
        size: in bytes; of a folder 0.
        modified_ns: when it was last written.
        changed_ns: when its inode last changed: a copy that keeps times does not keep this one.
        inode: its number.
    """

    size: int
    modified_ns: int
    changed_ns: int
    inode: int


@dataclass(frozen=True)
class MatchFiles:
    """The files of a match: those of a folder by their names, or the one that it is.

    Attributes:
        entries: each file and folder right inside, by its name.
    """

    entries: dict[str, FileState]

    @property
    def patterns(self) -> frozenset[str]:
        """The names with `#` for each number: steps, ranks and shards differ from one checkpoint to the next."""
        return frozenset(_DIGITS.sub("#", name) for name in self.entries)

    @property
    def unfinished(self) -> list[str]:
        """Names of files that are being written, by their names."""
        return [name for name in self.entries if _UNFINISHED.fullmatch(name)]

    @property
    def newest_ns(self) -> int:
        """When any of them last changed, by the file system's clock."""
        return max((max(item.changed_ns, item.modified_ns) for item in self.entries.values()), default=0)


def files_of(path: str) -> MatchFiles | None:
    """One look at a match; None where nothing is there, or it vanishes meanwhile.

    Args:
        path: a folder, or a .gguf file.
    """
    place = Path(path)
    try:
        if not os.path.isdir(place):
            return MatchFiles({place.name: _state(os.stat(place))})
        with os.scandir(place) as found:
            return MatchFiles(
                {item.name: _state(item.stat()) for item in found if not item.is_symlink() or _is_there(item)}
            )
    except OSError:
        return None


def _is_there(item: os.DirEntry[str]) -> bool:
    return os.path.exists(item.path)


def _state(found: os.stat_result) -> FileState:
    if S_ISDIR(found.st_mode):  # no engine reads what is inside
        return FileState(0, 0, 0, found.st_ino)
    return FileState(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
