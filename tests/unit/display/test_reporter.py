import errno
import io
from pathlib import Path

import pytest
from rich.console import Console

from evalscope_evalflow.backends import DatasetResult, Metric
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.display.live import LiveReporter
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.results.tables import score_text, show_table, where_to_look


def result(dataset="general_qa", score=0.8333, requested=6, succeeded=6, failed=0, notes=(), metric="accuracy", **more):
    metrics = [Metric(metric, score, succeeded, True)]
    return DatasetResult(dataset, metrics, requested, succeeded, failed, Path("r.json"), list(notes), **more)


def table(*rows, width=160):
    output = io.StringIO()
    show_table(rows, Console(file=output, width=width))
    return output.getvalue()


def test_a_score_is_shown_with_what_it_stands_on():
    shown = table(("m", [result()], None))
    assert all(word in shown for word in ("m", "general_qa", "accuracy", "0.8333", "6/6"))
    assert "incomplete" not in shown


def test_a_score_over_fewer_samples_is_marked():
    shown = table(("m", [result(score=1.0, requested=12, succeeded=5, failed=7)], None))
    assert "1.0000 (incomplete)" in shown
    assert "5/12" in shown


@pytest.mark.parametrize("found", [DatasetResult("a"), result(score=None)])
def test_no_score_is_not_zero(found):
    assert score_text(found) == "none"
    assert "0.0000" not in table(("m", [found], None))


def test_without_any_verdict_of_the_judge_there_is_no_score():
    """EvalScope's report then holds a rule's score, or zeros."""
    assert score_text(result(judged=0, fallbacks=6, answered=6)) == "none"
    assert "0/6" in table(("m", [result(judged=0, fallbacks=6, answered=6)], None))
    assert score_text(result(judged=1, fallbacks=5, answered=6, notes=["judge degraded"])).endswith("(incomplete)")
    assert score_text(result(judged=0, fallbacks=0, answered=6)) == "0.8333", "no sample needed the judge"


def test_notes_are_shown_under_the_table():
    shown = table(("m", [result(notes=["judge degraded: 2 of 6 verdicts"])], None))
    assert "m / general_qa: judge degraded: 2 of 6 verdicts" in shown
    assert "(incomplete)" in shown


def test_a_model_that_failed_is_shown_beside_those_that_did_not():
    shown = table(("good", [result()], None), ("bad", [], "vllm stopped: no memory\n  its last lines:\n    a\n    b"))
    assert "failed" in shown
    assert "vllm stopped: no memory" in shown
    assert "its last lines" not in shown
    assert "0.8333" in shown


@pytest.mark.parametrize("name", ["qwen[base]", "[red]x[/red]", "a[/b]", "[bold]"])
def test_names_are_shown_as_they_are(name):
    shown = table((name, [result(dataset=f"d-{name}", metric=f"m-{name}", notes=["note"])], None), (name, [], name))
    assert shown.count(name) == 7


def test_what_is_said_goes_to_standard_error_with_the_seconds(capsys):
    reporter = Reporter()
    reporter.log("loading [weights]")
    reporter.warn("beware")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "loading [weights]" in captured.err
    assert "beware" in captured.err
    assert " s  " in captured.err


def test_quiet_says_nothing(capsys):
    reporter = Reporter(quiet=True)
    reporter.log("x")
    reporter.warn("y")
    reporter.begin("m", "z")
    reporter.update("m", "more")
    reporter.end("m")
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_without_a_terminal_there_is_no_spinner(capsys):
    reporter = Reporter()
    reporter.begin("m", "loading")
    reporter.end("m")
    assert capsys.readouterr().err == ""


def test_what_evalscope_prints_is_passed_on_whatever_its_bytes(capsys):
    Reporter(forward=True).output_of("m")(b"50 %\xff done\n")
    assert capsys.readouterr().err == "50 %\ufffd done\n"


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text):
        raise OSError(errno.EIO, "Input/output error")

    def isatty(self):
        return True


def test_a_terminal_that_is_gone_takes_no_run_along(monkeypatch):
    monkeypatch.setattr("sys.stderr", Gone())
    reporter = Reporter()
    reporter.begin("m", "loading")
    reporter.warn("still there")
    reporter.end("m")
    with LiveReporter(reporter, ["m"]) as live:
        live.log("still there")


def task_of(mode):
    section = {"mode": mode, "backend": "Native"}
    return Task.parse({"model": "/m", "datasets": ["general_qa"], "work_dir": "/w/out/m", "evalflow": section})


def test_the_last_lines_say_where_to_look():
    shown = where_to_look(task_of("all"))
    assert "/w/out/m" in shown
    assert "evalscope service --host 127.0.0.1 --outputs /w/out\n" in shown
    assert "Compare page" in shown


def test_what_is_only_answered_has_nothing_to_show_in_a_browser():
    assert where_to_look(task_of("infer")).startswith(
        "Answers and logs: /w/out/m\nNothing is judged yet: `mode: judge`"
    )


def test_a_models_name_is_shown_as_it_is(capsys):
    """rich would make a picture of `:x:`."""
    Reporter().log("m:x: loading")
    assert "m:x: loading" in capsys.readouterr().err


def test_what_stands_beside_a_score_is_shown_beside_it_and_takes_nothing_from_it():
    words = "3 of 6 answers were cut off at max_tokens 64; raise generation_config.max_tokens"
    found = result("a", 0.1667, answer_kinds={"cut_off": 3, "only_thoughts": 1, "empty": 1}, remarks=[words])
    assert found.complete
    assert (found.score.value, found.score.cut_off, found.score.empty) == (0.1667, 3, 2)
    text = table(("m", [found, result("b")], None))
    assert "cut off" in text
    assert "no text" in text
    assert f"m / a: {words}" in text
    row = next(line for line in text.splitlines() if "0.1667" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][-2:] == ["3", "2"]
