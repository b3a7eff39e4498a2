"""What a run imports only when it first needs it, imported while the model is waited for.

It begins when all else is done, in a thread of its own: an engine that is ready sooner waits for none of it. What is
not there, or fails, is left to whoever needs it.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable

MARKDOWN = ("extra", "codehilite", "attr_list", "fenced_code", "footnotes", "def_list", "tables", "abbr", "md_in_html")


def import_ahead(*steps: Callable[[], object]) -> None:
    """Take these steps, one after the other, without waiting for them."""

    def take() -> None:
        for step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - nobody has asked for it yet
                print(f"not imported ahead: {step.__name__}: {error}", file=sys.stderr)

    threading.Thread(target=take, daemon=True, name="evalflow-ahead").start()


def openai_client() -> None:
    """The OpenAI client, most of which is imported by the first request."""
    import openai

    openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9", max_retries=0).chat.completions  # noqa: B018


def html_report() -> None:
    """What EvalScope's HTML report is made with."""
    importlib.import_module("jinja2")
    for name in MARKDOWN:
        importlib.import_module(f"markdown.extensions.{name}")
    importlib.import_module("plotly.express").bar(x=["a"], y=[0.0]).to_html(full_html=False, include_plotlyjs=False)
