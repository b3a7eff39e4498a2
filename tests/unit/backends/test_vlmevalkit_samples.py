"""Samples of the VLMEvalKit backend: as the worker writes them down, and as the files of older folders tell."""

from pathlib import Path

import pandas
import pytest

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.backends.vlmevalkit import vlmevalkit_samples_files as rows
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import Files

OLD = Path(__file__).parents[2] / "run_folders_0_1"


def samples(folder, dataset, model="m"):
    return list(load_backend("VLMEvalKit").samples(folder, model, dataset))


def files(folder, dataset, data, answers, **tables):
    """VLMEvalKit's files of a dataset: its answers, and tables by the ends of their names."""
    found = Files(folder, "m", dataset)
    found.folder.mkdir(parents=True)
    indexes = data["index"].astype(str)
    data[indexes.isin(answers)].assign(prediction=list(answers.values())).to_excel(found.predictions, index=False)
    for end, table in tables.items():
        table.to_excel(found.folder / f"m_{dataset}_{end}.xlsx", index=False)
    found.write(answered=len(answers), requested=len(data), judged=len(answers), stamp=found.stamp())
    return found


def data(**columns):
    count = len(next(iter(columns.values())))
    return pandas.DataFrame({"index": range(count), "question": [f"q{n}" for n in range(count)], **columns})


def written(folder, dataset, table, answers, check=None, **tables):
    found = files(folder, dataset, table, answers, **tables)
    rows.write(found, table, answers, pandas.read_excel, check)
    return samples(folder, dataset)


def test_multiple_choice(tmp_path):
    table = data(A=["x", "y"], B=["v", "w"], answer=["A", "B"])
    result = table.assign(hit=[1, 0], log=["Match Log: A.", "GPT: C"])
    first, second = written(tmp_path, "shapes", table, {"0": "A", "1": "C"}, openai_result=result)
    assert (first.score, first.state, first.judged, first.reason) == (1.0, "scored", True, "Match Log: A.")
    assert (first.prompt, first.target, first.answer) == ("q0\nA. x\nB. v", "A", "A")
    assert (second.score, second.group, second.sample) == (0.0, "1", "1")
    assert first.question != second.question


def test_a_circular_question_is_one_sample(tmp_path):
    table = data(answer=["A", "B", "A"])
    table["index"] = [0, 1_000_000, 1]
    result = table[table["index"] < 1_000_000].assign(hit=[1, 0], log="")
    found = written(tmp_path, "MMBench_DEV_EN", table, {"0": "A", "1000000": "B", "1": "C"}, openai_result=result)
    assert [(item.sample, item.group, item.score) for item in found] == [("0", "0", 1.0), ("1", "1", 0.0)]
    assert found[0].answer == "[0] A\n[1000000] B"


@pytest.mark.parametrize(("dataset", "columns", "groups"), [
    ("DynaMath", {"qid": [0, 0, 1]}, ["0", "0", "1"]),
    ("MathVerse_MINI", {"problem_index": [5, 5, 6]}, ["5", "5", "6"]),
    ("MathVerse_MINI", {"question_for_eval": ["x", "x", "y"]}, ["x", "x", "y"]),
    ("WeMath", {"ID": [1, 2, 1]}, ["1", "2", "1"]),
    ("MathVista_MINI", {}, ["0", "1", "2"]),
])  # fmt: skip
def test_what_belongs_together(tmp_path, dataset, columns, groups):
    table = data(**columns, answer=["1"] * 3)
    score = "correct" if dataset == "DynaMath" else "hit"
    result = table.assign(**{score: [True, False, True]})
    found = written(tmp_path, dataset, table, {"0": "1", "1": "2", "2": "1"}, judge=result)
    assert [item.group for item in found] == groups
    assert [item.score for item in found] == [1.0, 0.0, 1.0]


def test_a_table_without_scores_is_checked_as_vlmevalkit_does(tmp_path):
    table = data(answer=["1", "2"])
    result = table.assign(res=["1", "3"], log="Succeed")
    found = written(tmp_path, "MathVista_MINI", table, {"0": "one", "1": "three"},
                    lambda line: str(line["res"]) == str(line["answer"]), judge=result)  # fmt: skip
    assert [(item.score, item.extracted) for item in found] == [(1.0, "1"), (0.0, "3")]


def test_what_has_no_score_says_why(tmp_path):
    table = data(answer=["A", "B", "C"])
    found = files(tmp_path, "shapes", table, {"0": "A", "1": "B"}, openai_result=table[:1].assign(hit=[1], log=""))
    found.write(fallbacks={"1": "unreadable"}, examples={"unreadable": "hm"},
                failed={"2": {"kind": "timeout", "message": "slow", "transient": True}})  # fmt: skip
    rows.write(found, table, {"0": "A", "1": "B"}, pandas.read_excel)
    scored, unjudged, failed = samples(tmp_path, "shapes")
    assert (scored.state, scored.score) == ("scored", 1.0)
    assert (unjudged.state, unjudged.judged) == ("unjudged", False)
    assert "could not be parsed" in unjudged.reason
    assert (failed.state, failed.failure, failed.prompt) == ("failed", "timeout: slow", "q2")


def test_other_answers_than_those_that_were_scored_are_not_taken_for_them(tmp_path):
    table = data(answer=["A", "B"])
    found = files(tmp_path, "shapes", table, {"0": "A"}, openai_result=table[:1].assign(hit=[1], log=""))
    rows.write(found, table, {"0": "A"}, pandas.read_excel)
    found.made()[0].unlink()
    table.assign(prediction=["a longer answer", "and one more " * 50]).to_excel(found.predictions, index=False)
    assert [item.state for item in samples(tmp_path, "shapes")] == ["unscored", "unscored"]


def test_pickles_are_never_read(tmp_path, monkeypatch):
    table = data(answer=["A"])
    found = files(tmp_path, "shapes", table, {"0": "A"})
    (found.folder / "m_shapes_openai_result.pkl").write_bytes(b"cposix\nsystem\n(S'false'\ntR.")
    monkeypatch.setattr("pickle.load", lambda *_: pytest.fail("unpickled"))
    monkeypatch.setattr("pickle.loads", lambda *_: pytest.fail("unpickled"))
    assert [item.state for item in samples(tmp_path, "shapes")] == ["unscored"]
    assert not any(path.suffix == ".pkl" for path in load_backend("VLMEvalKit").sample_files(tmp_path, "m"))


def test_folders_of_0_1_are_read_from_excel_files():
    found = samples(OLD / "vlmevalkit" / "work", "shapes", "m.o-1")
    assert [item.score for item in found] == pytest.approx([0, 0, 0, 1, 0, 0, 0, 1])
    assert {item.state for item in found} == {"scored"}
    assert all(item.prompt and item.answer and item.target for item in found)


def test_answers_that_are_only_in_the_journal(tmp_path):
    work = OLD / "vlmevalkit_interrupted" / "work"
    assert [item.state for item in samples(work, "shapes", "m.o-1")] == ["unscored"] * 8
    assert [item.state for item in samples(work, "LogicVista", "m.o-1")] == ["unscored"] * 2


def test_a_torn_excel_file_is_no_end(tmp_path):
    found = files(tmp_path, "shapes", data(answer=["A"]), {"0": "A"})
    found.predictions.write_bytes(found.predictions.read_bytes()[:100])
    assert samples(tmp_path, "shapes") == []
