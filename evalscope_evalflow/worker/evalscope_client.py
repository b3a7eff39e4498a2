"""EvalScope's client of a model: it makes no answers of errors, and asks again only where that may help."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from evalscope_evalflow.worker.request_failures import Unanswered, classify, retry_after, untrusted

LONGEST_WAIT_S = 600.0  # a server that wants more is left alone till the next run


def refuse_error_texts(model: Any) -> None:
    """Keep a model's client from making an answer of an error.

    EvalScope's own handling makes one of a context that is too long and of refused content, and what an engine that
    is shut down had said so far passes for a whole answer.
    """
    api: Any = getattr(model, "api", None)
    if not hasattr(api, "handle_bad_request") or "handle_bad_request" in vars(api):
        return
    on_response = api.on_response

    def fail(error: Exception) -> Any:
        raise error

    def look(response: dict[str, Any]) -> None:
        for choice in response.get("choices") or []:
            reason = choice.get("finish_reason")
            if reason == "content_filter":
                raise Unanswered("content_refused", False, "the answer was withheld (finish_reason content_filter)")
            if reason in ("abort", "error"):
                raise Unanswered("broken_off", True, f"the answer was broken off (finish_reason {reason})")
        on_response(response)

    api.handle_bad_request, api.on_response = fail, look


class _Through(BaseException):
    """Carries an error through `except Exception`."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def retry_only_what_is_transient() -> None:
    """Keep EvalScope from repeating requests that were refused permanently: some of its versions do, with every pause.

    The others are not sent again before the time that the server asks for (`Retry-After`). The openai package heeds
    that too, but only in its own attempts, and for two minutes at most.
    """
    from evalscope.models import openai_compatible as module

    retry, retry_async = module.retry_call, module.async_retry_call

    def look(error: Exception) -> float:
        """When it may be asked again, by the monotonic clock; an error that no attempt can mend goes through."""
        permanent = isinstance(getattr(error, "status_code", None), int) or untrusted(error)
        seconds = retry_after(error) or 0.0
        if (permanent and not classify(error)[1]) or seconds > LONGEST_WAIT_S:
            raise _Through(error) from error
        return time.monotonic() + seconds

    def once(function: Any, *args: Any, **options: Any) -> Any:
        not_before = 0.0

        def call(*inner: Any, **more: Any) -> Any:
            nonlocal not_before
            time.sleep(max(0.0, not_before - time.monotonic()))
            try:
                return function(*inner, **more)
            except Exception as error:
                not_before = look(error)
                raise

        try:
            return retry(call, *args, **options)
        except _Through as through:
            raise through.error from through.error.__cause__  # which tells of TLS

    async def once_async(function: Any, *args: Any, **options: Any) -> Any:
        not_before = 0.0

        async def call(*inner: Any, **more: Any) -> Any:
            nonlocal not_before
            await asyncio.sleep(max(0.0, not_before - time.monotonic()))
            try:
                return await function(*inner, **more)
            except Exception as error:
                not_before = look(error)
                raise

        try:
            return await retry_async(call, *args, **options)
        except _Through as through:
            raise through.error from through.error.__cause__  # which tells of TLS

    module.retry_call, module.async_retry_call = once, once_async
