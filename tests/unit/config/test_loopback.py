import subprocess
import sys

import pytest

from evalscope_evalflow.config.loopback import no_proxy_variables

# What each client would ask through, of the environment it is given: nothing, for an address of this machine.
ASK = """
import sys, urllib.request, httpx, requests
url = sys.argv[1]
host = httpx.URL(url).netloc.decode()
with httpx.Client() as client:
    print(type(client._transport_for_url(httpx.URL(url))._pool).__name__)
print(requests.utils.get_environ_proxies(url))
print(bool(urllib.request.proxy_bypass(host.strip("[]").removesuffix("]:8000"))))
"""


def test_this_machine_is_added_to_what_is_there_in_both_spellings():
    found = no_proxy_variables({"no_proxy": ".corp.example, 10.0.0.1", "NO_PROXY": "other"})
    assert found == dict.fromkeys(("no_proxy", "NO_PROXY"), ".corp.example,10.0.0.1,localhost,127.0.0.1,::1")


def test_the_one_spelling_that_is_there_counts():
    assert no_proxy_variables({"NO_PROXY": "a"})["no_proxy"].startswith("a,")
    assert no_proxy_variables({})["NO_PROXY"] == "localhost,127.0.0.1,::1"


def test_a_star_stays_alone():
    assert no_proxy_variables({"no_proxy": "*,a"}) == {"no_proxy": "*", "NO_PROXY": "*"}


def test_other_addresses_of_this_machine_are_named_and_no_others():
    found = no_proxy_variables({}, ["http://127.0.1.1:8000/v1", "https://api.example/v1", None])["no_proxy"]
    assert found == "127.0.1.1,localhost,127.0.0.1,::1"


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "http://[::1]:8000/v1", "http://localhost:8000/v1"])
def test_httpx_requests_and_urllib_understand_it(url, monkeypatch):
    environ = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ".corp.example"}
    environ.update(no_proxy_variables(environ))
    done = subprocess.run([sys.executable, "-c", ASK, url], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["ConnectionPool", "{}", "True"]
