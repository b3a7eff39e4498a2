"""VLMEvalKit's saved answers follow their rows when the data changes."""

from types import SimpleNamespace

import pandas
import pytest

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_answers import Answers
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import Files, Journal, whole_writes
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_rows_files import read_aside
from evalscope_evalflow.worker.request_failures import Failures

LONG = "x" * 40_000
ROWS = [("one", "A"), ("two", "B"), ("three", "C")]


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


class Folder:
    """A run folder, and a model that answers a question with its own text."""

    def __init__(self, path):
        self.path = path

    def clean(self, rows, limit=None, first=0):
        """As at the beginning of a run on this data."""
        self.files = Files(self.path, "m", "D")
        data = pandas.DataFrame(
            {
                "index": list(range(first, first + len(rows))),
                "question": [question for question, _ in rows],
                "answer": [right for _, right in rows],
                "image": ["aGk=" * 100 for _ in rows],
            }
        )
        self.files.loaded = {"seen": [1, 1], "content": repr(rows)}
        failures = Failures(str(self.path / "failures.jsonl"), "c")
        dump = whole_writes(lambda *_: None)
        self.answers = Answers(
            self.files, SimpleNamespace(data=data), limit, failures, lambda path: pandas.read_excel(path), dump
        )
        self.answers.clean()
        return self.answers

    def run(self, rows, **how):
        """A run on this data; how many questions it asked."""
        answers = self.clean(rows, **how)
        asked = answers.to_ask()
        journal = Journal(self.files)
        by_index = dict(zip(map(str, answers.dataset.data["index"]), rows, strict=True))
        for row in asked:
            journal.add(row, by_index[row][0])
        answers.clean()
        for row, text in answers.texts().items():
            assert text == by_index[row][0], "an answer to another question"
        saved = answers.saved()
        assert list(saved["answer"]) == [by_index[str(index)][1] for index in saved["index"]], "what is scored against"
        return len(asked)


def test_only_what_is_new_is_asked(folder):
    assert folder.run(ROWS) == 3
    assert folder.run([("one", "X"), *ROWS[1:]]) == 0, "a right answer was mended"
    assert folder.run([("new", "N"), *ROWS]) == 1
    assert folder.run(list(reversed(ROWS)), first=7) == 0
    assert read_aside(folder.files.put_aside)[0][1] == "new"
    assert folder.run([("new", "N"), *ROWS]) == 0
    assert not folder.files.put_aside.exists()


def test_long_answers_move_whole(folder):
    rows = [(LONG, "A"), ("two", "B")]
    folder.run(rows)
    assert folder.run(list(reversed(rows))) == 0


def test_a_limit_chooses_and_loses_nothing(folder):
    assert folder.run(ROWS, limit=2) == 2
    assert folder.run(ROWS) == 1
    assert folder.run(ROWS, limit=1) == 0
    assert folder.files.read()["answered"] == folder.files.read()["requested"] == 1
    assert folder.files.read()["chosen"] == {"limit": 1}
    assert folder.run(ROWS) == 0


def test_verdicts_on_rows_that_have_changed_no_longer_count(folder):
    folder.run(ROWS)
    folder.files.write(verdicts_on={"0": "a", "1": "b", "2": "c"}, failed={"1": {"transient": False}})
    folder.clean([("one", "X"), ("other", "B"), ("three", "C")])
    assert folder.files.read()["verdicts_on"] == {"2": "c"}
    assert folder.files.read()["failed"] == {}


def test_an_earlier_judges_verdicts_are_found_again(folder):
    folder.run(ROWS)
    files = folder.files
    verdict = files.folder / f"{files.name}_judge.pkl"
    verdict.write_bytes(b"first")
    files.write(verdicts_on={"0": "a"})
    assert files.keep_verdicts("j1")
    assert not files.verdicts()
    assert not files.keep_verdicts("j2")
    verdict.write_bytes(b"second")
    files.bring_back_verdicts("j1")
    assert verdict.read_bytes() == b"second", "those in use are not overwritten"
    files.keep_verdicts("j2")
    files.write(verdicts_on={})
    assert files.verdicts_of("j1") == {"0": "a"}
    files.bring_back_verdicts("j1")
    assert verdict.read_bytes() == b"first"
    assert files.read()["verdicts_on"] == {"0": "a"}
