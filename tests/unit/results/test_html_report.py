"""The HTML report: what is in the file, how it is escaped, how large it gets, and what is left out."""

from __future__ import annotations

import builtins
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import made_report
import pytest

from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.results.comparison.comparison_data import ComparedRun
from evalscope_evalflow.results.html.embedded_json import embedded_json
from evalscope_evalflow.results.html.page_data import ScoreLine
from evalscope_evalflow.results.html.page_rendering import render
from evalscope_evalflow.results.html.report import MOST_LINES, report_html
from evalscope_evalflow.results.html.report_parts import report_parts
from evalscope_evalflow.results.html.sample_choice import LONGEST_TEXT, embedded_samples, shorten
from evalscope_evalflow.results.html.score_plot import score_plots
from evalscope_evalflow.results.run_folders import RunFolder, find_runs

OLD_RUNS = Path(__file__).parents[2] / "run_folders_0_1"
TEMPLATES = Path(report_html.__code__.co_filename).parent / "templates"


@pytest.fixture(scope="module")
def html() -> str:
    return render(made_report.page(), made_report.comparison())


def test_json_in_a_script_element_has_nothing_that_html_reads():
    value = {"text": made_report.HOSTILE + "\ud800\x00", "<b>": [1.5, math.nan, math.inf, None, True]}
    text = embedded_json(value)
    assert not set("<>&\u2028\u2029\ud800\x00") & set(text)
    assert json.loads(text) == {"text": made_report.HOSTILE + "\ud800\x00", "<b>": [1.5, None, None, None, True]}


def test_every_hostile_text_is_escaped(html):
    assert html.count("<script") == 2  # the samples, and the page's own script
    assert html.count("</script>") == 2
    assert html.count("<style") == 1
    assert "<!--" not in html
    assert "<img" not in html
    assert "{{ 7 * 7 }}" in html  # shown, not computed
    assert html.encode("utf-8")
    assert "\u2028" not in re.search(r'id="samples-data">(.*?)</script>', html, re.DOTALL)[1]


def test_it_names_no_other_host(html):
    loaded = re.findall(r"""(?:src|href|action|poster|srcset)\s*=\s*["']?([^"'\s>]*)""", html)
    assert {item[:1] if item[:1] == "#" else item for item in loaded if not item.startswith("x")} <= {"#", "data:,"}
    for name in ("report.css", "report.js"):
        text = (TEMPLATES / name).read_text()
        assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest|innerHTML|insertAdjacent|eval\(", text), (
            name
        )
    assert len((TEMPLATES / "report.js").read_bytes()) < 100_000
    assert "default-src 'none'" in html


def test_a_comparison_is_in_it(html):
    text = re.sub(r"<[^>]+>", " ", html)
    assert "+0.1000 ±0.120 ▲ better" in text
    assert "▼ worse" in text
    assert "too few to decide" in text
    assert "✗ not compared: prompt differs:" in text
    assert "9 won, 5 lost, 38 of 40 samples" in re.sub(r"\s+", " ", text)
    assert "Holm over the 2 comparisons" in text
    assert "1 of 3 are in this file, the largest falls first" in text


def test_what_of_the_samples_is_left_out_is_said():
    runs = [(model, made_report.reader(made_report.rows(number))) for number, model in enumerate(made_report.MODELS)]
    found = embedded_samples(runs, most=60)
    data = json.loads(found.json)
    assert (found.count, found.in_all) == (60, 240)
    assert "60 of 240 samples are in this file" in found.left_out
    rows = [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]
    assert {(row["run"], row["dataset"]) for row in rows} == {
        (run, dataset) for run in range(3) for dataset in range(2)
    }
    for run in range(3):
        for dataset in range(2):
            cell = [row for row in rows if (row["run"], row["dataset"]) == (run, dataset)]
            assert len(cell) == 10
            assert sum("failed" in row["is"] for row in cell) == 1
            assert sum("unjudged" in row["is"] for row in cell) == 1
            assert all(row["is"] for row in cell)  # no right one while there are wrong ones
    assert embedded_samples(runs).left_out == ""


def test_long_texts_are_shortened_and_the_file_has_an_end():
    rows = made_report.rows(0)
    rows[0]["answer"] = "a" * LONGEST_TEXT + "the end"
    found = embedded_samples([("model", made_report.reader(rows))])
    assert "shortened in the middle" in found.left_out
    data = json.loads(found.json)
    assert data["rows"][0][data["columns"].index("answer")].endswith("the end")
    assert shorten("a" * LONGEST_TEXT) == "a" * LONGEST_TEXT
    for row in rows:
        row["answer"] = "b" * 3000
    small = embedded_samples([("model", made_report.reader(rows))], most_characters=50_000)
    assert 10 <= small.count < 20
    assert len(small.json) < 50_000
    assert f"{small.count} of 80" in small.left_out
    assert len(json.loads(small.json)["texts"]) <= 2 * small.count


@pytest.mark.parametrize("name", ["a$x_2$", "<b>&amp;", "名前", "x" * 300, "a\x00b\ud800", ""])
def test_any_name_can_be_drawn(name):
    svg = score_plots([ScoreLine(name, name, "accuracy", 0.5, 0.4, 0.6), ScoreLine("other", name, "accuracy", -3.0)])[
        0
    ].svg
    assert svg.startswith("<svg")
    assert "<b>" not in svg
    assert "#0102" not in svg
    assert "var(--accent)" in svg
    assert "http" not in svg.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_many_scores_are_not_all_drawn():
    lines = [ScoreLine(f"m{model}", f"d{data}", "accuracy", 0.5) for data in range(5) for model in range(10)]
    assert [plot.dataset for plot in score_plots(lines, most=35)] == ["d0", "d1", "d2"]


def test_the_page_is_small_for_a_thousand_scores_and_their_comparison():
    models = [f"organisation/model-{number}-instruct" for number in range(100)]
    datasets = [f"dataset-{number}" for number in range(10)]
    lines = [
        ScoreLine(model, dataset, "accuracy", 0.5, 0.4, 0.6, n=1000, requested=1000, cut_off=3)
        for dataset in datasets
        for model in models
    ]
    page, small = made_report.page(), made_report.comparison()
    facts = [replace(page.runs[0], label=model, command="python -m server --model x " * 10) for model in models]
    parts = [replace(line, part="algebra", kind="category", cut_off=0) for line in lines]
    many = replace(
        page,
        runs=facts,
        scores=lines,
        plots=score_plots(lines),
        parts=parts[:MOST_LINES],
        more_scores=parts[:MOST_LINES],
    )
    cells = [replace(small.cells[0], run=line.run, dataset=line.dataset) for line in lines]
    scores = [replace(small.scores[0], run=line.run, dataset=line.dataset) for line in lines]
    runs = [ComparedRun(model, model, f"outputs/{model}", models[0]) for model in models]
    comparison = replace(small, runs=runs, datasets=datasets, cells=cells, scores=scores)
    assert len(render(many, comparison).encode()) - len(page.samples.json) < 2_000_000


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    def missing(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"matplotlib.*\n.*install.*\[report\]"):
        report_html([])


@pytest.mark.parametrize("folder", ["complete", "judged", "failed", "interrupted", "sweep", "vlmevalkit"])
def test_real_folders_of_an_older_version(folder, tmp_path):
    runs = find_runs(shutil.copytree(OLD_RUNS / folder, tmp_path / folder))  # a cache is written into it
    text = report_html(runs)
    for run in runs:
        assert str(run.folder) in text
        for dataset, score in run.scores.items():
            assert dataset in text
            assert score.value is None or f"{score.value:.4f}" in text


def test_parts_of_both_backends(tmp_path):
    parts = list(report_parts(RunFolder(OLD_RUNS / "vlmevalkit" / "work", "m.o-1", {}), "m"))
    assert [(line.part, line.kind, line.value) for line in parts] == [("even", "part", 0.5), ("odd", "part", 0.0)]
    subset = {"name": "algebra", "score": 0.25, "num": 4}
    other = {**subset, "name": "sets", "score": 0.35}
    report = {
        "dataset_name": "math", "primary_metric_identity": {"name": "acc"},
        "metrics": [
            {"identity": {"name": "acc"}, "categories": [
                {"name": ["hard"], "score": 0.3, "num": 8, "subsets": [subset, other]},
                {"name": ["easy"], "score": 0.9, "num": 2, "subsets": [{**subset, "name": "easy"}]},
            ]},
            {"identity": {"name": "f1"}, "categories": [], "num": 10, "score": 0.4},
        ],
    }  # fmt: skip
    path = tmp_path / "reports" / "m" / "math.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(report))
    (path.parent / "torn.json").write_text('{"metrics": [')
    parts = report_parts(RunFolder(tmp_path, "m", {}), "m")
    assert {line.low for line in parts} == {None}  # there are no samples
    found = [(line.dataset, line.part, line.kind, line.value, line.n) for line in parts]
    assert found == [
        ("math", "hard", "category", 0.3, 8),
        ("math", "hard / algebra", "subset", 0.25, 4),
        ("math", "hard / sets", "subset", 0.35, 4),
        ("math", "easy", "category", 0.9, 2),
    ]


def test_a_part_has_an_interval_where_its_score_is_the_mean_of_its_samples(tmp_path):
    folder = shutil.copytree(OLD_RUNS / "complete" / "work", tmp_path / "work")
    path = next(folder.glob("reports/*/general_mcq.json"))
    report = json.loads(path.read_text())
    demo = report["metrics"][0]["categories"][0]["subsets"][0]
    report["metrics"][0]["categories"][0]["subsets"] = [demo, {**demo, "name": "weighted"}, {**demo, "score": 0.5}]
    path.write_text(json.dumps(report))
    first, unknown, other = report_parts(find_runs(folder)[0], "smol")
    assert 0 < first.low < first.value == 0.75 < first.high < 1
    assert first.few_groups
    assert (unknown.low, other.low) == (None, None)


def test_no_key_is_in_it(tmp_path):
    folder = shutil.copytree(OLD_RUNS / "complete" / "work", tmp_path / "work")
    path = folder / "evalflow" / "run.json"
    record = json.loads(path.read_text())
    record["task"]["evalflow"]["deploy"]["api_key"] = "a-key-of-many-characters"  # as by hand: a record has none
    record["task"]["evalflow"]["models"] = [{"name": "smol", "api_url": "http://user:pass-word@host/v1?key=k-e-y"}]
    path.write_text(json.dumps(record))
    text = report_html(find_runs(folder))
    assert "a-key-of-many-characters" not in text
    assert "pass-word" not in text
    assert "k-e-y" not in text
    assert "http://host/v1" in text
