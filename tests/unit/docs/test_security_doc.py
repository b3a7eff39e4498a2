"""docs/explanation/security.md names tests that there are, for every threat."""

import re
from pathlib import Path

import evalscope_evalflow

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "explanation" / "security.md").read_text(encoding="utf-8")
ROWS = [
    line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith("| ") and "| threat |" not in line
]


def defined():
    files = [*(ROOT / "tests").rglob("*.py"), *(Path(evalscope_evalflow.__file__).parent / "testing").glob("*.py")]
    return set(re.findall(r"^\s*def (test_\w+)\(", "\n".join(path.read_text(encoding="utf-8") for path in files), re.M))


def test_every_test_that_is_named_is_there():
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 50
    assert named - defined() == set()


def test_every_threat_has_what_holds_and_a_test():
    assert len(ROWS) > 30
    for row in ROWS:
        assert len(row) == 3, row
        assert re.search(r"`test_\w+`", row[2]), row
