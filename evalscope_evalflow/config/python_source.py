"""Parses Python source in one thread at a time.

CPython, 3.11.7 among others, counts how deep it is in a syntax tree in one place for all threads. Where two make trees
at once, one of them fails with "SystemError: AST constructor recursion depth mismatch" (python/cpython#106905).
"""

from __future__ import annotations

import ast
import threading

_ONE_AT_A_TIME = threading.Lock()


def parse(text: str) -> ast.Module:
    """The syntax tree of a module.

    Raises:
        SyntaxError: it is no Python.
        ValueError: it holds null bytes.
    """
    with _ONE_AT_A_TIME:
        return ast.parse(text)
