"""Every test that docs/measured/vlmevalkit.md names exists, where it says."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
REAL = ROOT / "tests" / "real"


def _tests_of(*files: Path) -> set[str]:
    return {name for file in files for name in re.findall(r"def (test_\w+)\(", file.read_text())}


def test_every_row_has_its_tests() -> None:
    text = (ROOT / "docs" / "measured" / "vlmevalkit.md").read_text()
    rows = text.split("<!-- rows -->")[1].split("<!-- /rows -->")[0].strip().splitlines()[2:]
    stock = _tests_of(REAL / "backends" / "test_vlmevalkit_stock.py")
    ours = _tests_of(REAL / "backends" / "test_vlmevalkit_failures.py", REAL / "backends" / "test_vlmevalkit_runs.py")
    shown: set[str] = set()
    for row in rows:
        _, _, theirs, mine = row.strip("| ").split(" | ")
        shown |= set(re.findall(r"`(test_\w+)`", theirs))
        named = re.findall(r"`(test_\w+)`(?: \(`([^`]+)`\))?", mine)
        assert named, row
        for name, file in named:
            assert name in (_tests_of(ROOT / file) if file else ours), name
    assert shown == stock
