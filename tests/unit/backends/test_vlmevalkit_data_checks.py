"""What is found in TSV files of the user's own before VLMEvalKit is started: file, line, what is wrong, what to do."""

import csv
import io
import sys

import pytest
import vlm_data

from evalscope_evalflow.backends import data_files
from evalscope_evalflow.backends.vlmevalkit import vlmevalkit_data_checks
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_data_checks import data_problems
from evalscope_evalflow.config import catalog
from evalscope_evalflow.config.task import Task

PICTURE = vlm_data.image(1)
ROW = {"index": "0", "question": "Which?", "A": "one", "B": "two", "C": "None", "answer": "A", "image": PICTURE}


def rows(*changes, drop=()):
    """Numbered rows, each with a change."""
    made = [{**ROW, "index": str(number), **change} for number, change in enumerate(changes)]
    return [{name: value for name, value in row.items() if name not in drop} for row in made]


@pytest.fixture
def look(tmp_path, monkeypatch):
    monkeypatch.setenv("LMUData", str(tmp_path))
    monkeypatch.setattr(catalog, "vlmevalkit_datasets", lambda env, ask: frozenset({"SEEDBench_IMG", *vlm_data.OTHERS}))

    def look(content, *, dataset="mine", flow=None, **stock):
        path = tmp_path / f"{dataset}.tsv"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = io.StringIO()
            writer = csv.DictWriter(text, list(content[0]), delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(content)
            path.write_text(text.getvalue())
        section = {
            "backend": "VLMEvalKit",
            "models": [{"name": "m", "api_url": "http://127.0.0.1:1/v1"}],
            **(flow or {}),
        }
        task = Task.parse({"datasets": [dataset], "work_dir": str(tmp_path / "out"), **stock, "evalflow": section})
        notes = []
        return [str(problem) for problem in data_problems(task, notes.append)], notes, path

    return look


def one(found):
    problems, notes, path = found
    assert len(problems) == 1, problems
    assert notes == []
    return problems[0].replace(str(path), path.name)


def nothing(found):
    problems, notes, _ = found
    assert (problems, notes) == ([], [])


def test_the_data_of_the_tests_passes(look, tmp_path):
    vlm_data.write_all(tmp_path)
    for name in vlm_data.ROWS:
        nothing(look((tmp_path / f"{name}.tsv").read_bytes(), dataset=name))


def test_rows_that_are_right(look):
    nothing(look(rows({}, {"answer": "B"}, {"image": "0"})))
    nothing(look(rows({}, {}, drop=["image"])))
    nothing(look(b"\xef\xbb\xbf" + b"index\tquestion\tA\tB\tanswer\n1\tq\ta\tb\tA\n"))  # pandas skips the mark
    nothing(look(rows({"image": f"['{PICTURE}', '{PICTURE}']"})))


@pytest.mark.parametrize("column", ["index", "question", "answer"])
def test_a_column_that_is_missing(look, column):
    assert f"mine.tsv:1: there is no column `{column}`; there are " in one(look(rows({}, drop=[column])))


def test_a_column_that_is_misnamed(look):
    made = [{"idx": "0", "question": "q", "A": "a", "B": "b", "label": "A"}]
    problems, _, _ = look(made)
    assert [problem.split("\n    ")[1] for problem in problems] == [
        "Did you mean 'idx'? Rename it.",
        "Rename `label`.",
    ]


def test_answers_are_not_needed_where_nothing_is_scored(look):
    nothing(look(rows({}, drop=["answer"]), flow={"mode": "infer"}))
    nothing(look(rows({"answer": "Z"}), flow={"mode": "infer"}))


def test_open_questions_cannot_be_scored(look):
    said = one(look([{"index": "0", "question": "q", "answer": "a", "image": PICTURE}]))
    assert "mine.tsv:1: it has no columns `A` and `B`, and VLMEvalKit does not score open questions of your own" in said
    assert "general_vqa" in said
    options = [{"index": "0", "question": "q", "options": "['a', 'b']", "answer": "A"}]
    assert "Write the options of `options` into A, B, …." in one(look(options))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"index": "0"}, "mine.tsv:3: its index 0 is that of line 2 too"),
        ({"index": ""}, "mine.tsv:3: its `index` is empty"),
        ({"question": ""}, "mine.tsv:3: its `question` is empty"),
        ({"answer": "D"}, "mine.tsv:3: its answer 'D' is none of its options A, B, so that none is right"),
        ({"answer": "a"}, "mine.tsv:3: its answer 'a' is none of its options A, B"),
        ({"answer": "two"}, "mine.tsv:3: its answer 'two' is the text of B, and not its letter"),
        ({"answer": "C"}, "(VLMEvalKit reads 'None' in C as an empty cell)"),
        ({"answer": ""}, "mine.tsv:3: its `answer` is empty"),
        ({"image": ""}, "mine.tsv:3: its `image` is empty, and VLMEvalKit would leave it out without a word"),
        ({"image": "!!!notbase64"}, "'!!!notbase64' is neither a picture in base64 nor the index of a row with one"),
        ({"image": "7"}, "'7' is neither a picture in base64 nor the index of a row with one"),
        ({"image": "bm90IGEgcGljdHVyZQ==" * 9}, "mine.tsv:3: its `image` is base64, but of no picture"),
    ],
)
def test_a_row_that_would_fail_or_spoil_the_score(look, change, said):
    assert said in one(look(rows({}, change)))


def test_only_rows_that_are_taken_count(look):
    nothing(look(rows({}, {"answer": "D"}), limit=1))
    assert "neither a picture" in one(look(rows({}, {"image": "7"}), limit=1))  # VLMEvalKit looks at all of these


def test_pictures_by_their_paths(look, tmp_path):
    good = tmp_path / "cat.png"
    good.write_bytes(b"\x89PNG")
    (tmp_path / "images" / "mine").mkdir(parents=True)
    (tmp_path / "images" / "mine" / "dog.png").write_bytes(b"\x89PNG")
    (tmp_path / "text.png").write_text("not a picture at all, whatever its name")
    (tmp_path / "empty.png").touch()
    here = {"image_path": str(good)}
    nothing(look(rows(here, {"image_path": "https://example.org/a.png"}, drop=["image"])))
    for path, said in [
        ("/nonexistent/0.png", "mine.tsv:3: its `image_path` /nonexistent/0.png does not exist"),
        (str(tmp_path / "empty.png"), "empty.png is empty"),
        (str(tmp_path / "text.png"), "text.png is no picture"),
        ("dog.png", f"Write {tmp_path}/images/mine/dog.png: paths are relative to the folder that you run in"),
        ("", "mine.tsv:3: its `image_path` is empty"),
    ]:
        assert said in one(look(rows(here, {"image_path": path}, drop=["image"])))


def test_a_picture_is_judged_by_its_first_bytes_where_pillow_is_not_installed(look, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    nothing(look(rows({})))
    nothing(look(rows({"image": "bm90IGEgcGljdHVyZQ==" * 9})))  # who knows


def test_a_row_with_too_many_cells(look):
    content = b"index\tquestion\tA\tB\tanswer\n1\tq\ta\tb\tA\n2\tq\ta\tb\tA\tmore\n"
    assert "mine.tsv:3: it has 1 more cells than the header has names" in one(look(content))


@pytest.mark.parametrize("content", [b"", b"index\tquestion\tA\tB\tanswer\n"])
def test_an_empty_file(look, content):
    assert "mine.tsv: it has no rows" in one(look(content))


def test_an_encoding_is_named(look):
    text = "index\tquestion\tA\tB\tanswer\n0\t\u4e2d\u56fd\u7684\u9996\u90fd\u662f\u54ea\u91cc\ta\tb\tA\n"
    said = one(look(text.encode("gbk"), dataset="SEEDBench_IMG"))  # whoever's it is
    assert "SEEDBench_IMG.tsv:2: it is not UTF-8 but probably GBK" in said


def test_published_datasets_have_rules_of_their_own(look):
    nothing(look(rows({"answer": "Yes"}, drop=["A", "B"]), dataset="SEEDBench_IMG"))
    nothing(look(rows({"answer": "Yes"}, drop=["A", "B"]), dataset="LogicVista"))


def test_a_published_file_of_any_size_costs_no_time(look, monkeypatch):
    """It is known by its MD5; VLMEvalKit is not imported for it."""
    monkeypatch.setattr(data_files, "ALWAYS", 1 << 12)
    asked = []
    monkeypatch.setattr(catalog, "vlmevalkit_datasets", lambda env, ask: asked.append(ask) or frozenset({"MME"}))
    late = rows(*[{}] * 2000, {"answer": "D"})
    nothing(look(late, dataset="MME"))
    assert asked == [False]
    assert len(look(late, dataset="mine")[0]) == 1


def test_a_large_file_is_looked_at_in_part_and_that_is_said(look, monkeypatch):
    monkeypatch.setattr(vlmevalkit_data_checks, "Patience", Over)
    problems, notes, path = look(rows(*[{}] * 4000, {"answer": "D"}, {"image": "9999"}))
    assert problems == []
    assert notes[0].startswith(f"mine, {path}: the first ")


class Over:
    over = True
