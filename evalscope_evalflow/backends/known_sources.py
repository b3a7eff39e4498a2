"""Places of a package that are replaced or relied on, recognised by the source that they were written for.

A patch on another source may still run, and give wrong scores. So a version whose places have other sources is refused
before anything starts. Only files are read.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

from platformdirs import user_cache_path

from evalscope_evalflow.config.python_source import parse
from evalscope_evalflow.events.whole_files import write_whole

Places = Mapping[str, Mapping[str, str]]  # by FILE.py:NAME, hashes of the source, with the versions that have it
SHOWN = 3


def changed_places(folder: Path, places: Places) -> list[str]:
    """The places whose source is none of the tested ones.

    Args:
        folder: of the package.
        places: what is known.
    """
    files = sorted({place.partition(":")[0] for place in places})
    key = json.dumps(
        [str(folder), [_stamp(folder / file) for file in files], {k: sorted(v) for k, v in places.items()}]
    )
    cache = user_cache_path("evalflow") / f"sources-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    try:
        found: list[str] = json.loads(cache.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        pass  # the first time, or an unreadable cache: parsing takes a tenth of a second
    sources: dict[str, tuple[str, ast.AST] | None] = {}
    changed = [place for place, known in places.items() if source_hash(folder, place, sources) not in known]
    with contextlib.suppress(OSError):
        write_whole(cache, json.dumps(changed))
    return changed


def shown(places: Iterable[str]) -> str:
    """Places in a message: the first ones."""
    first = list(places)
    return ", ".join(first[:SHOWN]) + (", …" if len(first) > SHOWN else "")


def source_hash(folder: Path, place: str, sources: dict[str, tuple[str, ast.AST] | None] | None = None) -> str | None:
    """A hash of the source of a function or class, comments included; None where there is none.

    Args:
        folder: of the package.
        place: `FILE.py:NAME`, or `FILE.py:CLASS.METHOD`.
        sources: files that were read already; those that are read here are added.
    """
    file, _, name = place.partition(":")
    sources = {} if sources is None else sources
    if file not in sources:
        sources[file] = _read(folder / file)
    found = sources[file]
    if found is None:
        return None
    text, node = found[0], found[1]
    for part in name.split("."):
        inside = next((item for item in getattr(node, "body", []) if getattr(item, "name", None) == part), None)
        if inside is None:
            return None
        node = inside
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return None
    lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
    source = textwrap.dedent("\n".join(line.rstrip() for line in lines))
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def _stamp(path: Path) -> list[int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _read(path: Path) -> tuple[str, ast.AST] | None:
    try:
        text = path.read_text(encoding="utf-8")
        return text, parse(text)
    except (OSError, ValueError, SyntaxError):
        return None
