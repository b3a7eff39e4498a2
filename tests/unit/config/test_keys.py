import json

import pytest
from pydantic import SecretStr

from evalscope_evalflow.config import keys, secret_names
from evalscope_evalflow.errors import ConfigError

KEY = "sk-never-to-be-seen"


def test_a_reference_is_kept_as_it_is_and_read_when_used(monkeypatch):
    kept = keys.protect("${MY_KEY}")
    assert kept == "${MY_KEY}"
    monkeypatch.setenv("MY_KEY", KEY)
    assert keys.reveal(kept) == KEY
    monkeypatch.setenv("MY_KEY", "rotated")
    assert keys.reveal(kept) == "rotated"


def test_a_key_is_wrapped_and_revealed_only_on_request():
    kept = keys.protect(KEY)
    assert KEY not in repr(kept)
    assert keys.public(kept) == secret_names.MASK
    assert keys.reveal(kept) == KEY


@pytest.mark.parametrize("text", ["a${MY_KEY}", "${MY KEY}", "$MY_KEY", "${}"])
def test_what_only_resembles_a_reference_is_a_key(text):
    kept = keys.protect(text)
    assert isinstance(kept, SecretStr)
    assert keys.reveal(kept, environ={"MY_KEY": "x"}) == text


@pytest.mark.parametrize("environ", [{}, {"MY_KEY": ""}])
def test_an_unset_variable_is_an_error_that_names_it(environ):
    with pytest.raises(ConfigError) as caught:
        keys.reveal("${MY_KEY}", "judge.models.0.api_key", environ)
    assert "judge.models.0.api_key: the environment variable MY_KEY is not set" in str(caught.value)
    assert "export MY_KEY=" in str(caught.value)


@pytest.mark.parametrize("word", [None, "", "EMPTY", SecretStr("EMPTY")])
def test_evalscopes_word_for_no_key_means_none(word):
    assert keys.protect(word) is None


@pytest.mark.parametrize("mask", ["**********", SecretStr("**********")])
def test_a_mask_is_refused_with_the_way_out(mask):
    with pytest.raises(ConfigError, match="mask of a key") as caught:
        keys.protect(mask)
    assert "${API_KEY}" in str(caught.value)


def test_keys_move_to_the_environment_and_everything_else_stays():
    tree = {
        "judge": {"models": [{"model_id": "j", "api_key": KEY}, {"api_key": SecretStr("other")}]},
        "generation_config": {"max_tokens": 5},
        "headers": {"Authorization": KEY},
    }
    found = {}
    public = keys.to_environment(tree, found)
    assert sorted(found.values()) == sorted([KEY, "other"])
    assert KEY not in json.dumps(public)
    first = public["judge"]["models"][0]["api_key"]
    assert found[first[2:-1]] == KEY
    assert public["headers"]["Authorization"] == first  # one variable is enough for one key
    assert public["generation_config"] == {"max_tokens": 5}
    assert tree["judge"]["models"][0]["api_key"] == KEY  # the caller's own tree is not touched


def test_references_are_read_for_the_reader_of_the_result(monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    found = {}
    public = keys.to_environment({"api_key": "${MY_KEY}"}, found, prefix="P_")
    assert public == {"api_key": "${P_0}"}
    assert found == {"P_0": KEY}


def test_a_key_that_is_not_given_needs_no_variable():
    found = {}
    assert keys.to_environment({"api_key": "EMPTY", "token": None}, found) == {"api_key": None, "token": None}
    assert found == {}


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "api-key",
        "OPENAI_API_KEY",
        "x-api-key",
        "Authorization",
        "HF_TOKEN",
        "password",
        "client_secret",
        "AWS_SECRET_ACCESS_KEY",
    ],
)
def test_records_mask_what_holds_a_key(name):
    assert keys.redact({"a": [{name: KEY}]}) == {"a": [{name: secret_names.MASK}]}


@pytest.mark.parametrize("name", ["max_tokens", "tokenizer", "keywords", "secretary", "token_budget"])
def test_records_show_what_only_sounds_like_a_key(name):
    assert keys.redact({name: "value"}) == {name: "value"}


def test_records_mask_lists_of_keys_too():
    assert KEY not in json.dumps(
        keys.redact(
            {"api_key": [KEY], "plain": [SecretStr(KEY)]},
        ),
        default=str,
    )


def test_records_keep_references_and_masks():
    tree = {"api_key": "${MY_KEY}", "token": secret_names.MASK, "n": 1, "none": None}
    assert keys.redact(tree) == tree
