"""Samples that were not answered: what kind of failure an error is, and which failures stand."""

import json
import re

import httpx
import openai
import pytest
from scripted_server import ERRORS

from evalscope_evalflow.backends import DatasetResult
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.state import failures
from evalscope_evalflow.state.failures import Failure
from evalscope_evalflow.worker import request_failures as worker
from evalscope_evalflow.worker.credentials import KEY_PREFIX

REQUEST = httpx.Request("POST", "https://api.example.com/v1/chat/completions?key=secret")


def api_error(status, message="no", **body):
    """An error as the openai package makes it of a server's reply."""
    client = openai.OpenAI(api_key="k", base_url="https://api.example.com/v1")
    error = {"message": message, **body}
    return client._make_status_error_from_response(httpx.Response(status, json={"error": error}, request=REQUEST))


@pytest.mark.parametrize(
    ("error", "kind", "transient"),
    [
        (api_error(400, "bad value for top_k"), "request_refused", False),
        (api_error(422, "no"), "request_refused", False),
        (api_error(413, "too large"), "request_refused", False),
        (api_error(400, "Range of input length should be [1, 30720]"), "context_too_long", False),
        (api_error(500, "the request exceeds the available context size"), "context_too_long", False),
        (api_error(429, "too many tokens per minute"), "rate_limited", True),
        (api_error(500), "server_error", True),
        (api_error(503), "server_error", True),
        (api_error(408), "server_error", True),
        (api_error(401), "run", False),
        (api_error(402), "run", False),
        (api_error(403), "run", False),
        (api_error(404, "The model does not exist"), "run", False),
        (api_error(403, "your input was flagged by moderation"), "content_refused", False),
        (api_error(400, "no", code="data_inspection_failed"), "content_refused", False),
        (openai.APITimeoutError(REQUEST), "timeout", True),
        (openai.APIConnectionError(request=REQUEST), "connection", True),
        (httpx.RemoteProtocolError("peer closed connection"), "connection", True),
        (ConnectionResetError(), "connection", True),
        (ValueError("no choices"), "error", True),
        (worker.Unanswered("broken_off", True, "x"), "broken_off", True),
    ],
)
def test_kinds(error, kind, transient):
    assert worker.classify(error) == (kind, transient)


@pytest.mark.parametrize("form", ERRORS)
def test_the_words_of_real_servers(form):
    status, error = ERRORS[form]
    kind = "content_refused" if form == "azure" else "context_too_long"
    assert worker.classify(api_error(status, **error)) == (kind, False)


def test_an_error_of_the_whole_run_names_the_api_without_its_query():
    said = worker.run_error(api_error(401, "Incorrect key"))
    assert said.startswith("https://api.example.com/v1/chat/completions refuses every request (401: the key is refused")
    assert said.endswith(": Incorrect key")
    assert "secret" not in said


class TestFile:
    """What the worker writes is what we read."""

    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "evalflow").mkdir()
        return tmp_path

    @pytest.fixture
    def noted(self, folder, monkeypatch):
        monkeypatch.setenv(f"{KEY_PREFIX}1", "sk-very-secret")

        def note(cause="c"):
            return worker.Failures(str(failures.path_in(folder)), cause)

        return note

    def save(self, folder, *indexes, kind="predictions", subset="s"):
        path = folder / kind / "m" / f"d_{subset}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"index": index}) + "\n" for index in indexes))

    def test_it_is_read_as_it_was_written(self, folder, noted):
        noted().add("d", "s", 3, "c", "timeout", True, "no\nanswer to sk-very-secret" + "x" * 900)
        (found,) = failures.standing(folder, "m", "d")
        assert (found.dataset, found.subset, found.sample) == ("d", "s", "3")
        assert (found.kind, found.transient) == ("timeout", True)
        assert found.message.startswith("no answer to **********x")
        assert len(found.message) == 500
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", found.time)
        assert failures.standing(folder, "m", "another") == []

    def test_an_answer_makes_it_good(self, folder, noted):
        for sample in (1, 2):
            noted().add("d", "s", sample, "c", "timeout", True, "no")
        self.save(folder, 0, 1)
        assert [item.sample for item in failures.standing(folder, "m", "d")] == ["2"]

    def test_one_that_could_not_be_scored_needs_a_review(self, folder, noted):
        for sample in (1, 2):
            noted().add("d", "s", sample, "", failures.SCORING, True, "no judge")
        self.save(folder, 0, 1, 2)
        self.save(folder, 0, 1, kind="reviews")
        assert [item.sample for item in failures.standing(folder, "m", "d")] == ["2"]

    def test_the_last_one_counts(self, folder, noted):
        noted().add("d", "s", 1, "c", "timeout", True, "no")
        noted().add("d", "s", 1, "c", "context_too_long", False, "no")
        noted().add("d", "other", 1, "c", "timeout", True, "no")
        found = failures.standing(folder, "m", "d")
        assert failures.by_kind(found) == {"context_too_long": 1, "timeout": 1}
        assert failures.notes(found) == ["1 × context too long (permanent): no", "1 × timeout (transient): no"]

    def test_half_a_line_is_none(self, folder, noted):
        noted().add("d", "s", 1, "c", "timeout", True, "no")
        with failures.path_in(folder).open("a") as file:
            file.write('{"dataset": "d", "subs')
        assert len(failures.standing(folder, "m", "d")) == 1
        noted().expect("d", "s", 1, "c")  # transient: it may be asked

    def test_what_failed_permanently_fails_again_without_being_asked(self, noted):
        first = noted()
        first.add("d", "s", 1, first.cause("long"), "context_too_long", False, "too long")
        with pytest.raises(worker.Unanswered, match="not asked again: too long") as caught:
            noted().expect("d", "s", 1, first.cause("long"))
        assert worker.classify(caught.value) == ("context_too_long", False)
        noted().expect("d", "s", 1, first.cause("shorter"))
        noted().expect("d", "s", 2, first.cause("long"))
        other = noted("another context length")
        other.expect("d", "s", 1, other.cause("long"))

    def test_a_prompts_fingerprint_is_of_what_is_asked(self, noted):
        from evalscope.api.messages import ChatMessageSystem, ChatMessageUser, ContentImage, ContentText

        def prompt(text, image="data:image/png;base64,AAAA"):
            content = [ContentText(text=text), ContentImage(image=image)]
            return [ChatMessageSystem(content="Be brief."), ChatMessageUser(content=content)]

        cause = noted().cause
        assert cause(prompt("a")) == cause(prompt("a")), "EvalScope's messages have random ids"
        assert len({cause(prompt("a")), cause(prompt("b")), cause(prompt("a", "data:image/png;base64,BBBB"))}) == 3


class TestCause:
    """What makes a failure permanent is known beforehand."""

    def cause(self, **changes):
        deploy = {"engine": "scripted", "max_model_len": 1024, **changes.pop("deploy", {})}
        task = Task.parse(
            {
                "model": changes.pop("model", "some/model"),
                "datasets": ["general_mcq"],
                "generation_config": {"max_tokens": 5},
                "evalflow": {"backend": "Native", "deploy": deploy},
                **changes,
            }
        )
        return failures.cause(task, task.models[0])

    def test_no_secret_can_be_found_by_trying(self):
        one, other = ({"max_tokens": 5, "extra_headers": {"Authorization": secret}} for secret in ("a", "b"))
        assert self.cause(generation_config=one) == self.cause(generation_config=other)

    @pytest.mark.parametrize(
        "change",
        [
            {"deploy": {"max_model_len": 2048}},
            {"deploy": {"extra_args": ["--rope-scaling", "x"]}},
            {"generation_config": {"max_tokens": 4}},
            {"model": "another/model"},
            {"dataset_args": {"general_mcq": {"few_shot_num": 1}}},
        ],
    )
    def test_it_changed(self, change):
        assert self.cause(**change) != self.cause()

    @pytest.mark.parametrize(
        "change",
        [
            {},
            {"deploy": {"port": 8000, "max_restarts": 0}},
            {"generation_config": {"max_tokens": 5, "timeout": 30, "retries": 1}},
            {"eval_batch_size": 3},
        ],
    )
    def test_it_is_the_same(self, change):
        assert self.cause(**change) == self.cause()


def test_words():
    item = Failure("d", "s", "1", "context_too_long", False, "", "")
    assert item.words == "context too long (permanent)"
    assert DatasetResult("d").failures == {}
