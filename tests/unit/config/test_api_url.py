import pytest

from evalscope_evalflow.config.api_url import api_base, endpoint_of, public_url, split_api_url
from evalscope_evalflow.config.keys import redact


@pytest.mark.parametrize(
    "url",
    ["http://x/v1?api-version=2", "http://x/v1/?api-version=2", "http://x/v1/chat/completions?api-version=2"],
)
def test_every_form_with_a_query_has_one_base_and_its_paths_keep_the_query(url):
    assert api_base(url).replace("/?", "?") == "http://x/v1?api-version=2"
    assert endpoint_of(api_base(url), "/models") == "http://x/v1/models?api-version=2"
    assert split_api_url(url).base == "http://x/v1"
    assert split_api_url(url).query == {"api-version": "2"}


def test_user_and_password_become_a_header_and_are_unquoted():
    found = split_api_url("https://me:p%40ss@x:8000/v1")
    assert (found.base, found.secret) == ("https://x:8000/v1", "p@ss")
    assert found.authorization == "Basic bWU6cEBzcw=="
    assert "p@ss" not in repr(found)


def test_a_plain_url_is_its_own_base():
    assert split_api_url("http://x/v1").is_plain
    assert endpoint_of("http://x/v1", "/models") == "http://x/v1/models"


@pytest.mark.parametrize("url", ["http://[broken/v1", "nonsense", ""])
def test_what_is_no_url_stays_as_it_is(url):
    assert split_api_url(url).base == url
    assert public_url(url) == url


def test_records_hold_urls_without_what_may_be_a_key():
    tree = {"api_url": "http://me:word@x/v1?sig=1", "judge": {"models": [{"api_url": "http://x/v1?sig=1"}]}}
    assert redact(tree) == {"api_url": "http://x/v1", "judge": {"models": [{"api_url": "http://x/v1"}]}}
