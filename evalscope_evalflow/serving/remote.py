"""Checking an API that is not ours: one look at its models, one token."""

from __future__ import annotations

from evalscope_evalflow.errors import Problem, nearest
from evalscope_evalflow.serving import http
from evalscope_evalflow.serving.readiness import listed_models, one_token

TIMEOUT_S = 20.0


def check_api(where: str, url: str, api_key: str | None, model: str) -> Problem | None:
    """Whether an OpenAI-compatible API answers for a model.

    Args:
        where: how a message names the API.
        url: its base URL, in any form.
        api_key: the key itself.
        model: the model that will be requested.

    Returns:
        What is wrong, or None.
    """
    base = http.api_base(url)
    listing = http.request(f"{base}/models", api_key=api_key, timeout_s=TIMEOUT_S)
    if listing.status == 0:
        return Problem(where, f"{base} cannot be reached: {listing.text}", "Check the URL and the network.")
    if listing.status in (401, 403):
        return _refused(where, base, listing, api_key)
    names = listed_models(listing.json) if listing.ok else []
    body = one_token(model)
    reply = http.request(f"{base}/chat/completions", api_key=api_key, body=body, timeout_s=TIMEOUT_S)
    if reply.status == 400 and "max_completion_tokens" in reply.text:
        body["max_completion_tokens"] = body.pop("max_tokens")
        reply = http.request(f"{base}/chat/completions", api_key=api_key, body=body, timeout_s=TIMEOUT_S)
    if reply.ok or reply.status == 429:  # 429: it knows us, and is busy
        return None
    if reply.status in (401, 403):
        return _refused(where, base, reply, api_key)
    if names and model not in names:
        listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        return Problem(where, f"{base} has no model {model!r}", f"{nearest(model, names)} It lists: {listed}".strip())
    if reply.status == 0:
        return Problem(where, f"{base} does not answer: {reply.text}", "Check the URL and the network.")
    if reply.status == 404 and not listing.ok:
        return Problem(where, f"{base} is no OpenAI-compatible API (404)", "The URL usually ends in /v1.")
    return Problem(where, f"{base} refuses a one-token request ({reply.status}): {reply.message}")


def _refused(where: str, base: str, reply: http.Reply, api_key: str | None) -> Problem:
    said = f"{base} refuses the key" if api_key else f"{base} asks for a key, and none is given"
    return Problem(where, f"{said} ({reply.status}): {reply.message}", "Set api_key (--eval_api_key for the model).")
