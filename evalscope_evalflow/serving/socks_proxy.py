"""Requests through a SOCKS proxy, which the standard library does not know: by httpx, as in the worker."""

from __future__ import annotations

import importlib
import time
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


def ask(
    url: str, headers: Mapping[str, str], data: bytes | None, timeout_s: float, most_bytes: int
) -> tuple[int, str, str | None]:
    """GET a URL, or POST data. Redirects are not followed.

    Args:
        url: what is asked.
        headers: of the request.
        data: the request's body; None: it has none.
        timeout_s: for each step of it; the whole reply has twice that.
        most_bytes: of the reply.

    Returns:
        Status, body and the `Retry-After` header; status 0 means that there was no answer, and the body says why.
    """
    import httpx

    deadline = time.monotonic() + 2 * timeout_s
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
            method = "GET" if data is None else "POST"
            with client.stream(method, url, headers=dict(headers), content=data) as reply:
                body = bytearray()
                for part in reply.iter_bytes():
                    body += part
                    if len(body) > most_bytes:
                        return 0, f"its reply has more than {most_bytes >> 20} MiB", None
                    if time.monotonic() > deadline:
                        return 0, "timed out before its reply was whole", None
                return reply.status_code, body.decode("utf-8", "replace"), reply.headers.get("Retry-After")
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
