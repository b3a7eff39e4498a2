"""Every file, page and test that the docs name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_blocks import PAGES, ROOT

PACKAGE = ROOT / "evalscope_evalflow"
_PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)*(?:/[\w.-]+\.(?:py|yaml|ipynb|pth|start)|/))`")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)")
# Folders and files of a run, of an environment or of the reader's own.
OF_A_RUN = re.compile(
    r"(predictions|reviews|reports|logs|jobs|configs|outputs|kept|saved|vlmevalkit|evalflow|questions|evalflow\.yaml|flow\.yaml|.*my_.*)/?"
)


def _names(page: Path) -> list[str]:
    return [name for name in _PATH.findall(page.read_text()) if not OF_A_RUN.fullmatch(name)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_exists(page: Path) -> None:
    missing = [
        name
        for name in _names(page)
        if not any((home / name).exists() for home in (ROOT, PACKAGE, PACKAGE / "engines" / "checkpoints"))
    ]
    assert not missing


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda path: path.name
)
def test_every_link_of_the_pages_outside_docs_leads_somewhere(page: Path) -> None:
    """Those in docs/ are checked by `mkdocs build --strict`."""
    assert [target for target in _LINK.findall(page.read_text()) if not (ROOT / target).exists()] == []


def test_each_place_in_the_table_of_changes_is_one_path() -> None:
    text = (ROOT / "docs" / "contributing" / "architecture.md").read_text()
    table = text.split("## Where would I change …")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 15
    for row in rows:
        places = re.findall(r"`([^`]+)`", row.split("|")[2])
        assert places
        assert all((PACKAGE / place).exists() for place in places), row
