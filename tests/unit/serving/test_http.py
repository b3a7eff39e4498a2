import socket
import sys
import threading

import pytest

from evalscope_evalflow.config.api_url import api_base
from evalscope_evalflow.config.loopback import is_loopback
from evalscope_evalflow.serving import http
from evalscope_evalflow.serving.remote_api import check_api

KEY = "sk-never-to-be-seen"


def test_an_answer_is_read_with_its_status(api):
    reply = http.request(f"{api.url}/models")
    assert (reply.status, reply.ok) == (200, True)
    assert reply.json == {"data": [{"id": "m"}]}


def test_a_body_is_posted_as_json_with_the_key_in_its_header(api):
    http.request(f"{api.url}/chat/completions", api_key=KEY, body={"model": "m"})
    method, _, headers, body = api.seen[0]
    assert (method, body) == ("POST", {"model": "m"})
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Content-Type"] == "application/json"


def test_without_a_key_no_authorization_is_sent(api):
    http.request(f"{api.url}/models")
    assert "Authorization" not in api.seen[0][2]


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_a_refusal_is_an_answer_and_no_exception(api, status):
    api.replies["/x"] = (status, "no")
    reply = http.request(f"{api.root}/x")
    assert (reply.status, reply.ok, reply.text) == (status, False, "no")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/v1", "http://no-such-host.invalid/v1", "nonsense", "http://[broken/v1"]
)
def test_no_answer_is_status_0_with_the_reason(url):
    reply = http.request(url)
    assert (reply.status, reply.ok) == (0, False)
    assert reply.text


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.6\r\n", b""])
def test_what_speaks_no_http_is_no_answer(said):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(said)
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        reply = http.request(f"http://127.0.0.1:{server.getsockname()[1]}/")
        thread.join()
    assert reply.status == 0
    assert reply.text


def test_a_server_that_never_answers_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts in the kernel, and says nothing
        reply = http.request(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout_s=0.05)
    assert reply.status == 0
    assert "timed out" in reply.text


def test_loopback_is_asked_directly_whatever_proxy_is_set(api, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert http.request(f"{api.url}/models").ok


def test_other_hosts_are_asked_through_the_proxy(api, monkeypatch):
    monkeypatch.setenv("http_proxy", api.root)
    monkeypatch.delenv("no_proxy", raising=False)
    http.request("http://elsewhere.invalid/v1/models")
    assert api.paths == ["http://elsewhere.invalid/v1/models"]


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.9.9.9/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://[::ffff:127.0.0.1]:8000/v1", True),
        ("http://0.0.0.0:8000/v1", True),
        ("http://api.localhost./v1", True),
        ("http://user:word@127.0.0.1:8000/v1", True),
        ("http://127.0.0.1.nip.example/v1", False),
        ("http://[broken/v1", False),
        ("http://10.0.0.1/v1", False),
        ("https://api.example/v1", False),
    ],
)
def test_loopback_is_known_by_its_address(url, here):
    assert is_loopback(url) is here


def test_a_short_key_is_masked_in_words_and_never_in_what_is_parsed(api):
    api.replies["/x"] = (200, {"data": "1 of 10", "error": {"message": "the key data is none of 1"}})
    for key in ("data", "1"):
        reply = http.request(f"{api.root}/x", api_key=key)
        assert reply.json["data"] == "1 of 10"
        assert f" {key} " not in f" {reply.message} "
    assert "10" in http.request(f"{api.root}/x", api_key="1").text


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_a_socks_proxy_is_named_where_it_cannot_be_used(monkeypatch, variable):
    monkeypatch.setenv(variable, "socks5://user:word@127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "socksio", None)
    reply = http.request("http://elsewhere.invalid/v1/models")
    assert reply.status == 0
    assert "socks5://127.0.0.1:9 is a SOCKS proxy" in reply.text
    assert "pip install socksio" in reply.text


def test_loopback_takes_no_socks_proxy(api, monkeypatch):
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    assert http.request(f"{api.url}/models").ok


def test_what_a_url_holds_beside_an_address_is_sent_and_not_shown(api):
    api.replies["/v1/models?api-version=2&sig=abc"] = (200, {"data": [{"id": "m"}]})
    api.replies["/v1/chat/completions?api-version=2&sig=abc"] = (401, {"error": {"message": "no"}})
    url = api.url.replace("//", "//me:word@") + "/chat/completions?api-version=2&sig=abc"
    message = check(api, KEY, url=url)
    assert api.paths == ["/v1/models?api-version=2&sig=abc", "/v1/chat/completions?api-version=2&sig=abc"]
    assert {headers["Authorization"] for _, _, headers, _ in api.seen} == {"Basic bWU6d29yZA=="}
    assert message.startswith(f"model m: {api.url} refuses the key (401): no")


@pytest.mark.parametrize(
    "url", ["http://x/v1", "http://x/v1/", "http://x/v1/chat/completions", "http://x/v1/chat/completions/"]
)
def test_every_form_of_a_url_has_one_base(url):
    assert api_base(url) == "http://x/v1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"error": {"message": "no such model"}}', "no such model"),
        ('{"error": "no such model"}', "no such model"),
        ('{"detail": "Not Found"}', "Not Found"),
        ('{"object": "error", "message": "too long"}', "too long"),
        ("<html>\n  Bad\n  Gateway</html>", "<html> Bad Gateway</html>"),
        ("[1]", "[1]"),
    ],
)
def test_the_servers_own_words_are_found_in_any_shape(text, message):
    assert http.Reply(500, text).message == message


def test_a_long_page_is_cut():
    assert len(http.Reply(500, "x" * 10_000).message) == 500


def check(api, key=None, model="m", url=None):
    found = check_api("model m", url or api.url, key, model)
    return None if found is None else str(found)


def test_a_working_api_is_found_so_with_one_token(api):
    api.key = KEY
    assert check(api, KEY) is None
    assert api.seen[-1][3]["max_tokens"] == 1


def test_a_missing_key_is_told_otherwise_than_a_wrong_one(api):
    api.key = KEY
    assert "asks for a key, and none is given (401)" in check(api)
    assert "refuses the key (401)" in check(api, "sk-other")


def test_a_key_that_only_lists_is_no_key(api):
    api.replies["/v1/chat/completions"] = (403, {"error": {"message": "no credit"}})
    assert "refuses the key (403): no credit" in check(api, KEY)


def test_a_key_is_not_shown_even_if_the_server_repeats_it(api):
    api.replies["/v1/models"] = (401, {"error": {"message": f"Incorrect API key provided: {KEY}"}})
    assert KEY not in check(api, KEY)


def test_a_key_that_cannot_be_sent_is_not_shown(api):
    assert KEY not in check(api, f"{KEY}\u20ac")


def test_a_line_break_after_a_key_is_not_part_of_it(api):
    assert check(api, f"{KEY}\n") is None


def test_an_unknown_model_names_the_nearest(api):
    api.models = ["gpt-4o-mini", "gpt-4o"]
    message = check(api, model="gpt4o-mini")
    assert "has no model 'gpt4o-mini'" in message
    assert "Did you mean 'gpt-4o-mini'?" in message
    assert "It lists: gpt-4o-mini, gpt-4o" in message


def test_a_model_that_is_not_listed_but_answers_is_no_problem_but_told(api):
    """llama.cpp's server answers to every name: the score would stand under a name that is not the model's."""
    api.replies["/v1/models"] = (200, {"data": [{"id": "another"}]})
    notes = []
    assert check_api("model m", api.url, None, "m", notes.append) is None
    assert notes == [f"model m: {api.url} answers to the name 'm', but does not list it; it lists: another"]


def test_an_api_that_lists_nothing_but_answers_is_fine(api):
    api.replies["/v1/models"] = (404, "")
    assert check(api) is None


def test_a_busy_api_is_fine(api):
    api.replies["/v1/chat/completions"] = (429, {"error": {"message": "slow down"}})
    assert check(api) is None


def test_a_model_that_wants_the_new_name_of_max_tokens_is_fine(api):
    def reply(body):
        if "max_tokens" in body:
            return 400, {"error": {"message": "Use 'max_completion_tokens' instead of 'max_tokens'"}}
        return 200, {"choices": []}

    api.replies["/v1/chat/completions"] = reply
    assert check(api) is None


def test_a_url_without_v1_is_told(api):
    message = check(api, url=api.root)
    assert "is no OpenAI-compatible API (404)" in message
    assert "/v1" in message


def test_a_server_error_is_told_in_its_own_words(api):
    api.replies["/v1/chat/completions"] = (500, {"error": {"message": "out of memory"}})
    assert "refuses a one-token request (500): out of memory" in check(api)


def test_a_host_that_is_not_there_is_told(api):
    assert "http://127.0.0.1:1/v1 cannot be reached:" in check(api, url="http://127.0.0.1:1/v1/")
