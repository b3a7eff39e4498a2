import json

import pytest

from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.run.url_parts import UrlParts


def test_a_task_gets_bases_and_the_parts_go_beside_it():
    urls = UrlParts("http://10.0.0.1/v1/")
    task = {"judge": {"models": [{"model_id": "j", "api_url": "http://me:word@x/v1/chat/completions?sig=abc"}]}}
    assert urls.taken_from(task) == {"judge": {"models": [{"model_id": "j", "api_url": "http://x/v1"}]}}
    assert json.loads(urls.as_json()) == {
        "http://x/v1": {"query": {"sig": "abc"}, "authorization": "Basic bWU6d29yZA=="}
    }
    assert urls.secrets == ["word", "abc"]
    assert urls.bases == ["http://10.0.0.1/v1", "http://x/v1"]


def test_urls_that_are_addresses_alone_stay_as_they_are():
    task = {"api_url": "http://x/v1/", "names": ["http://me:word@x"]}
    assert UrlParts().taken_from(task) == task


@pytest.mark.parametrize("other", ["http://x/v1", "http://you@x/v1", "http://me:word@x/v1?sig=abc"])
def test_two_apis_that_clients_cannot_tell_apart_are_refused(other):
    task = {"judge": {"models": [{"model_id": "j", "api_url": other}]}}
    with pytest.raises(ConfigError, match=r"two APIs at http://x/v1 differ"):
        UrlParts("http://me:word@x/v1").taken_from(task)


def test_the_same_url_twice_is_one():
    task = {"judge": {"models": [{"model_id": "j", "api_url": "http://me:word@x/v1/chat/completions"}]}}
    assert UrlParts("http://me:word@x/v1").taken_from(task)["judge"]["models"][0]["api_url"] == "http://x/v1"
