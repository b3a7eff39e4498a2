"""Samples of the Native backend, read from the files of a run folder."""

import json
from pathlib import Path

import made_up_run as made
import pytest

from evalscope_evalflow.backends import load_backend

OLD = Path(__file__).parents[2] / "run_folders_0_1"


def samples(folder, dataset="d", model="m"):
    return list(load_backend("Native").samples(folder, model, dataset))


def files(folder, answers=(), reviews=(), name="d_s"):
    if answers:
        made.lines(folder / "predictions" / "m" / f"{name}.jsonl", answers)
    if reviews:
        made.lines(folder / "reviews" / "m" / f"{name}.jsonl", reviews)


def test_a_scored_answer_has_everything(tmp_path):
    files(tmp_path, [made.answer(0, "It is A.")], [made.review(0, 1.0)])
    (sample,) = samples(tmp_path)
    assert (sample.state, sample.score, sample.metric, sample.judged) == ("scored", 1.0, "acc", None)
    assert (sample.prompt, sample.answer, sample.extracted, sample.target) == ("question 0", "It is A.", "A", "A")
    assert (sample.input_tokens, sample.output_tokens, sample.latency_s) == (5, 7, 0.5)
    assert (sample.subset, sample.sample, sample.repeat, sample.group) == ("s", "0", 0, "s/0")
    assert (sample.verdict, sample.reason, sample.failure, sample.kinds) == (None, None, None, ())


def test_the_judges_words_and_why_there_are_none(tmp_path):
    files(tmp_path, [made.answer(n) for n in range(3)], [made.judged(0, "A"), made.judged(1, "B"), made.unjudged(2)])
    right, wrong, none = samples(tmp_path)
    assert (right.score, right.judged, right.verdict, right.reason) == (1.0, True, "A", "for a reason")
    assert (wrong.score, wrong.verdict) == (0.0, "B")
    assert (none.state, none.score, none.judged, none.verdict) == ("unjudged", None, False, None)
    assert none.reason == "server error: judge down"


def test_repeats_are_one_group_and_one_question(tmp_path):
    made.run(tmp_path, [1, 0, 1, 1], repeats=2)
    found = samples(tmp_path)
    assert [item.group for item in found] == ["s/0", "s/0", "s/1", "s/1"]
    assert [item.repeat for item in found] == [0, 1, 0, 1]
    assert found[0].question == found[1].question != found[2].question == found[3].question


def test_a_question_is_told_by_what_is_asked_and_what_is_right(tmp_path):
    files(tmp_path / "a", [made.answer(0)], [made.review(0, target="A")])
    files(tmp_path / "b", [made.answer(7, "other", "question 0")], [made.review(7, target="A", question="question 0")])
    files(tmp_path / "c", [made.answer(0)], [made.review(0, target="B")])
    a, b, c = (samples(tmp_path / name)[0].question for name in "abc")
    assert a == b != c


def test_questions_on_one_passage_are_one_group(tmp_path):
    rows = [made.review(n) for n in range(3)]
    for number, row in enumerate(rows):
        row["sample_score"]["sample_metadata"] = {"passage": "long" if number < 2 else "other"}
    files(tmp_path, [made.answer(n) for n in range(3)], rows)
    first, second, third = samples(tmp_path)
    assert first.group == second.group != third.group
    assert first.question != second.question


def test_what_has_no_score_says_why(tmp_path):
    rows = [{"dataset": "d", "subset": "s", "sample": n, "kind": kind, "transient": False, "message": "no"}
            for n, kind in ((0, "scoring"), (1, "context_too_long"), (2, "timeout"))]  # fmt: skip
    made.lines(tmp_path / "evalflow" / "failures.jsonl", rows)
    files(tmp_path, [made.answer(0), made.answer(2), made.answer(3)], [made.review(2)])
    scoring, unanswered, mended, waiting = samples(tmp_path)
    assert (scoring.state, scoring.failure, scoring.answer) == ("unscored", "scoring: no", "A")
    assert (unanswered.state, unanswered.failure, unanswered.answer) == ("failed", "context_too_long: no", None)
    assert (mended.state, mended.failure) == ("scored", None)
    assert (waiting.state, waiting.failure, waiting.target) == ("unscored", None, None)


def test_the_value_behind_the_headline_is_found_by_its_mean(tmp_path):
    rows = [made.review(n) for n in range(3)]
    for n, row in enumerate(rows):
        row["sample_score"]["score"]["value"] = {"Rouge-1": 0.1, "Rouge-L": n / 2}
    files(tmp_path, [made.answer(n) for n in range(3)], rows)
    made.report(tmp_path, "m", "d", 0.5, 3)
    assert [item.score for item in samples(tmp_path)] == [0.0, 0.5, 1.0]
    assert {item.metric for item in samples(tmp_path)} == {"accuracy"}


def test_unusual_answers_by_the_file_and_without_it(tmp_path):
    cut = made.answer(0)
    cut["model_output"]["choices"][0]["stop_reason"] = "max_tokens"
    files(tmp_path, [cut, made.answer(1, "")], [made.review(0), made.review(1)])
    assert [item.kinds for item in samples(tmp_path)] == [("cut_off",), ("empty",)]
    made.lines(tmp_path / "evalflow" / "answer_kinds.jsonl",
               [{"dataset": "d", "subset": "s", "sample": "1", "kinds": ["refused"]}])  # fmt: skip
    assert [item.kinds for item in samples(tmp_path)] == [(), ("refused",)]


def test_files_of_a_longer_name_are_another_datasets(tmp_path):
    files(tmp_path, [made.answer(0)], name="d_s")
    files(tmp_path, [made.answer(0)], name="d_x_s")
    made.report(tmp_path, "m", "d_x", 1.0, 1)
    assert [item.subset for item in samples(tmp_path)] == ["s"]
    assert [item.subset for item in samples(tmp_path, "d_x")] == ["s"]


def test_torn_rows_and_several_of_one_sample(tmp_path):
    files(tmp_path, [made.answer(0, "old"), made.answer(0, "new")], [made.review(0)])
    for kind in ("predictions", "reviews"):
        with (tmp_path / kind / "m" / "d_s.jsonl").open("a") as file:
            file.write('{"index": 1, "messages": [{"ro')
    (sample,) = samples(tmp_path)
    assert sample.answer == "new"


def test_pictures_are_named_and_told_apart(tmp_path):
    def asked(image):
        row = made.answer(0)
        row["messages"][0]["content"] = [{"type": "text", "text": "What?"}, {"type": "image", "image": image}]
        return row

    for name, image in (("a", "data:image/png;base64,AAAA"), ("b", "data:image/png;base64,BBBB"), ("c", "/x/cat.png")):
        files(tmp_path / name, [asked(image)])
    a, b, c = (samples(tmp_path / name)[0] for name in "abc")
    assert (a.prompt, c.prompt) == ("What?\n[image]", "What?\n[image cat.png]")
    assert a.question != b.question


def test_odd_rows_are_read_as_far_as_they_go(tmp_path):
    rows = [{"index": 0}, {"index": 1, "model_output": [], "messages": "x"}, {"no": "index"}, {"index": "a-1"}]
    files(tmp_path, rows, [{"index": 0, "sample_score": []}, {"index": 1, "sample_score": {"score": {"value": 3}}}])
    assert [(item.sample, item.state) for item in samples(tmp_path)] == [
        ("0", "unscored"), ("1", "unscored"), ("a-1", "unscored"),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "dataset", "states"), [
    ("complete", "general_mcq", ["scored"] * 4),
    ("judged", "general_qa", ["scored"] * 4),
    ("failed", "general_qa", ["scored", "scored", "failed", "scored"]),
    ("interrupted", "general_qa", ["unscored"] * 2),
])  # fmt: skip
def test_folders_of_0_1(name, dataset, states):
    found = samples(OLD / name / "work", dataset, "smol")
    assert [item.state for item in found] == states
    assert all(item.prompt for item in found if item.state != "failed")
    scores = [item.score for item in found if item.score is not None]
    known = json.loads((OLD / name / "work" / "evalflow" / "run.json").read_text()).get("results") or {}
    if dataset in known:
        headline = next(iter(known[dataset]["metrics"].values()))
        assert sum(scores) / len(scores) == pytest.approx(headline, abs=1e-4)
