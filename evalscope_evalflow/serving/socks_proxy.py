"""Requests through a SOCKS proxy, which the standard library does not know: by httpx, as in the worker."""

from __future__ import annotations

import importlib
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

from evalscope_evalflow.config.api_url import public_url

_MISSING = (
    "{proxy} is a SOCKS proxy, and the package that speaks to one is missing: pip install socksio, here and in the "
    "environment that runs EvalScope"
)


def applies_to(url: str) -> bool:
    """Whether the variables name a SOCKS proxy for a URL, or one by `all_proxy`, which only httpx reads."""
    return bool(_proxy_of(url))


def ask(url: str, headers: Mapping[str, str], data: bytes | None, timeout_s: float) -> tuple[int, str, str | None]:
    """GET a URL, or POST data.

    Returns:
        Status, body and the `Retry-After` header; status 0 means that there was no answer, and the body says why.
    """
    import httpx

    proxy = _proxy_of(url)
    if urlsplit(proxy).scheme.startswith("socks"):
        try:
            importlib.import_module("socksio")
        except ImportError:
            return (
                0,
                _MISSING.format(proxy=public_url(proxy)),
                None,
            )
    try:
        with httpx.Client(proxy=proxy, timeout=timeout_s) as client:
            reply = client.request("GET" if data is None else "POST", url, headers=dict(headers), content=data)
            return reply.status_code, reply.text, reply.headers.get("Retry-After")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        return 0, str(error) or type(error).__name__, None


def _proxy_of(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    found = urllib.request.getproxies()
    own = found.get(parts.scheme, "")
    proxy = own or found.get("all", "")
    wanted = urlsplit(proxy).scheme.startswith("socks") or (proxy and not own)
    return proxy if wanted and not urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]) else ""
