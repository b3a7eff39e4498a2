"""Checking an API that is not ours: one look at its models, one token."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from tenacity import Retrying, retry_if_result, stop_after_attempt

from evalscope_evalflow.config.api_url import api_base, endpoint_of, public_url
from evalscope_evalflow.errors import Problem, nearest
from evalscope_evalflow.serving import http
from evalscope_evalflow.serving.readiness import listed_models, one_token

TIMEOUT_S = 20.0
PATIENCE_S = 10.0  # as long as an API may ask us to wait before we ask it a second time
LISTED = 10  # names that a message shows
_NO_QUOTA = re.compile(r"insufficient_quota|exceeded your current quota|billing", re.IGNORECASE)


def check_api(
    where: str, url: str, api_key: str | None, model: str, warn: Callable[[str], None] | None = None
) -> Problem | None:
    """Whether an OpenAI-compatible API answers for a model.

    Args:
        where: how a message names the API.
        url: its base URL, in any form.
        api_key: the key itself.
        model: the model that will be requested.
        warn: is called with what is no obstacle, but should be known, such as that it is busy.

    Returns:
        What is wrong, or None.
    """
    base = api_base(url)
    shown = public_url(base)
    listing = http.request(endpoint_of(base, "/models"), api_key=api_key, timeout_s=TIMEOUT_S)
    if listing.status == 0:
        return _unreachable(where, base, shown, listing)
    if listing.status in (401, 403):
        return _refused(where, shown, listing, api_key)
    names = listed_models(listing.json) if listing.ok else []
    reply = _patiently(base, api_key, model)
    if reply.status == 429 and _NO_QUOTA.search(reply.text):
        return Problem(where, f"the account at {shown} has no quota left (429): {reply.message}", "See to its billing.")
    if reply.status == 429:  # it knows us, and is busy
        asks = "" if reply.retry_after is None else f", and asks to wait {reply.retry_after:.0f} s"
        if warn:
            warn(f"{where}: {shown} is busy (429{asks}): {reply.message}")
        return None
    listed = ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")
    if reply.ok and not _is_completion(reply.json):  # a login page, or a proxy's
        begins = " ".join(reply.text.split())[:60]
        what = (
            f"{shown} is no OpenAI-compatible API: it answers {reply.status}, but with no chat completion ({begins}…)"
        )
        return Problem(where, what, "The URL usually ends in /v1. Is a proxy or a login in between?")
    if reply.ok:
        if names and model not in names and warn:  # some answer whatever the name is
            warn(f"{where}: {shown} answers to the name {model!r}, but does not list it; it lists: {listed}")
        return None
    if reply.status in (401, 403):
        return _refused(where, shown, reply, api_key)
    if names and model not in names:
        return Problem(where, f"{shown} has no model {model!r}", f"{nearest(model, names)} It lists: {listed}".strip())
    if reply.status == 0:
        return _unreachable(where, base, shown, reply)
    if reply.status == 404 and not listing.ok:
        return Problem(where, f"{shown} is no OpenAI-compatible API (404)", "The URL usually ends in /v1.")
    return Problem(where, f"{shown} refuses a one-token request ({reply.status}): {reply.message}")


def _is_completion(body: object) -> bool:
    return isinstance(body, dict) and isinstance(body.get("choices"), list)


def _patiently(base: str, api_key: str | None, model: str) -> http.Reply:
    """The answer to a one-token request; where the API asks for a short time before it is asked again, it gets that."""
    body = one_token(model)

    def ask() -> http.Reply:
        reply = http.request(endpoint_of(base, "/chat/completions"), api_key=api_key, body=body, timeout_s=TIMEOUT_S)
        if reply.status == 400 and "max_completion_tokens" in reply.text and "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")
            return ask()
        return reply

    def wants_time(reply: http.Reply) -> bool:
        return reply.status in (429, 503) and reply.retry_after is not None and reply.retry_after <= PATIENCE_S

    attempts = Retrying(
        stop=stop_after_attempt(2),
        retry=retry_if_result(wants_time),
        wait=lambda state: state.outcome.result().retry_after if state.outcome else 0,
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    return attempts(ask)


def _unreachable(where: str, base: str, shown: str, reply: http.Reply) -> Problem:
    """No answer: whose fault is it?"""
    if reply.untrusted:
        said = reply.untrusted.rstrip(".")
        if "expired" in said:
            todo = "Its owner has to renew it."
        elif "mismatch" in said or "not valid for" in said:
            todo = "Use the host name that the certificate is for."
        else:
            todo = "If you trust it, name a file with its authority's certificate: export SSL_CERT_FILE=…"
        return Problem(where, f"{shown} cannot be asked: its TLS certificate is not trusted: {said}", todo)
    if reply.tls:
        return Problem(where, f"{shown} speaks no TLS that we understand: {reply.text}", "Is it http, not https?")
    parts = urlsplit(base)
    if parts.scheme == "http":
        other = http.request(parts._replace(scheme="https").geturl(), timeout_s=TIMEOUT_S)
        if other.status or other.untrusted:
            return Problem(where, f"{shown} speaks TLS", "Write https in place of http.")
    return Problem(where, f"{shown} cannot be reached: {reply.text}", "Check the URL and the network.")


def _refused(where: str, shown: str, reply: http.Reply, api_key: str | None) -> Problem:
    said = f"{shown} refuses the key" if api_key else f"{shown} asks for a key, and none is given"
    return Problem(
        where, f"{said} ({reply.status}): {reply.message}", "Set its api_key (--eval_api_key, --judge_api_key)."
    )
