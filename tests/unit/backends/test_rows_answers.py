"""Saved answers follow their rows, whatever becomes of the data, `limit` and `repeats`."""

import contextlib
import json
from types import SimpleNamespace

import pytest

from evalscope_evalflow.backends.native.rows_answers import Place, align, subset_rows
from evalscope_evalflow.backends.native.rows_files import SavedRows, archive_verdicts, json_rows


class Folder:
    """A run folder of one benchmark with one subset, and a model that answers a question with its own text."""

    def __init__(self, path):
        self.path = path
        self.judge = "j1"
        self.asked = 0

    def place(self, repeats=1):
        return Place(self.path, "m", "d", self.judge, repeats)

    def run(self, data, repeats=1, *, lost=()):
        """One run: saved answers are aligned, missing ones asked (but for `lost`), missing verdicts made."""
        samples = [
            SimpleNamespace(input=question, target=target, metadata={"right": target})
            for question, target in data
            for _ in range(repeats)
        ]
        place = self.place(repeats)
        done = align(place, {"s": subset_rows(samples)}, {"s": samples})
        answers, reviews = place.file("predictions", "s"), place.file("reviews", "s")
        have = {row["index"] for row in json_rows(answers)}
        judged = {row["index"] for row in json_rows(reviews)}
        new, verdicts = [], []
        for index, sample in enumerate(samples):
            if index not in have and sample.input not in lost:
                self.asked += 1
                output = {"text": sample.input, "n": self.asked}
                new.append({"index": index, "model_output": output, "metadata": dict(sample.metadata)})
        append(answers, new)
        for row in json_rows(answers):
            if row["index"] not in judged:
                target = samples[row["index"]].target
                score = {"sample_id": row["index"], "group_id": row["index"] // repeats, "score": {"against": target}}
                verdicts.append({"index": row["index"], "judge": self.judge, "sample_score": score})
        append(reviews, verdicts)
        self.made = len(new), len(verdicts)
        self.check(samples, repeats, lost)
        return done

    def check(self, samples, repeats, lost):
        """Nothing is mixed: each answer is to its row's question, and each verdict on its right answer."""
        answers = list(json_rows(self.place().file("predictions", "s")))
        expected = [index for index, sample in enumerate(samples) if sample.input not in lost]
        assert sorted(row["index"] for row in answers) == expected
        for row in answers:
            assert row["model_output"]["text"] == samples[row["index"]].input
            metadata = {**samples[row["index"]].metadata, **row["metadata"]}  # as EvalScope does
            assert metadata == samples[row["index"]].metadata
        assert len({row["model_output"]["n"] for row in answers}) == len(answers), "an answer is used once"
        for row in json_rows(self.place().file("reviews", "s")):
            assert row["sample_score"]["score"]["against"] == samples[row["index"]].target
            assert row["sample_score"]["sample_id"] == row["index"]
            assert row["sample_score"]["group_id"] == row["index"] // repeats
            assert row["judge"] == self.judge

    def change_judge(self, judge):
        saved = SavedRows(self.path, "d")
        files = (self.place().file(kind, "s") for kind in ("predictions", "reviews"))
        archive_verdicts(saved, self.judge, "s", *files, saved.rows())
        self.judge = judge


def append(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


DATA = [("one", "A"), ("two", "B"), ("three", "C"), ("four", "D")]


def test_unchanged_data_leaves_the_files_alone(folder):
    folder.run(DATA)
    paths = [path for path in folder.path.rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in paths}
    folder.run(DATA)
    assert folder.made == (0, 0)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_mended_right_answers_are_scored_anew_and_nothing_is_asked(folder):
    folder.run(DATA)
    found = folder.run([("one", "A"), ("two", "X"), ("three", "C"), ("four", "Y")])
    assert folder.made == (0, 2)
    assert found.scored_anew == 2
    folder.run(DATA)
    assert folder.made == (0, 0), "mended back: those verdicts are still there"


def test_another_question_is_asked_and_its_old_answer_put_aside(folder):
    folder.run(DATA)
    found = folder.run([("one", "A"), ("changed", "B"), ("three", "C"), ("four", "D")])
    assert folder.made == (1, 1)
    assert (found.requested, found.answered, found.put_aside) == (4, 3, 1)
    assert found.moved == {"s": {1}}
    found = folder.run(DATA)
    assert folder.made == (0, 0)
    assert found.brought_back == 1


def test_rows_are_told_by_content_whatever_their_order(folder):
    folder.run(DATA)
    folder.run([("new", "N"), *reversed(DATA)])
    assert folder.made == (1, 1)
    folder.run(DATA[1:])
    assert folder.made == (0, 0)


def test_a_larger_limit_asks_what_is_new_and_a_smaller_one_nothing(folder):
    folder.run(DATA[:2])
    folder.run(DATA)
    assert folder.made == (2, 2)
    assert folder.run(DATA[:1]).requested == 1
    assert folder.made == (0, 0)
    folder.run(DATA)
    assert folder.made == (0, 0)


def test_more_repeats_keep_the_answers_that_there_are(folder):
    folder.run(DATA)
    folder.run(DATA, repeats=3)
    assert folder.made == (8, 8)
    folder.run(DATA, repeats=2)
    assert folder.made == (0, 0)
    folder.run(DATA, repeats=3)
    assert folder.made == (0, 0)


def test_a_row_without_an_answer_does_not_get_its_neighbours(folder):
    folder.run(DATA, lost={"two"})
    folder.run([("new", "N"), *DATA], lost={"two"})
    assert folder.made == (1, 1)
    folder.run([("new", "N"), *DATA])
    assert folder.made == (1, 1)


def test_rows_that_are_asked_twice_keep_both_answers(folder):
    twice = [("one", "A"), ("one", "B"), ("two", "B")]
    folder.run(twice)
    folder.run(list(reversed(twice)))
    assert folder.made[0] == 0
    assert folder.asked == 3


def test_back_to_an_earlier_judge_its_verdicts_are_used(folder):
    folder.run(DATA[:3])
    folder.change_judge("j2")
    folder.run(DATA[:3])
    assert folder.made == (0, 3)
    folder.run([("one", "X"), *DATA[1:]])
    folder.change_judge("j1")
    folder.run([("one", "X"), *DATA[1:]])
    assert folder.made == (0, 2), "one right answer is another, and one answer is new"


@pytest.mark.parametrize("step", range(6))
def test_a_kill_in_between_loses_and_mixes_nothing(folder, monkeypatch, step):
    """Whichever file is the last that was written."""
    from evalscope_evalflow.backends.native import rows_files

    folder.run(DATA)
    changed = [("four", "D"), ("three", "Y"), ("one", "A")]
    write, count = rows_files.write_whole, iter(range(100))

    def killed(path, text):
        if next(count) >= step:
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(rows_files, "write_whole", killed)
    with contextlib.suppress(KeyboardInterrupt):
        folder.run(changed)
    monkeypatch.setattr(rows_files, "write_whole", write)
    asked = folder.asked
    folder.run(changed)
    folder.run(DATA)
    assert folder.asked == asked == 4


def test_what_a_folder_does_not_say_of_its_rows_is_as_it_is_today(folder):
    answers = folder.place().file("predictions", "s")
    rows = [{"index": n, "model_output": {"text": DATA[n][0], "n": -n}, "metadata": {}} for n in range(2)]
    append(answers, rows)
    folder.run(DATA)
    assert folder.made == (2, 4)


def test_text_that_is_no_unicode_survives(folder):
    data = [("half \ud83d", "A"), ("汉字", "B")]
    folder.run(data)
    folder.run(list(reversed(data)))
    assert folder.made == (0, 0)


def test_a_subset_that_is_gone_is_counted_no_more(folder):
    folder.run(DATA)
    found = align(folder.place(), {"t": subset_rows([])}, {"t": []})
    assert (found.requested, found.answered, found.put_aside) == (0, 0, 4)
    assert list(json_rows(folder.place().file("predictions", "s"))) == []
