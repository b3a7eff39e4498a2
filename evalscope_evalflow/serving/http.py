"""HTTP to inference servers, with the standard library alone: the engine starts before anything slow is imported."""

from __future__ import annotations

import contextlib
import email.utils
import json
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException, IncompleteRead
from typing import Any
from urllib.parse import urlsplit

from evalscope_evalflow.config.api_url import split_authorization
from evalscope_evalflow.config.keys import mask_text
from evalscope_evalflow.config.loopback import is_loopback
from evalscope_evalflow.events import any_json
from evalscope_evalflow.events.redirects import refused_redirect
from evalscope_evalflow.serving import socks_proxy
from evalscope_evalflow.serving.timed_replies import TimedHTTP, TimedHTTPS

MOST_BYTES = 1 << 25  # of a reply; a list of a thousand models has some hundred KiB
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Reply:
    """A server's answer; `status` 0 means that there was none, and `text` then says why.

    Attributes:
        text: the body, or why there is none, as it may be shown.
        cut: whether the connection was refused or broken off, which a server that is only slow does not do.
        untrusted: why its TLS certificate is not trusted; empty if that is not what is wrong.
        tls: whether TLS failed, be it for that reason.
        retry_after: seconds that it asks to wait, if it does.
    """

    status: int
    text: str
    cut: bool = False
    untrusted: str = ""
    tls: bool = False
    retry_after: float | None = None
    body: str | None = field(default=None, repr=False)  # as it came, for reading; None: the text
    key: str = field(default="", repr=False)  # that servers like to repeat

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def json(self) -> Any:
        """The body as JSON, or None where it is none."""
        with contextlib.suppress(ValueError):
            return any_json.loads(self.text if self.body is None else self.body)
        return None

    @property
    def message(self) -> str:
        """The server's own words, in one line."""
        body = self.json
        if isinstance(body, dict):
            error = body.get("error", body)
            found = error.get("message") or error.get("detail") if isinstance(error, dict) else error
            if found:
                return mask_text(str(found), [self.key])[:500]
        return " ".join(self.text.split())[:500]


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not further in than the server is, and takes the key to no other server."""

    def redirect_request(self, req: urllib.request.Request, *args: Any) -> urllib.request.Request | None:
        if refused := refused_redirect(req.full_url, args[-1]):
            raise urllib.error.URLError(refused)
        new = super().redirect_request(req, *args)
        if new is not None and not _same_server(req.full_url, new.full_url):
            new.remove_header("Authorization")
        return new


def _same_server(before: str, after: str) -> bool:
    old, new = urlsplit(before), urlsplit(after)
    if (old.scheme, old.hostname, old.port) == (new.scheme, new.hostname, new.port):
        return True
    upgraded = (old.scheme, new.scheme) == ("http", "https") and old.port in (None, 80) and new.port in (None, 443)
    return upgraded and old.hostname == new.hostname


def request(
    url: str, *, api_key: str | None = None, body: Any = None, timeout_s: float = 5.0, direct: bool = False
) -> Reply:
    """GET a URL, or POST `body` as JSON. Never raises for what the server or the network does.

    The whole reply has twice `timeout_s`, and MOST_BYTES of room: a server may send a byte a second, or without end.

    `direct`: ask no proxy; for loopback none is asked anyway.

    Servers like to repeat a key that they refuse; it is masked in the reply.
    """
    headers = {"Accept": "application/json"}
    api_key = (api_key or "").strip()
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    url, basic = split_authorization(url)
    if basic:  # as the openai package's client has it
        headers["Authorization"] = basic
    data, cut, retry_after = None, False, None
    untrusted, tls = "", False
    if body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    if not direct and not is_loopback(url) and socks_proxy.applies_to(url):
        status, text, asked = socks_proxy.ask(url, headers, data, timeout_s, MOST_BYTES)
        shown = mask_text(text, [api_key])
        return Reply(status, shown, retry_after=seconds_of(asked), body=text if status else None, key=api_key)
    try:
        opener = _opener(url, direct, time.monotonic() + 2 * timeout_s)
        try:
            with opener.open(urllib.request.Request(url, data, headers), timeout=timeout_s) as answer:
                status, text = answer.status, _body(answer)
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, _body(error)
                retry_after = seconds_of(error.headers.get("Retry-After"))
    except (OSError, HTTPException, ValueError) as error:  # refused, reset, timed out; no HTTP; no URL
        reason = getattr(error, "reason", "") or error
        status, text, cut = 0, str(reason) or type(error).__name__, isinstance(reason, ConnectionError)
        tls = isinstance(reason, ssl.SSLError)
        if isinstance(reason, ssl.SSLCertVerificationError):
            untrusted = reason.verify_message or text
    shown = mask_text(text, [api_key])
    return Reply(status, shown, cut, untrusted, tls, retry_after, body=text if status else None, key=api_key)


def _body(answer: Any) -> str:
    """
    Raises:
        ValueError: it is larger than anything that is asked for here.
        HTTPException: it ends too early.
    """
    data = bytearray()
    while more := answer.read(min(_BLOCK, MOST_BYTES + 1 - len(data))):
        data += more
        if len(data) > MOST_BYTES:
            raise ValueError(f"its reply has more than {MOST_BYTES >> 20} MiB")
    if getattr(answer, "length", None):  # bytes that are still to come
        raise IncompleteRead(bytes(data), answer.length)
    return data.decode("utf-8", "replace")


def _opener(url: str, direct: bool, deadline: float) -> urllib.request.OpenerDirector:
    """What opens a URL, but for proxies where it is `direct`; the deadline is of the monotonic clock."""
    direct = direct or is_loopback(url)
    if direct and urlsplit(url).scheme == "http":
        # As `build_opener` makes it, but without TLS, for which that reads every authority that is trusted: 20 ms each
        # time, which would be most of a core where an engine is asked ten times a second whether it is ready.
        opener = urllib.request.OpenerDirector()
        handlers: list[urllib.request.BaseHandler] = [
            TimedHTTP(deadline), urllib.request.UnknownHandler(), urllib.request.HTTPDefaultErrorHandler(),
            _Redirects(), urllib.request.HTTPErrorProcessor(),
        ]  # fmt: skip
        for handler in handlers:
            opener.add_handler(handler)
        return opener
    handlers = [TimedHTTP(deadline), TimedHTTPS(deadline), _Redirects()]
    if direct:
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def seconds_of(retry_after: str | None) -> float | None:
    """The seconds that a `Retry-After` header asks to wait; it holds seconds, or a date."""
    if not retry_after:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(retry_after))
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None
