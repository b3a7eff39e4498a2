"""What the worker imports while it waits for the model."""

import sys
import threading

from evalscope_evalflow.worker.ahead import html_report, import_ahead, openai_client


def test_nobody_waits_for_it():
    held = threading.Event()
    thread = import_ahead(held.wait)
    assert thread.is_alive()
    held.set()
    thread.join(20)
    assert not thread.is_alive()


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
