"""Where VLMEvalKit's judge is, when the sweep deploys it."""

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_client import with_own_url
from evalscope_evalflow.worker.budget import NOWHERE
from evalscope_evalflow.worker.credentials import JUDGE_KEY


def test_a_judge_without_a_url_is_the_one_that_the_sweep_deploys(monkeypatch):
    monkeypatch.setenv(JUDGE_KEY, "sk-own")
    assert with_own_url({"model_id": "b"}, "http://h/v1") == {
        "model_id": "b",
        "api_url": "http://h/v1",
        "api_key": "sk-own",
    }
    assert (with_own_url({"model_id": "b"}, "") or {})["api_url"] == NOWHERE
    elsewhere = {"model_id": "j", "api_url": "https://judge.example/v1"}
    assert with_own_url(elsewhere, "http://h/v1") == elsewhere
    assert with_own_url(None, "http://h/v1") is None
