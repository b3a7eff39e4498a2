"""The fenced blocks of README.md, CONTRIBUTING.md and docs/, and the words of their commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- fragment: ([\w.-]+) -->\s*$")
_SEPARATORS = {"&&", "||", ";", "|"}


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file, from the repository's root.
        line: its first line in the file.
        language: the word after the fence; empty: none.
        text: what is between the fences.
        fragment: what the mark before it says it is a part of; None: it is whole.
    """

    page: str
    line: int
    language: str
    text: str
    fragment: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> Iterator[Block]:
    """Every fenced block of a page."""
    text = path.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        before = text[: found.start()]
        mark = _MARK.search(before)
        body = "".join(line[len(found[1]) :] for line in found[3].splitlines(keepends=True))
        yield Block(
            str(path.relative_to(ROOT)),
            before.count("\n") + 2,
            found[2].strip().split(" ")[0],
            body,
            mark[1] if mark else None,
        )


def all_blocks(*languages: str) -> list[Block]:
    """The blocks of every page; with languages, only those in one of them."""
    return [block for path in PAGES for block in blocks_of(path) if not languages or block.language in languages]


def commands_in(block: Block) -> list[list[str]]:
    """The words of each command of a shell block, without comments; `a && b` are two."""
    commands: list[list[str]] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in _SEPARATORS:
                words.append(word)
            elif words:
                commands.append(words)
                words = []
    return commands
