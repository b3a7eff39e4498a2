"""VLMEvalKit's figures as a report of EvalScope's; without VLMEvalKit."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest
from evalscope.report import Report

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_report import figures, write


class TestReport:
    ROWS = pandas.DataFrame({"index": range(4), "split": ["a", "a", "a", "b"], "problem_version": ["x", "x", "y", "y"]})

    def test_a_line_for_each_part(self) -> None:
        table = pandas.DataFrame({"Task&Skill": ["Overall", "sum"], "tot": [4, 2], "hit": [3, 1], "acc": [75.0, 50.0]})
        whole, part = figures("MathVista_MINI", table, self.ROWS)
        assert (whole.value, whole.samples, whole.primary, whole.part) == (0.75, 4, True, {})
        assert (part.value, part.samples, part.part) == (0.5, 2, {"part": "sum"})

    def test_splits_weigh_what_they_hold(self) -> None:
        table = pandas.DataFrame({"split": ["a", "b"], "Overall": [1 / 3, 1.0]})
        found = figures("custom", table, self.ROWS)
        assert found[0].primary
        assert found[0].value == pytest.approx(0.5)
        assert [(item.part, item.samples) for item in found[1:]] == [({"split": "a"}, 3), ({"split": "b"}, 1)]
        table = pandas.DataFrame({"split": ["x", "y"], "Overall": [100.0, 50.0]})
        assert figures("MathVerse_MINI", table, self.ROWS)[0].value == pytest.approx(0.75)

    def test_dynamaths_average_is_the_headline(self) -> None:
        table = pandas.DataFrame({"Setting": ["Worst Case", "Average"], "Overall": [0.1, 0.4]})
        assert figures("DynaMath", table, self.ROWS)[0].value == 0.4

    def test_a_dict_of_any_shape(self) -> None:
        found = figures("OCRBench", {"Text": 3, "deep": {"a": [2]}, "Final Score": 7, "name": "x"}, self.ROWS)
        assert {tuple(item.part.values()): item.value for item in found} == {
            ("Final Score",): 7,
            ("Text",): 3,
            ("deep/a",): 2,
        }
        assert found[0].value == 7

    def test_lines_of_any_shape_have_names_of_their_own(self, tmp_path: Path) -> None:
        rows = [{"set": name, "Creativity": 1, "Overall Score": score} for name, score in (("all", 2), ("valid", 3))]
        found = figures("MMDU", pandas.DataFrame(rows), self.ROWS)
        assert (found[0].part, found[0].value) == ({"part": "all/Overall Score"}, 2)
        nameless = figures("other", pandas.DataFrame([{"a": 1}, {"a": 2}]), self.ROWS)
        for number, item in enumerate((found, nameless)):
            path = tmp_path / f"{number}.json"
            write(path, dataset="d", model="m", found=item, scored=4, requested=4, judge=None, fallbacks={})
            report = Report.from_json(str(path))
            assert len(report.metrics) == len(item)
            assert report.num == 4, "the headline stands on all that was scored"

    def test_evalscope_reads_it(self, tmp_path: Path) -> None:
        table = pandas.DataFrame({"split": ["none"], "Overall": [0.5], "logic": [1.0]})
        path = tmp_path / "reports" / "m" / "d.json"
        write(
            path, dataset="d", model="m", found=figures("d", table, self.ROWS), scored=4, requested=6, judge="j",
            fallbacks={"connection": 2},
        )  # fmt: skip
        report = Report.from_json(str(path))
        assert (report.score, report.num) == (0.5, 4)
        assert report.execution_summary is not None
        assert report.execution_summary.incomplete
        assert report.judge_summary is not None
        assert (report.judge_summary.status.value, report.judge_summary.judge_models) == ("degraded", ["j"])
