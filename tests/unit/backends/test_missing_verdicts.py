"""Why verdicts are missing, as a person reads it."""

import json

import pytest

from evalscope_evalflow.backends.missing_verdicts import MissingVerdict, reasons
from evalscope_evalflow.backends.native.native_missing import missing_verdicts

PROMPT = (
    "Judge it.\n\nReply with a single JSON object and no other text, containing these required keys (additional keys "
    'are allowed):\n- "reasoning": a string\n- "verdict": exactly one of "A" or "B"'
)
EXPECTED = 'expected a JSON object with "verdict"'


def unreadable(said, stop_reason="stop", content=None):
    return {
        "status": "parse_error",
        "raw_response": said,
        "messages": [{"role": "user", "content": PROMPT}],
        "model_output": {"choices": [{"message": {"content": content or said}, "stop_reason": stop_reason}]},
    }


def failed(error):
    return {"status": "transport_error", "error": error, "messages": []}


@pytest.fixture
def reviews(tmp_path):
    def write(*attempts):
        path = tmp_path / "reviews.jsonl"
        with path.open("w") as file:
            for index, attempt in enumerate(attempts):
                score = {"judge_summary": {"status": "fallback" if attempt else "success"}}
                if attempt:
                    score["metadata"] = {"judge_attempts": [attempt]}
                file.write(json.dumps({"index": index, "sample_score": {"score": score}}) + "\n")
        return [path]

    return write


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (unreadable("B"), f"the judge's reply could not be parsed for 1 of 2 answers, e.g. 'B'; {EXPECTED}"),
        (unreadable(""), f"the judge's reply was empty for 1 of 2 answers; {EXPECTED}"),
        (
            unreadable("", "max_tokens", [{"type": "reasoning", "reasoning": "Hm"}]),
            f"the judge only thought, and gave no verdict, for 1 of 2 answers; {EXPECTED}; it was cut off at its "
            "max_tokens",
        ),
        (
            unreadable('{"verdict', "max_tokens"),
            "the judge's reply could not be parsed for 1 of 2 answers, e.g. '{\"verdict'; " + EXPECTED
            + "; it was cut off at its max_tokens",
        ),
        (
            failed("JudgeFailed: server_error: judge down (500)"),
            "the judge's server failed for 1 of 2 answers: judge down (500)",
        ),
        (
            failed("JudgeFailed: timeout: Request timed out."),
            "the judge did not answer in time for 1 of 2 answers: Request timed out.",
        ),
        (
            failed("JudgeFailed: judge_refuses: the key is refused: no (401)"),
            "the judge's server refuses every request: 1 of 2 answers have no verdict: the key is refused: no (401)",
        ),
        (failed("KeyError: 'x'"), "1 of 2 answers could not be judged: KeyError: 'x'"),
    ],
)  # fmt: skip
def test_a_reason_is_told_by_what_evalscope_saved(reviews, attempt, words):
    assert reasons(missing_verdicts(reviews(None, attempt)), 2) == [words]


def test_reasons_are_told_by_kind_with_one_example_and_the_most_frequent_first(reviews):
    found = missing_verdicts(reviews(failed("JudgeFailed: timeout: slow"), unreadable("B"), unreadable("C"), None))
    assert reasons(found, 4) == [
        f"the judge's reply could not be parsed for 2 of 4 answers, e.g. 'B'; {EXPECTED}",
        "the judge did not answer in time for 1 of 4 answers: slow",
    ]


def test_a_long_reply_is_shortened():
    assert len(reasons([MissingVerdict("unreadable", "word " * 1000)], 1)[0]) < 250


def test_an_unknown_kind_is_named():
    assert reasons([MissingVerdict("out_of_ink")], 3) == ["1 of 3 answers have no verdict (out of ink)"]
