"""How the openai package's clients reach an API: what its URL holds beside an address, no proxy on this machine, and no
redirect that leads further in.

EvalScope writes the URLs of judges into its own files. So the parent takes user, password and query out of every URL,
and hands them over in a variable; each client adds them to its requests again.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import os
import ssl
import sys
from typing import Any
from urllib.parse import urlsplit

from evalscope_evalflow.events.redirects import refused_redirect

URL_PARTS = "EVALFLOW_URL_PARTS"  # {base URL: {"query": {NAME: VALUE}, "authorization": HEADER}}, as JSON


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine (as `config.loopback` has it, which cannot be imported here)."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
        if host == "localhost" or host.endswith(".localhost"):
            return True
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def patch_clients() -> None:
    """Have every client that is made from now on be made so."""
    import openai

    for name, client in (("OpenAI", "DefaultHttpxClient"), ("AsyncOpenAI", "DefaultAsyncHttpxClient")):
        _patch(getattr(openai, name), getattr(openai, client))


def _patch(openai_class: Any, http_client: Any) -> None:
    stock = openai_class.__init__
    if hasattr(stock, "__wrapped__"):
        return

    @functools.wraps(stock)
    def make(self: Any, *args: Any, **options: Any) -> None:
        url = str(options.get("base_url") or "").rstrip("/")
        more = json.loads(os.environ.get(URL_PARTS) or "{}").get(url) or {}
        if more.get("query"):
            options["default_query"] = {**more["query"], **(options.get("default_query") or {})}
        if more.get("authorization"):
            options["default_headers"] = {
                "Authorization": more["authorization"],
                **(options.get("default_headers") or {}),
            }
        if is_loopback(url) and options.get("http_client") is None:
            # With `trust_env`, it would make a transport for each proxy, and fail where one speaks SOCKS.
            options["http_client"] = http_client(trust_env=False, verify=ssl.create_default_context())
        stock(self, *args, **options)
        _watch_redirects(self._client)

    openai_class.__init__ = make


def _watch_redirects(http_client: Any) -> None:
    """Have a client refuse redirects that lead further in than the server is: it would take the question there."""
    hooks = http_client.event_hooks["response"]
    if any(getattr(hook, "of_evalflow", False) for hook in hooks):  # shared by several clients
        return

    def look(response: Any) -> None:
        if response.has_redirect_location:
            leads = str(response.request.url.join(response.headers["location"]))
            if refused := refused_redirect(str(response.request.url), leads):
                httpx = sys.modules[type(response).__module__.partition(".")[0]]
                raise httpx.RemoteProtocolError(refused, request=response.request)

    async def look_async(response: Any) -> None:
        look(response)

    hook: Any = look_async if hasattr(http_client, "aclose") else look
    hook.of_evalflow = True
    hooks.append(hook)
