import json

import pytest

from evalscope_evalflow.config import keys
from evalscope_evalflow.processes import guard
from evalscope_evalflow.worker import credentials

LONG = "sk-a-long-key-0123456789"


@pytest.mark.parametrize("mask", [keys.mask_text, credentials.mask_text])
def test_a_short_key_is_masked_as_a_word_and_a_long_one_anywhere(mask):
    assert mask("key 1 of 10, done", ["1"]) == "key ********** of 10, done"
    assert mask("undone: done", ["done"]) == "undone: **********"
    assert mask(f"x{LONG}y", [LONG]) == "x**********y"


def test_the_guard_blanks_output_by_the_same_rule():
    assert guard.blank(b"key 1 of 10", [b"1"]) == b"key ********** of 10"
    assert guard.blank(f"x{LONG}y".encode(), [LONG.encode()]) == b"x**********y"


@pytest.mark.parametrize("key", ["event", "kind", "general_mcq", "DatasetFailed", "k", "e"])
def test_a_message_stays_what_it_is_whatever_the_key(key):
    message = {"event": "DatasetFailed", "dataset": "general_mcq", "message": f"the key {key} is refused"}
    found = credentials.mask_fields(json.loads(json.dumps(message)), [key])
    assert found == {**message, "message": "the key ********** is refused"}


@pytest.mark.parametrize("key", ["message", "error", "1", '"', "insufficient_quota"])
def test_the_body_of_an_error_is_still_json(key):
    body = json.dumps({"error": {"message": f"bad key: {key}", "code": "insufficient_quota"}}).encode()
    found = json.loads(credentials.mask_body(body, [key]))
    assert found["error"]["code"] == "insufficient_quota"
    assert not found["error"]["message"].endswith(key) or key == '"'


def test_a_page_is_masked_as_a_text():
    assert credentials.mask_body(f"<p>{LONG}</p>".encode(), [LONG]) == b"<p>**********</p>"
    assert credentials.mask_body(b"\xff\xfe", [LONG]) == b"\xff\xfe"
