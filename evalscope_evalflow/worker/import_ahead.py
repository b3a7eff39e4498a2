"""What a run imports: while the engine starts, and so at its cost where there are few cores.

What is imported only when it is first needed is imported while the model is waited for. That begins when all else is
done, in a thread of its own: an engine that is ready sooner waits for none of it. What is not there, or fails, is left
to whoever needs it.
"""

from __future__ import annotations

import gc
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MARKDOWN = ("extra", "codehilite", "attr_list", "fenced_code", "footnotes", "def_list", "tables", "abbr", "md_in_html")


@contextmanager
def uncollected() -> Iterator[None]:
    """A block of imports. The garbage collector looks through all that they make, again and again, and finds nothing: a
    seventh of the time that VLMEvalKit takes. What is there at its end will stay, and is never looked at again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_ahead(*steps: Callable[[], object]) -> threading.Thread:
    """Take these steps, one after the other, without waiting for them.

    What there is then will stay, and the garbage collector need not look at it again: EvalScope has it look at all.

    Returns:
        The thread that takes them. Whoever uses what it uses has to wait for it: plotly's figures share their
        templates, and two that are made at once spoil each other.
    """

    def take() -> None:
        for step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - nobody has asked for it yet
                print(f"not imported ahead: {step.__name__}: {error}", file=sys.stderr)
        gc.freeze()

    thread = threading.Thread(target=take, daemon=True, name="evalflow-ahead")
    thread.start()
    return thread


def openai_client() -> None:
    """The OpenAI client, most of which is imported by the first request."""
    import openai

    openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9", max_retries=0).chat.completions  # noqa: B018


def html_report() -> None:
    """What EvalScope's HTML report is made with."""
    importlib.import_module("jinja2")
    for name in MARKDOWN:
        importlib.import_module(f"markdown.extensions.{name}")
    express = importlib.import_module("plotly.express")
    table = {"dataset": ["a"], "subset": ["b"], "number": [1], "score": [0.5]}
    for figure in (
        express.bar(table, x="dataset", y="score", color="subset", text="score"),
        express.sunburst(table, path=["dataset", "subset"], values="number", color="score"),
    ):
        figure.to_html(full_html=False, include_plotlyjs=False)
