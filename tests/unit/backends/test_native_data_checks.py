"""What is found in the user's own data before anything starts: file, line, what is wrong and what to do."""

import io
import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalscope_evalflow.backends import data_files
from evalscope_evalflow.backends.native import native_data_checks
from evalscope_evalflow.backends.native.native_data_checks import data_problems
from evalscope_evalflow.config.task import Task

MCQ = {"question": "Which?", "A": "one", "B": "two", "answer": "A"}


@pytest.fixture
def look(tmp_path):
    """Looks at a file of rows, or of bytes; gives the problems as text, and what is only said."""

    def look(content, *, dataset="general_mcq", name=None, settings=None, flow=None, **stock):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        split = {"general_mcq": "val", "general_vmcq": "val"}.get(dataset, "test")
        path = folder / (name or f"t_{split}.jsonl")
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
        task = Task.parse(
            {
                "datasets": [dataset],
                "dataset_args": {dataset: {"local_path": str(folder), "subset_list": ["t"], **(settings or {})}},
                "work_dir": str(tmp_path / "out"),
                **stock,
                "evalflow": {
                    "backend": "Native",
                    "models": [{"name": "m", "api_url": "http://127.0.0.1:1/v1"}],
                    **(flow or {}),
                },
            }
        )
        notes = []
        problems = [str(problem) for problem in data_problems(task, notes.append)]
        return problems, notes, path

    return look


def one(found):
    """The only problem, with the file's path made short."""
    problems, notes, path = found
    assert len(problems) == 1, problems
    assert notes == []
    return problems[0].replace(str(path), path.name)


def nothing(found):
    problems, notes, _ = found
    assert (problems, notes) == ([], [])


def test_a_broken_line_is_told_with_its_number(look):
    content = b'{"question":"q","A":"a","B":"b","answer":"A"}\n\n{"question": oops\n'
    assert one(look(content)) == (
        "general_mcq, t_val.jsonl:3: it is no JSON: Expecting value (column 14)\n"
        "    Mend the line: each is one JSON object."
    )


def test_a_line_that_is_a_list_is_no_row(look):
    assert "t_val.jsonl:1: it is a list, not a JSON object" in one(look(b'["q", "a"]\n'))


def test_json_that_python_refuses(look):
    assert "t_val.jsonl:1: its JSON cannot be read: Exceeds the limit" in one(look(b'{"a": ' + b"9" * 5000 + b"}\n"))


HANZI = "1,\u9996\u90fd\u662f\u54ea\u91cc\uff1f,\u5317\u4eac,\u4e0a\u6d77,A\n"
KANA = "1,\u9996\u90fd\u306f\u3069\u3053\u3067\u3059\u304b,\u6771\u4eac,\u5927\u962a,A\n"
LATIN = "1,Quelle est la capitale fran\u00e7aise r\u00e9elle,Orl\u00e9ans,N\u00eemes,A\n"


@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        (HANZI, "gbk", "but probably GBK"),
        (KANA, "shift_jis", "but probably Shift_JIS"),
        (LATIN, "cp1252", "but probably Windows-1252"),
        (HANZI, "utf-16", "it is UTF-16 (its byte-order mark says so), not UTF-8"),
    ],
)
def test_an_encoding_is_named(look, text, encoding, guess):
    content = ("id,question,A,B,answer\n" + text).encode(encoding)
    said = one(look(content, name="t_val.csv"))
    assert guess in said
    assert said.startswith(f"general_mcq, t_val.csv:{1 if encoding == 'utf-16' else 2}: ")
    assert f"iconv -f {'UTF-16' if encoding == 'utf-16' else guess.split()[-1]} -t UTF-8 " in said


def test_a_byte_order_mark_is_no_obstacle_where_evalscope_skips_it(look, monkeypatch):
    content = b"\xef\xbb\xbf" + b"question,A,B,answer\nq,a,b,A\n"
    nothing(look(content, name="t_val.csv"))
    monkeypatch.setattr(native_data_checks, "_skips_bom", lambda folder: False)  # as 1.11 does
    assert "byte-order mark (BOM)" in one(look(content, name="t_val.csv"))


def test_an_empty_file(look):
    assert "t_val.jsonl: it has no rows" in one(look(b""))
    assert "t_val.jsonl: it has no rows" in one(look(b"\n\n"))


def test_a_header_alone_is_no_row(look):
    assert "t_val.csv: it has no rows" in one(look(b"question,A,B,answer\n", name="t_val.csv"))


def test_a_quotation_mark_that_is_never_closed_swallows_the_rest(look):
    content = b'question,A,B,answer\nq,a,b,A\n"q,a,b,A\nq,a,b,A\n'
    assert "t_val.csv:3: a quotation mark is opened and never closed" in one(look(content, name="t_val.csv"))
    nothing(look(b'question,A,B,answer\n"q\nq",a,"b ""B""",A\n', name="t_val.csv"))


def test_a_column_that_is_missing(look):
    assert one(look(b"id,question,A,B\n1,q,a,b\n", name="t_val.csv")) == (
        "general_mcq, t_val.csv:2: it has no `answer`; it has id, question, A, B\n    Add it."
    )


@pytest.mark.parametrize("name", ["label", "Answer", "target", "anwser"])
def test_a_column_that_is_misnamed(look, name):
    row = {"question": "q", "A": "a", "B": "b", name: "A"}
    assert one(look([row, row])).endswith(f"; so does line 2\n    Rename `{name}`.")


def test_options_in_a_list_would_not_be_asked(look):
    row = {"question": "q", "options": ["a", "b"], "answer": "A"}
    said = one(look([row] * 9))
    assert "t_val.jsonl:1: it has no options: general_mcq reads them from A, B, …, not from `options`" in said
    assert "; so do lines 2, 3, 4, 5 and 4 more\n" in said
    assert 'Write each option under its letter: {"question": …, "A": …' in said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("C", "its answer 'C' is none of its options A, B, so that no answer is right"),
        ("two", "its answer 'two' is none of its options A, B (it is the text of B)"),
        ("", "its `answer` is empty"),
        (1, "its answer is the number 1, and EvalScope takes only text"),
        (["A", "B"], "it has 2 right answers, and without multiple_correct EvalScope compares with one"),
    ],
)
def test_an_answer_that_is_no_option(look, answer, said):
    assert said in one(look([MCQ, {**MCQ, "answer": answer}]))


def test_an_answer_is_compared_as_evalscope_does(look):
    nothing(look([{**MCQ, "answer": answer} for answer in ("a", " B ", ["A"])]))


def test_answers_do_not_matter_where_nothing_is_compared_with_them(look):
    wrong = [{**MCQ, "answer": "two"}]
    nothing(look(wrong, flow={"mode": "infer"}))
    nothing(look(wrong, judge={"strategy": "llm", "models": [{"model_id": "j", "api_url": "http://127.0.0.1:1"}]}))
    nothing(look(wrong, settings={"metric_list": ["exact_match"]}))


def test_several_right_answers_are_a_list(look):
    several = {"extra_params": {"multiple_correct": True}}
    nothing(look([{**MCQ, "answer": ["A", "B"]}], settings=several))
    assert "with multiple_correct it has to be a list of letters" in one(look([MCQ], settings=several))


def test_an_option_that_is_a_number(look):
    assert "option B is the number 4, and EvalScope takes only text" in one(look([{**MCQ, "B": 4}]))


def test_half_of_a_character_cannot_be_sent(look):
    bad = json.dumps({**MCQ, "question": "Which \ud83d one?"}).encode()
    whole = json.dumps({**MCQ, "question": "Which \U0001f600 one?"}).encode()
    said = one(look(whole + b"\n" + bad + b"\n"))
    assert "t_val.jsonl:2: it has half of a character (\\ud83d)" in said


def test_only_rows_that_are_taken_count(look):
    rows = [MCQ] * 5 + [{**MCQ, "answer": "C"}] * 5
    nothing(look(rows, limit=5))
    nothing(look(rows, limit=0.5))
    assert "t_val.jsonl:6: " in one(look(rows, limit=6))
    assert "t_val.jsonl:6: " in one(look(rows, limit=0.6))


def test_of_shuffled_rows_it_is_said_that_some_may_be_taken(look):
    rows = [MCQ] * 5 + [{**MCQ, "answer": "C"}] * 5
    problems, notes, _ = look(rows, limit=5, settings={"shuffle": True})
    assert problems == []
    assert "is none of its options" in notes[0]
    assert "is none of its options" in one(look(rows, limit=6, settings={"shuffle": True}))


def test_a_broken_line_counts_though_it_is_not_taken(look):
    """EvalScope reads the whole file."""
    content = (json.dumps(MCQ) + "\n").encode() * 3 + b"{oops\n"
    assert "t_val.jsonl:4: it is no JSON" in one(look(content, limit=1))


QA = {"query": "Who?", "response": "Me."}


def test_a_question_without_a_right_answer_is_refused_where_a_rule_scores(look):
    rows = [{"query": "Who?", "label": "Me."}]
    said = one(look(rows, dataset="general_qa"))
    assert "it has no `answer` (or `response`); whatever the model says would be scored 0; it has query, label" in said
    assert said.endswith("Rename `label`.")
    nothing(look([QA, {"question": "q", "answer": "a"}], dataset="general_qa"))


def test_a_judge_may_do_without_a_right_answer(look):
    judge = {"strategy": "llm", "models": [{"model_id": "j", "api_url": "http://127.0.0.1:1"}]}
    nothing(look([{"query": "Who?"}], dataset="general_qa", judge=judge))
    assert "its `query` is empty" in one(look([{"query": ""}], dataset="general_qa", judge=judge))


def test_a_question_that_is_not_there(look):
    said = one(look([{"problem": "q", "answer": "a"}], dataset="general_qa"))
    assert "it has no `question` (or `query`) (or `messages`)" in said
    assert said.endswith("Rename `problem`.")
    nothing(look([{"messages": [{"role": "user", "content": "q"}], "answer": "a"}], dataset="general_qa"))


def test_an_answer_that_is_a_number(look):
    assert "its answer is the number 4" in one(look([{"query": "2+2", "response": 4}], dataset="general_qa"))


PICTURED = {"question": "<image 1> What is it?", "options": ["cat", "dog"], "answer": "B"}


def test_pictures_that_are_missing_or_not_named(look, tmp_path):
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"\x89PNG....")
    (tmp_path / "empty.png").touch()
    row = {**PICTURED, "image_1": str(picture)}
    nothing(look([row, {**PICTURED, "image_1": "https://example.org/cat.png"}], dataset="general_vmcq"))
    for bad, said in [
        (PICTURED, "its text names <image 1>, and there is no image_1"),
        ({**row, "image_1": str(tmp_path / "no.png")}, f"its image_1 {tmp_path}/no.png does not exist"),
        ({**row, "image_1": str(tmp_path / "empty.png")}, f"its image_1 {tmp_path}/empty.png is empty"),
        ({**row, "question": "What is it?"}, "its text has no <image 1>"),
        ({**row, "answer": "C"}, "its answer 'C' is none of its options A, B"),
        ({"question": "q", "A": "a", "B": "b", "answer": "A"}, "a list `options` (A, B, … are none)"),
    ]:
        assert said in one(look([bad], dataset="general_vmcq"))


def test_a_picture_beside_the_file_is_told_where_it_is(look, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat.png").write_bytes(b"\x89PNG")
    said = one(look([{**PICTURED, "image_1": "cat.png"}], dataset="general_vmcq"))
    assert f"Write {tmp_path}/data/cat.png: paths are relative to the folder that you run in." in said


def test_messages_that_are_none(look):
    url = {"type": "image_url", "image_url": {"url": "/nowhere/a.png"}}
    good = [{"role": "user", "content": [{"type": "text", "text": "q"}]}]
    nothing(look([{"messages": good, "answer": "a"}], dataset="general_vqa"))
    nothing(look([{"messages": json.dumps(good), "answer": "a"}], dataset="general_vqa"))
    for bad, said in [
        ({"messages": [{"role": "user", "content": [url]}], "answer": "a"}, "/nowhere/a.png does not exist"),
        ({"messages": "[{", "answer": "a"}, "its `messages` are no JSON"),
        ({"messages": {}, "answer": "a"}, "its `messages` are an object, and would be asked as nothing"),
        ({"question": "q", "answer": "a"}, "it has no `messages`"),
    ]:
        assert said in one(look([bad], dataset="general_vqa"))


def test_what_is_there_in_place_of_a_missing_subset(look, tmp_path):
    (tmp_path / "data" / "sub").mkdir(parents=True)
    said = one(look(None))
    assert f"{tmp_path}/data has no file of the subset t: neither t_val.jsonl nor t.jsonl" in said
    assert "There is sub/. Name one of these folders in local_path" in said
    (tmp_path / "data" / "sub").rmdir()
    assert "It is empty." in one(look(None))
    assert "There is t_test.jsonl." in one(look([MCQ], name="t_test.jsonl"))


def test_a_file_as_local_path(look, tmp_path):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "other.jsonl"
    path.write_text(json.dumps({"question": "q"}) + "\n")
    said = str(look(None, settings={"local_path": str(path)})[0])
    assert f"{path}:1: it has no `answer`" in said
    path = path.rename(path.with_suffix(".json"))
    assert "is of a kind that EvalScope does not read" in one(look(None, settings={"local_path": str(path)}))


def test_examples_that_are_too_few(look, tmp_path):
    assert "has no t_dev.jsonl to take examples from" in one(
        look([MCQ], name="t_val.jsonl", settings={"few_shot_num": 2})
    )
    (tmp_path / "data" / "t_dev.jsonl").write_text(json.dumps(MCQ) + "\n")
    assert "t_dev.jsonl has 1 rows, and 2 are to be shown" in one(look([MCQ], settings={"few_shot_num": 2}))
    nothing(look([MCQ], settings={"few_shot_num": 1}))


def parquet(rows):
    """A Parquet file's bytes."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


OPTIONS = {"question": "q", "options": ["a", "b"], "answer": "A"}


@pytest.mark.parametrize(
    ("dataset", "row", "said"),
    [
        ("general_mcq", OPTIONS, "options"),
        ("general_mcq", {**MCQ, "answer": "E"}, "E"),
        ("general_mcq", {name: value for name, value in MCQ.items() if name != "answer"}, "answer"),
        ("general_qa", {"query": "q", "label": "x"}, "label"),
    ],
)
def test_the_rows_of_a_parquet_file_are_looked_at_like_any_other(look, dataset, row, said):
    split = "val" if dataset == "general_mcq" else "test"
    lines = one(look([row], dataset=dataset, name=f"t_{split}.jsonl"))
    (look([], dataset=dataset, name=f"t_{split}.jsonl")[2]).unlink()
    rows = one(look(parquet([row]), dataset=dataset, name=f"t_{split}.parquet"))
    assert said in rows
    assert rows.replace(".parquet", ".jsonl") == lines


def test_a_good_parquet_file(look):
    nothing(look(parquet([MCQ] * 100), name="t_val.parquet"))
    assert "has 100 rows, and 200 are" in one(
        look(parquet([MCQ] * 100), name="t_dev.parquet", settings={"few_shot_num": 200})
    )


@pytest.mark.parametrize("content", [b"PAR1 and no end", b"", parquet([MCQ] * 50)[:-9], b"x" * 100])
def test_a_broken_parquet_file(look, content):
    said = one(look(content, name="t_val.parquet"))
    assert ("it is no Parquet file" in said) or (not content and "it is empty" in said)


def test_a_parquet_file_without_rows(look):
    table = pa.table({name: pa.array([], pa.string()) for name in MCQ})
    file = io.BytesIO()
    pq.write_table(table, file)
    assert "it has no rows" in one(look(file.getvalue(), name="t_val.parquet"))


@pytest.mark.parametrize("settings", [{"default_subset": "t"}, {"default_subset": "other"}])
def test_settings_that_do_not_change_the_file_do_not_keep_it_from_being_looked_at(look, settings):
    assert one(look([OPTIONS], settings=settings)) == one(look([OPTIONS]))


def test_a_share_that_is_none_is_no_reason_to_end_in_a_traceback(look):
    for limit in (float("nan"), float("inf"), 1e308, 1.0, -0.5):
        look([MCQ], limit=limit)


def test_of_very_many_files_it_is_said_how_many_were_looked_at(look, tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(60):
        (tmp_path / "data" / f"f{number:02}.jsonl").write_text('{"question": "q", "answer": "1"}\n')
    problems, notes, _ = look(None, dataset="gsm8k")
    assert problems == []
    assert [note.split(": ")[1] for note in notes] == ["the first 50 of 60 files were looked at"]


def test_files_that_a_benchmark_finds_by_itself_are_told_not_refused(look):
    problems, notes, path = look(b"{oops\n", dataset="gsm8k", name="test.jsonl", settings={"subset_list": ["main"]})
    assert problems == []
    assert notes == [f"gsm8k, {path}:1: it is no JSON: Expecting property name enclosed in double quotes (column 2)"]


def test_a_broken_line_in_the_file_of_the_split_is_refused(look, tmp_path):
    rows = b'{"question": "q", "answer": "1"}\n{oops\n'
    assert "gsm8k, test.jsonl:2: it is no JSON" in one(look(rows, dataset="gsm8k", name="test.jsonl"))
    (tmp_path / "data" / "README.md").write_text("configs:\n- data_files: main/*.jsonl\n")
    problems, notes, _ = look(rows, dataset="gsm8k", name="test.jsonl")
    assert (problems, len(notes)) == ([], 1)


def test_a_large_file_is_looked_at_in_part_and_that_is_said(look, monkeypatch):
    monkeypatch.setattr(data_files, "ALWAYS", 1 << 16)
    monkeypatch.setattr(native_data_checks, "Patience", lambda: data_files.Patience(0))
    begun = time.monotonic()
    problems, notes, path = look([MCQ] * 20_000)
    assert time.monotonic() - begun < 5
    assert problems == []
    assert notes[0].startswith(f"general_mcq, {path}: the first ")
    rows = int(notes[0].split("first ")[1].split(" rows")[0].replace(",", ""))
    assert 500 < rows < 19_000


def test_a_line_without_an_end_is_not_read_into_memory(look, monkeypatch):
    monkeypatch.setattr(data_files, "LONGEST_LINE", 1000)
    problems, notes, _ = look([MCQ, {**MCQ, "question": "q" * 5000}])
    assert problems == []
    assert "the first 1 rows were looked at" in notes[0]


def test_the_examples_of_the_repository_pass(look):
    folder = Path(__file__).parents[3] / "examples" / "demo"
    nothing(look(None, settings={"local_path": str(folder / "mcq"), "subset_list": ["demo"]}))
    qa = {"local_path": str(folder / "qa"), "subset_list": ["demo"]}
    nothing(look(None, dataset="general_qa", settings=qa))
