"""Whether a checkpoint that training writes is whole, as far as its files tell."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.watch_settings import MARKER
from evalscope_evalflow.engines.checkpoints.tokenizer_check import check_tokenizer
from evalscope_evalflow.sweep.incomplete import why_incomplete
from evalscope_evalflow.sweep.watching.match_files import MatchFiles

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<ending>\.\w+)")
_PICKLED = (".bin", ".pt", ".pth")
_SHOWN = 3
_OTHER_TOKENIZER = ("--tokenizer", "--skip-tokenizer-init")


def is_marked(files: MatchFiles, marker: str | None) -> bool:
    """Whether the trainer says that the checkpoint is whole.

    Args:
        files: its files.
        marker: the marker's name; None: that of most trainers, where there is one.
    """
    return (marker or MARKER) in files.entries


def why_not_whole(
    model: ModelConfig,
    deploy: DeployConfig,
    files: MatchFiles,
    marker: str | None,
    before: tuple[str, frozenset[str]] | None,
) -> str:
    """Why a checkpoint cannot be evaluated yet, by its files; empty if it can, once they stay as they are.

    Args:
        model: the checkpoint.
        deploy: how it will be served.
        files: its files.
        marker: the file that the trainer writes last; None: it need not be there.
        before: name and files (`MatchFiles.patterns`) of the match before it; None: there is none.
    """
    marked = is_marked(files, marker)
    if marker and not marked:
        return f"its marker {marker} is not there"
    if files.unfinished and not marked:
        return f"{files.unfinished[0]} is being written"
    place = str(model.adapter or model.path)
    if os.path.isdir(place):
        missing = list(dict.fromkeys(_missing_shards(Path(place), files)))
        if missing:
            return _listed(missing, "missing")
        torn = [name for name in files.entries if _is_torn(Path(place, name), files)]
        if torn:
            return f"{torn[0]} is cut short"
    found = why_incomplete(model)
    if found:
        return found
    if marked:
        return ""
    if model.path and not model.adapter and os.path.isdir(place):
        found = next((problem.what for problem in check_tokenizer(model, deploy, _OTHER_TOKENIZER)), "")
        if found:
            return found
    if before is None:
        return ""
    lacking = sorted(before[1] - files.patterns)
    return f"{_listed(lacking, 'missing')}, which {before[0]} has" if lacking else ""


def _missing_shards(folder: Path, files: MatchFiles) -> Iterator[str]:
    """Shards that others, or an index, name, and an index that shards need."""
    series: dict[tuple[str, str, str], set[int]] = {}
    for name in files.entries:
        found = _SHARD.fullmatch(name)
        if found:
            key = found["stem"], found["count"], found["ending"]
            series.setdefault(key, set()).add(int(found["number"]))
    for (stem, count, ending), numbers in series.items():
        for number in range(1, int(count) + 1):
            if number not in numbers:
                yield f"{stem}-{number:05}-of-{count}{ending}"
        index = f"{stem}{ending}.index.json"
        if ending in (".safetensors", ".bin") and index not in files.entries:
            yield index
    for name in files.entries:
        if name.endswith(".index.json"):
            yield from (shard for shard in _named_by(folder / name) if shard not in files.entries)


def _named_by(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return [f"{index.name} as a whole"]


def _is_torn(file: Path, files: MatchFiles) -> bool:
    """Whether a JSON file ends in the middle, or pickled weights do: those are archives, whose directory comes last."""
    if file.suffix == ".json" and os.path.isfile(file):
        try:
            json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            return True
        except OSError:
            return False
    if file.suffix in _PICKLED and files.entries[file.name].size:
        try:
            with file.open("rb") as opened:
                archive = opened.read(2) == b"PK"  # before PyTorch 1.6 they were none
            return archive and not zipfile.is_zipfile(file)
        except OSError:
            return False
    return file.suffix in _PICKLED


def _listed(names: list[str], what: str) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more} {'is' if len(names) == 1 else 'are'} {what}"
