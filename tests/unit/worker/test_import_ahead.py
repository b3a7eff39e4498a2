"""What the worker imports while it waits for the model."""

import gc
import importlib
import sys
import threading

import pytest

from evalscope_evalflow.worker.import_ahead import html_report, import_ahead, openai_client, uncollected


def test_nobody_waits_for_it():
    held = threading.Event()
    thread = import_ahead(held.wait)
    assert thread.is_alive()
    held.set()
    thread.join(20)
    assert not thread.is_alive()


def test_imports_are_not_searched_for_garbage_and_all_else_is():
    frozen = gc.get_freeze_count()
    during = []
    with pytest.raises(ModuleNotFoundError), uncollected():
        during.append(gc.isenabled()) or importlib.import_module("no_module_of_this_name")
    assert during == [False]
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen
    gc.unfreeze()


def test_what_fails_keeps_nothing_from_being_imported(capsys):
    def broken():
        raise ImportError("no module named so")

    done = []
    import_ahead(broken, lambda: done.append(1)).join(20)
    assert done == [1]
    assert "not imported ahead: broken: no module named so" in capsys.readouterr().err


def test_what_evalscope_imports_late_is_there(capsys):
    import_ahead(openai_client, html_report).join(60)
    assert capsys.readouterr().err == ""
    for name in (
        "openai.resources.chat.completions",
        "plotly.graph_objs._sunburst",
        "markdown.extensions.tables",
        "jinja2",
    ):
        assert name in sys.modules
