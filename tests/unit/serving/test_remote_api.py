"""An API that is not ours, behind TLS of the tests' own: what preflight and a run tell apart."""

import socket
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise

import openai
import pytest
from tls_server import Authority, TlsServer

from evalscope_evalflow.serving import http
from evalscope_evalflow.serving.remote_api import check_api
from evalscope_evalflow.worker import evalscope_client as worker_client
from evalscope_evalflow.worker import request_failures as failures

KEY = "sk-of-the-model"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def api(authority):
    with TlsServer(authority.context(), ["m", "gpt-4o-mini"], KEY) as server:
        yield server


@pytest.fixture
def trusted(authority, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))


def check(url, model="m", key=KEY):
    notes = []
    problem = check_api("model m", url, key, model, notes.append)
    return (None if problem is None else str(problem)), notes


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("form", ["{0}", "{0}/", "{0}/chat/completions", "{0}/chat/completions/"])
def test_an_api_behind_tls_that_is_trusted_is_fine_in_every_form_of_its_url(api, form):
    assert check(form.format(api.url)) == (None, [])


def test_an_authority_that_nobody_knows_is_told_with_the_variable_that_helps(api):
    message, _ = check(api.url)
    assert f"{api.url} cannot be asked: its TLS certificate is not trusted: " in message
    assert "certificate" in message.split("not trusted: ")[1]
    assert "SSL_CERT_FILE" in message


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    ("host", "days", "said", "todo"),
    [
        ("localhost", -1, "certificate has expired", "Its owner has to renew it."),
        ("other.example", 1, "not valid for 'localhost'", "Use the host name that the certificate is for."),
    ],
)
def test_a_certificate_that_is_old_or_anothers_is_told(authority, api, host, days, said, todo):
    api.context = authority.context(host, days)
    message, _ = check(api.url)
    assert "its TLS certificate is not trusted" in message
    assert said in message
    assert todo in message


def test_https_to_a_server_without_tls_is_told():
    with TlsServer(None, ["m"], KEY) as api:
        message, _ = check(api.url.replace("http:", "https:"))
    assert "speaks no TLS that we understand" in message
    assert "http, not https?" in message


def test_http_to_a_server_with_tls_is_told(api):
    message, _ = check(api.url.replace("https:", "http:"))
    assert "speaks TLS" in message
    assert "Write https in place of http." in message


@pytest.mark.usefixtures("trusted")
def test_keys_and_models_that_are_wrong_are_told_apart(api):
    assert "asks for a key, and none is given (401)" in check(api.url, key=None)[0]
    assert "refuses the key (401)" in check(api.url, key="sk-other")[0]
    message, _ = check(api.url, model="gpt4o-mini")
    assert "has no model 'gpt4o-mini'" in message
    assert "Did you mean 'gpt-4o-mini'? It lists: m, gpt-4o-mini" in message


def test_a_url_with_a_password_is_shown_without_it():
    message, _ = check("http://user:secret@127.0.0.1:1/v1")
    assert "http://127.0.0.1:1/v1 cannot be reached" in message
    assert "secret" not in message


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("status", [429, 503])
def test_an_api_that_asks_for_a_moment_is_asked_again_after_it(api, status):
    said = iter([(status, {"Retry-After": "0.2"}, {"error": {"message": "slow down"}})])
    api.reply = lambda _: next(said, None)
    began = time.monotonic()
    assert check(api.url) == (None, [])
    assert time.monotonic() - began >= 0.2


@pytest.mark.usefixtures("trusted")
def test_an_api_that_is_busy_for_long_is_no_problem_but_told(api):
    api.reply = lambda _: (429, {"Retry-After": "60"}, {"error": {"message": "slow down"}})
    began = time.monotonic()
    assert check(api.url) == (None, [f"model m: {api.url} is busy (429, and asks to wait 60 s): slow down"])
    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("trusted")
def test_an_account_without_quota_is_no_busy_api(api):
    api.reply = lambda _: (429, {}, {"error": {"message": "no", "code": "insufficient_quota"}})
    assert "has no quota left (429): no" in check(api.url)[0]


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("3", 3, 3),
        ("0.5", 0.5, 0.5),
        ("-1", 0, 0),
        (None, 90, 101),  # a date in 100 s
        ("soon", None, None),
        ("", None, None),
    ],
)
def test_what_a_server_may_write_into_retry_after(header, low, high):
    header = formatdate(time.time() + 100, usegmt=True) if header is None else header

    class Error(Exception):
        class response:
            headers = {"retry-after": header} if header else {}

    for found in (http.seconds_of(header), failures.retry_after(Error())):
        assert (found is None) if low is None else (low <= found <= high)


# In the middle of a run: the worker's side, with the openai package as EvalScope uses it.


class Page(BaseHTTPRequestHandler):
    """A login page, for whatever is asked."""

    def do_GET(self):
        body = b"<html><title>Sign in</title></html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *words):
        pass


def test_a_login_page_is_no_api():
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        message, _ = check(f"http://127.0.0.1:{server.server_port}/v1")
        server.shutdown()
    assert "is no OpenAI-compatible API: it answers 200, but with no chat completion (<html><title>Sign in" in message
    assert "Is a proxy or a login in between?" in message


def error_of(url, key=KEY, model="m"):
    """What the openai package raises."""
    with openai.OpenAI(api_key=key, base_url=url, max_retries=0) as client, pytest.raises(openai.OpenAIError) as caught:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])
    return caught.value


def test_a_certificate_that_is_not_trusted_ends_the_run_and_says_so(api):
    error = error_of(api.url)
    assert failures.classify(error) == ("run", False)
    assert f"{api.url}/chat/completions cannot be asked any more: its TLS certificate" in failures.run_error(error)


@pytest.mark.usefixtures("trusted")
def test_a_refused_key_ends_the_run_and_says_so(api):
    error = error_of(api.url, key="sk-other")
    assert failures.classify(error) == ("run", False)
    assert "(401: the key is refused): Unauthorized" in failures.run_error(error)


@pytest.mark.usefixtures("trusted")
def test_an_unknown_model_ends_the_run_and_names_those_that_there_are(api, monkeypatch):
    error = error_of(api.url, model="gone")
    assert failures.classify(error) == ("run", False)
    said = failures.run_error(error)
    assert "(404: there is no such model, or no such API): there is no model gone; it lists: m, gpt-4o-mini" in said
    assert KEY not in said


@pytest.mark.usefixtures("trusted")
def test_an_empty_account_ends_the_run_and_a_busy_api_does_not(api):
    api.reply = lambda _: (429, {}, {"error": {"message": "no", "code": "insufficient_quota"}})
    error = error_of(api.url)
    assert failures.classify(error) == ("run", False)
    assert "(429: the account has no quota left)" in failures.run_error(error)
    api.reply = lambda _: (429, {"Retry-After": "1"}, {"error": {"message": "slow down"}})
    assert failures.classify(error_of(api.url)) == ("rate_limited", True)


def test_a_server_that_is_gone_is_no_matter_of_trust():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert failures.classify(error_of(f"https://127.0.0.1:{port}/v1")) == ("connection", True)


@pytest.fixture
def retrying(monkeypatch):
    """EvalScope's retrying as the worker has it, on a client for the server."""
    from evalscope.models import openai_compatible as module

    monkeypatch.setattr(module, "retry_call", module.retry_call)
    monkeypatch.setattr(module, "async_retry_call", module.async_retry_call)
    worker_client.retry_only_what_is_transient()

    def ask(url, retries):
        with openai.OpenAI(api_key=KEY, base_url=url, max_retries=0) as client:
            return module.retry_call(
                lambda: client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}]),
                retries=retries,
                sleep_interval=0,
            )

    return ask


@pytest.mark.usefixtures("trusted")
def test_a_request_is_not_sent_again_before_the_server_wants_it(api, retrying):
    times = []

    def reply(number):
        times.append(time.monotonic())
        return (429, {"Retry-After": "0.4"}, {"error": {"message": "slow down"}}) if number < 3 else None

    api.reply = reply
    assert retrying(api.url, 5).choices[0].message.content
    assert len(times) == 3
    assert all(later - earlier >= 0.4 for earlier, later in pairwise(times))


@pytest.mark.usefixtures("trusted")
def test_the_last_attempt_is_not_followed_by_waiting(api, retrying):
    api.reply = lambda _: (429, {"Retry-After": "30"}, {"error": {"message": "slow down"}})
    began = time.monotonic()
    with pytest.raises(openai.RateLimitError):
        retrying(api.url, 1)
    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    "reply", [(429, {"Retry-After": "86400"}, {}), (429, {}, {"error": {"code": "insufficient_quota"}}), (401, {}, {})]
)
def test_what_no_attempt_can_mend_is_asked_once(api, retrying, reply):
    api.reply = lambda _: reply
    with pytest.raises(openai.APIStatusError) as caught:
        retrying(api.url, 5)
    assert len(api.asked) == 1
    assert failures.untrusted(caught.value) == ""  # though it is among its own causes


def test_an_untrusted_server_is_asked_once(api, retrying):
    connections = []
    accept = api._server.get_request
    api._server.get_request = lambda: connections.append(1) or accept()
    with pytest.raises(openai.APIConnectionError) as caught:
        retrying(api.url, 5)
    assert len(connections) == 1
    assert failures.classify(caught.value) == ("run", False)
