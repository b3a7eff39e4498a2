"""What a notebook's cell shows while a run goes on: one line that is updated, and a few lines of text."""

import sys
import types
from concurrent.futures import Future

import pytest

from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.notebook import cell_reporter
from evalscope_evalflow.notebook.cell_reporter import CellReporter, Line, in_notebook, reporter_here

PROGRESS = DatasetProgress("gsm8k", False, 12, 40, answers_per_s=3.2, left_s=9.0)


class Frontend:
    """Keeps what a cell shows: for each output, what it was and became."""

    def __init__(self):
        self.outputs, self.broken = [], False

    def display(self, data, raw, display_id):
        output = [data["text/plain"]]
        self.outputs.append(output)
        return types.SimpleNamespace(update=lambda data, raw: self.change(output, data))

    def change(self, output, data):
        if self.broken:
            raise OSError("the channel is closed")
        output.append(data["text/plain"])


@pytest.fixture
def frontend(monkeypatch):
    made = Frontend()
    module = types.ModuleType("IPython.display")
    module.display = made.display
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return made


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(cell_reporter.time, "monotonic", lambda: now[0])
    return now


def test_one_model_has_one_line_that_changes_once_a_second_at_most(frontend, clock):
    reporter = CellReporter(Line())
    reporter.begin("base", "loading")
    for _ in range(10):
        clock[0] += 0.25
        reporter.progress("base", "evaluating", PROGRESS, "")
        reporter.update("base", "evaluating")
    assert len(frontend.outputs) == 1
    assert frontend.outputs[0][:2] == ["base: loading", "base: evaluating  gsm8k  12/40  3.2/s  9 s left"]
    assert len(frontend.outputs[0]) <= 4


def test_several_models_share_the_line_and_end_in_a_summary(frontend, clock):
    names = [f"step-{number}" for number in range(6)]
    with CellReporter(Line()).several(names) as live:
        for name in names:
            live.begin(name, "evaluating")
            clock[0] += 2
            live.progress(name, "evaluating", PROGRESS, "")
        future = Future()
        future.set_result(None)
        live.ended("step-0", future)
    (shown,) = frontend.outputs
    assert any("step-0: evaluating  gsm8k  12/40" in text for text in shown)
    assert any(text.endswith("| and 2 more") for text in shown)
    assert shown[-1].endswith("1 done · 5 evaluating")


def test_a_channel_that_breaks_ends_no_run(frontend, clock):
    line = Line()
    line.show("one")
    frontend.broken = True
    line.show("two", now=True)
    assert frontend.outputs == [["one"]]


def test_what_happens_is_said_as_plain_text(frontend, capsys):
    CellReporter(Line()).log("base: starting vllm")
    out, err = capsys.readouterr()
    assert out.endswith("base: starting vllm\n")
    assert "\x1b" not in out
    assert err == ""


@pytest.mark.parametrize(("kernel", "verbose"), [(True, False), (True, True), (False, False)])
def test_only_a_kernel_is_a_notebook(kernel, verbose, monkeypatch):
    shell = types.SimpleNamespace(kernel=object() if kernel else None)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert in_notebook() == kernel
    reporter = reporter_here(verbose=verbose)
    assert type(reporter) is (CellReporter if kernel and not verbose else Reporter)
    assert reporter.forward == verbose
