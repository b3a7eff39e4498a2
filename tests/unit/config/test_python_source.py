"""Many threads may parse at once."""

import ast
import gc
from concurrent.futures import ThreadPoolExecutor

import pytest

from evalscope_evalflow.config.python_source import parse

SOURCE = "class A:\n" + "".join(
    f"    def f{n}(self, x=({n}, [{n}, {{'a': {n}}}])): return x[0] + {n}\n" for n in range(300)
)


class Noisy:
    """Garbage whose end runs Python, and so lets other threads run in the middle of whatever collects it."""

    def __init__(self):
        self.me = self

    def __del__(self):
        sum(range(200))


def test_trees_made_in_many_threads_are_whole():
    def make(_):
        for _ in range(20):
            Noisy()
        return len(parse(SOURCE).body[0].body)

    before = gc.get_threshold()
    gc.set_threshold(50)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(make, range(60))) == {300}
    finally:
        gc.set_threshold(*before)


def test_what_is_no_python_is_refused():
    with pytest.raises(SyntaxError):
        parse("def")
    assert isinstance(parse("x = 1"), ast.Module)
