"""The clients that EvalScope makes, as the worker has patched them; each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evalscope_evalflow.config.loopback import is_loopback
from evalscope_evalflow.run.url_parts import UrlParts
from evalscope_evalflow.worker import api_clients

ASK = """
import asyncio, sys
from evalscope_evalflow.worker.api_clients import patch_clients
import openai
patch_clients(); patch_clients()
url, kind = sys.argv[1:]
if kind == "sync":
    print(openai.OpenAI(api_key="k", base_url=url, max_retries=0).models.list().data[0].id)
else:
    async def ask():
        async with openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0) as client:
            return (await client.models.list()).data[0].id
    print(asyncio.run(ask()))
"""


def ask(url, kind, **variables):
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(api_clients.__file__).parents[2]), **variables}
    done = subprocess.run([sys.executable, "-c", ASK, url, kind], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_loopback_takes_no_proxy_socks_included_and_the_urls_parts_are_sent(api, kind):
    api.replies["/v1/models?api-version=2"] = (200, {"object": "list", "data": [{"id": "m", "object": "model"}]})
    urls = UrlParts(api.url.replace("//", "//me:word@") + "?api-version=2")
    proxies = {"http_proxy": "http://127.0.0.1:9", "all_proxy": "socks5://127.0.0.1:9", "no_proxy": "x.example"}
    assert ask(api.url, kind, **proxies, EVALFLOW_URL_PARTS=urls.as_json()) == "m"
    sent = {name.lower(): value for name, value in api.seen[0][2].items()}
    assert sent["authorization"] == "Basic bWU6d29yZA=="


@pytest.mark.parametrize(
    "url",
    ["http://127.9.9.9/v1", "http://[::1]/v1", "http://localhost./v1", "http://0.0.0.0/", "http://10.0.0.1/", "x", ""],
)
def test_both_halves_agree_on_what_loopback_is(url):
    assert api_clients.is_loopback(url) is is_loopback(url)


def test_the_variable_holds_json():
    assert json.loads(UrlParts().as_json()) == {}
