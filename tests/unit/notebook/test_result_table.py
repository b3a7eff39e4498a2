"""What `run_task` returns: a dict, and a table of its own."""

import copy
import pickle

import pytest

from evalscope_evalflow.notebook.result_table import ResultTable
from evalscope_evalflow.results.score_rows import ScoreRow

ROWS = [
    ScoreRow("base", "arc", "accuracy", 0.5, requested=4, scored=4, complete=True),
    ScoreRow("base", "arc", "other", 0.25, requested=4, scored=4, headline=False),
    ScoreRow("<b>", "arc", requested=4, why_not="it was stopped"),
]


@pytest.fixture
def table():
    return ResultTable({"base": {"arc": 1}}, ROWS)


def test_it_is_a_dict_and_stays_one_when_it_is_copied_or_pickled(table):
    for same in (table, copy.copy(table), copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert isinstance(same, dict)
        assert same == {"base": {"arc": 1}}
        assert same.rows == tuple(ROWS)


def test_a_notebook_shows_headline_scores_and_why_one_is_missing(table):
    html = table._repr_html_()
    assert html.count("<tr>") == 3
    assert "<td>base</td><td>arc</td><td>accuracy</td><td>0.5000</td><td>4/4</td><td></td>" in html
    assert "<td>&lt;b&gt;</td><td>arc</td><td></td><td>none</td><td>0/4</td><td>it was stopped</td>" in html
    assert "<b>" not in html


def test_columns_that_hold_nothing_are_left_out():
    assert "remarks" not in ResultTable({}, ROWS[:2])._repr_html_()


def test_ipython_in_a_terminal_shows_it_as_text(table):
    said = []

    class Printer:
        text = staticmethod(said.append)

    table._repr_pretty_(Printer, False)
    assert said[0].splitlines()[1] == "base   arc      accuracy  0.5000  4/4"
    assert str(table) == said[0], "print shows the same"


def test_the_frame_has_every_score_with_the_columns_of_scores_csv(table):
    frame = table.to_frame()
    assert list(frame.columns) == list(ScoreRow.__dataclass_fields__)
    assert frame.score.tolist()[:2] == [0.5, 0.25]
    assert list(ResultTable({}, []).to_frame().columns) == list(frame.columns)
