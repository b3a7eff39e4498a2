"""The docs site builds without a network, and what it builds loads nothing from one."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from doc_blocks import ROOT

# What a browser loads by itself; links that a reader follows are none of these.
LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
NO_NETWORK = """
import runpy, socket, sys

def refused(*args, **kwargs):
    raise OSError("the docs are built without a network")

socket.socket.connect = socket.getaddrinfo = refused
sys.argv[0] = "mkdocs"
runpy.run_module("mkdocs", run_name="__main__")
"""


class Loads(HTMLParser):
    """What a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "link" and dict(attrs).get("rel") in ("canonical", "prev", "next"):
            return
        self.found += [value for name, value in attrs if (tag, name) in LOADED and value]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, "build", "--strict", "--site-dir", target],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text())
        assert loads.found
        assert [target for target in loads.found if re.match(r"(https?:)?//", target)] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text()), style


def test_the_tables_and_the_api_are_in_it(site: Path) -> None:
    assert "--eval_model_path" in (site / "reference" / "flags.html").read_text()
    assert "keep_alive_s" in (site / "reference" / "section-keys.html").read_text()
    api = (site / "reference" / "python.html").read_text()
    assert "release_kept" in api
    assert "exit_code" in api
    assert 'src="layers.svg"' in (site / "contributing" / "architecture.html").read_text()
