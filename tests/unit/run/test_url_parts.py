import json

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
