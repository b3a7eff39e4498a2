import json

import pytest

from evalscope_evalflow.backends.native.native_verdicts import drop_fallbacks
from evalscope_evalflow.worker.request_failures import Failures
from evalscope_evalflow.worker.unicode_text import whole, whole_texts

HALF = "A \ud83d"
TEXTS = [HALF, "\ude00\ud83d", "a\u2028b\x85c\x0cd\x1ee", "\x00\x1b[31m", "نص 模型 é", "\ufeff"]


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_can_be_encoded_and_ordinary_ones_stay(text):
    assert whole(text).encode()
    assert whole(text) == text or "\ufffd" in whole(text)


def test_halves_that_make_a_pair_are_joined():
    assert whole("\ud83d" + "\ude00") == "😀"
    assert whole_texts({"a": ["\ud83d"], "b": (1, None)}) == {"a": ["\ufffd"], "b": [1, None]}


@pytest.mark.parametrize("text", TEXTS)
def test_failures_and_journals_take_every_text(tmp_path, text):
    failures = Failures(str(tmp_path / "failures.jsonl"), "")
    failures.add("d", "s", text, "c", "error", False, text)
    assert str(json.loads((tmp_path / "failures.jsonl").read_text())["sample"]) == text
    with pytest.raises(Exception, match="not asked again"):
        Failures(str(tmp_path / "failures.jsonl"), "").expect("d", "s", text, "c")


@pytest.mark.parametrize("text", TEXTS)
def test_rows_of_verdicts_are_told_by_newlines_alone(tmp_path, text):
    """EvalScope writes U+2028 and its like as they are, and they end lines for Python's splitlines."""
    fallback = {"sample_score": {"score": {"judge_summary": {"status": "failed"}}}, "text": text}
    rows = [json.dumps(row, ensure_ascii=False) for row in ({"text": text}, fallback, {"text": text})]
    path = tmp_path / "d_s.jsonl"
    path.write_bytes("\n".join([*rows, ""]).encode("utf-8", "backslashreplace"))
    assert drop_fallbacks([path]) == 1
    assert [json.loads(line)["text"] for line in path.read_bytes().split(b"\n") if line] == [text, text]
