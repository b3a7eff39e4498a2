"""What the README has to be: short, in this order, and the same as what CI runs."""

from __future__ import annotations

import re

from doc_blocks import ROOT, all_blocks

from evalscope_evalflow.cli.command_line import COMMANDS

MOST_LINES = 150
HEADINGS = [
    "Try it",
    "Your own questions",
    "Your own model on vLLM",
    "In a notebook",
    "VLMEvalKit",
    "Compare and gate",
    "Many models",
    "What is left behind",
    "The start-up shim",
    "Where to read on",
]
README = (ROOT / "README.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= MOST_LINES


def test_it_has_its_parts_in_order() -> None:
    assert re.findall(r"^## (.+)$", README, re.MULTILINE) == HEADINGS


def test_ci_runs_the_command_that_runs_the_tests() -> None:
    block = next(b.text for b in all_blocks("bash") if b.page == "CONTRIBUTING.md" and "pytest" in b.text)
    for line in block.strip().splitlines():
        assert line in CI


def test_every_command_is_shown_in_the_docs() -> None:
    shown = {name for block in all_blocks("bash") for name in re.findall(r"\bevalflow ([a-z]+)\b", block.text)}
    assert set(COMMANDS) <= shown
