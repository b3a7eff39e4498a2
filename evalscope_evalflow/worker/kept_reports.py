"""Where a report lies that holds no score: beside `reports/`, so that nothing that reads that folder shows one.

Both halves of a backend use it, so it needs the standard library alone.
"""

from __future__ import annotations

import os
from pathlib import Path

REPORTS = "reports"
KEPT = Path("evalflow", "kept", REPORTS)


def kept_path(folder: Path, report: Path) -> Path:
    """The place of a report without a score.

    Args:
        folder: the run folder.
        report: its place in `reports/`, where it would lie with a score.
    """
    return folder / KEPT / report.relative_to(folder / REPORTS)


def present_path(folder: Path, report: Path) -> Path:
    """Where a report is: in `reports/`, or else where those without a score are kept. It need not exist.

    Args:
        folder: the run folder.
        report: its place in `reports/`.
    """
    kept = kept_path(folder, report)
    return kept if kept.exists() and not report.exists() else report


def set_aside(folder: Path, report: Path) -> Path:
    """Move a report out of `reports/`, if it is there.

    Args:
        folder: the run folder.
        report: its place in `reports/`.

    Returns:
        Where it is now.

    Raises:
        OSError: it cannot be moved.
    """
    kept = kept_path(folder, report)
    if report.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        os.replace(report, kept)
    return kept
