"""The view of several models at once."""

import io
from concurrent.futures import Future

import pytest
from rich.console import Console

from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import EngineError, Stopped

NAMES = [f"step-{number}" for number in range(5)]


@pytest.fixture
def reporter(monkeypatch):
    """One on a terminal of 12 lines, which is a string."""
    made = Reporter()
    made._console = Console(file=io.StringIO(), force_terminal=True, width=100, height=12, color_system=None)
    return LiveReporter(made, NAMES)


def shown(reporter):
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(reporter.view())
    return console.file.getvalue()


def result(error=None):
    future = Future()
    future.set_exception(error) if error else future.set_result(None)
    return future


def test_before_anything_is_begun_all_wait(reporter):
    assert "5 models, 0 s: 5 waiting" in shown(reporter)


def test_what_is_at_work_has_a_row_with_devices_and_state(reporter):
    reporter.given("step-1", "0, 1")
    reporter.begin("step-1", "evaluating")
    reporter.update("step-1", "evaluating, 3 answers saved, 2 s")
    lines = shown(reporter).splitlines()
    (row,) = [line for line in lines if line.startswith("step-1")]
    assert "0, 1" in row
    assert "evaluating, 3 answers saved" in row
    assert "1 evaluating · 4 waiting" in lines[-1]


def test_what_is_finished_is_counted_and_reported(reporter):
    for name, error in (("step-1", None), ("step-2", EngineError("it died")), ("step-3", Stopped("by somebody"))):
        reporter.begin(name, "judging")
        reporter.ended(name, result(error))
    assert "5 models, 0 s: 1 done · 1 failed · 1 stopped · 2 waiting" in shown(reporter)
    said = reporter._console.file.getvalue()
    assert "step-1: done; 1 of 5 models finished" in said
    assert "step-2: it died" in said
    assert "step-2: failed; 2 of 5 models finished" in said
    assert "step-3: stopped; 3 of 5 models finished" in said


def test_no_more_rows_than_the_screen_has_room_for(reporter):
    many = LiveReporter(reporter, [f"m{number}" for number in range(50)])
    for number in range(20):
        many.given(f"m{number}", str(number))
    text = shown(many)
    assert len(text.splitlines()) < 12
    assert "14 of them not shown" in text


def test_what_is_printed_has_its_models_name(reporter, capsys):
    write = reporter.output_of("m")
    write(b"one\ntw")
    write(b"o\n")
    assert capsys.readouterr().err == "m | one\nm | two\n"


def test_without_a_terminal_there_are_lines_and_no_view(capsys):
    reporter = LiveReporter(Reporter(), ["a", "b"])
    assert not reporter.is_live
    with reporter:
        reporter.begin("a", "loading")
        reporter.update("a", "loading, 3 s")
    reporter.ended("a", result())
    assert capsys.readouterr().err.split("  ")[-1] == "a: done; 1 of 2 models finished\n"
