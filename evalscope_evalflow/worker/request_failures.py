"""Samples that cannot be answered or scored: which kind of failure, whether permanent, and the file that lists them."""

from __future__ import annotations

import email.utils
import hashlib
import json
import os
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from http.client import HTTPException
from pathlib import Path
from typing import Any

from evalscope_evalflow.events import any_json
from evalscope_evalflow.events.json_lines import append
from evalscope_evalflow.events.redirects import refused_redirect
from evalscope_evalflow.events.schema import ESCAPED, SCHEMA
from evalscope_evalflow.events.whole_files import write_whole
from evalscope_evalflow.worker.api_clients import is_loopback
from evalscope_evalflow.worker.credentials import masked

# Servers' words for a prompt that does not fit: OpenAI and vLLM, llama.cpp, DashScope, SGLang, Anthropic's gateway.
_TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window)|input length|too many tokens|longer than the model|prompt is too long",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"content[ _]?(filter|policy|management policy)|data_inspection_failed|inappropriate content|moderation|flagged"
    r"|invalid_prompt",
    re.IGNORECASE,
)
_NO_QUOTA = re.compile(r"insufficient_quota|exceeded your current quota", re.IGNORECASE)
SHOWN = 200  # characters of a reason
LIST_S, MOST_LISTED_BYTES = 10.0, 1 << 22  # for a list of models, and of it
LISTED = 10  # names of models that a message shows
WHOLE_RUN = {  # no sample will fare better
    401: "the key is refused",
    402: "the account has no balance",
    403: "access is refused",
    404: "there is no such model, or no such API",
}


class Unanswered(Exception):
    """A sample that has no answer, though its request was answered.

    Attributes:
        kind: why, in a word.
        transient: whether it may work when it is asked again.
    """

    def __init__(self, kind: str, transient: bool, message: str) -> None:
        super().__init__(message)
        self.kind, self.transient = kind, transient


def classify(error: BaseException) -> tuple[str, bool]:
    """The kind of a failure, and whether it is transient. Of `run` kind is what no sample would survive."""
    if isinstance(error, Unanswered):
        return error.kind, error.transient
    if untrusted(error):
        return "run", False
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"APITimeoutError", "TimeoutError", "TimeoutException"}:
        return "timeout", True
    if names & {"APIConnectionError", "ConnectionError", "TransportError"}:
        return "connection", True
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        return "error", True
    said = f"{error} {json.dumps(getattr(error, 'body', None), default=str)}"
    if status == 429:  # before its other words, which are of tokens too
        return ("run", False) if _NO_QUOTA.search(said) else ("rate_limited", True)
    if status not in (401, 402, 404) and _TOO_LONG.search(said):
        return "context_too_long", False
    if 400 <= status < 500 and status not in (401, 402, 404) and _REFUSED.search(said):
        return "content_refused", False
    if status in WHOLE_RUN:
        return "run", False
    if status in (408, 409, 425) or status >= 500:
        return "server_error", True
    return "request_refused", False


class Failures:
    """What could not be answered or scored, in a file that outlives this process."""

    def __init__(self, file: str, cause: str) -> None:
        self._file, self._cause = file, cause
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, str], dict[str, Any]] = {}
        if os.path.exists(file):
            with open(file, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    try:
                        item = any_json.loads(line)
                        self._known[str(item["dataset"]), str(item["subset"]), str(item["sample"])] = item
                    except (ValueError, KeyError, TypeError):
                        continue  # half a line, of a process that was killed

    def add(self, dataset: str, subset: str, sample: Any, cause: str, kind: str, transient: bool, said: str) -> None:
        """Write one down.

        Raises:
            FileError: it cannot be.
        """
        said = masked(said)
        item = {
            "schema": SCHEMA, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "dataset": dataset, "subset": subset, "sample": sample,
            "kind": kind, "transient": transient, "message": " ".join(said.split())[:500], "cause": cause,
        }  # fmt: skip
        with self._lock:
            append(self._file, json.dumps(item, ensure_ascii=False, default=str) + "\n", ESCAPED)

    def expect(self, dataset: str, subset: str, sample: Any, cause: str) -> None:
        """Fail at once where the same request is known to fail.

        Raises:
            Unanswered: as it did before.
        """
        item = self._known.get((dataset, subset, str(sample)))
        if item and not item["transient"] and item.get("cause") == cause:
            raise Unanswered(item["kind"], False, f"not asked again: {item['message']}")

    def forget(self, dataset: str, subset: str, samples: Collection[int]) -> None:
        """Strike out samples of a subset whose places other rows have taken."""
        gone = {(dataset, subset, str(sample)) for sample in samples}
        if not gone & self._known.keys():
            return
        with self._lock:
            self._known = {place: item for place, item in self._known.items() if place not in gone}
            lines = (json.dumps(item, ensure_ascii=False, default=str) + "\n" for item in self._known.values())
            write_whole(Path(self._file), "".join(lines), ESCAPED)

    def cause(self, prompt: Any) -> str:
        """A fingerprint of what makes a request fail: what the parent says of the task, and the prompt."""
        messages = prompt if isinstance(prompt, list) else [prompt]
        asked = [[getattr(item, "role", "user"), getattr(item, "content", item)] for item in messages]
        text = json.dumps(asked, default=lambda item: item.model_dump() if hasattr(item, "model_dump") else str(item))
        return hashlib.sha256((self._cause + text).encode()).hexdigest()[:16]


def untrusted(error: BaseException | None) -> str:
    """Why the server's TLS certificate is not trusted; empty if that is not what is wrong."""
    seen: list[BaseException] = []  # an error may be its own cause, by way of another
    while error is not None and error not in seen:
        if isinstance(error, ssl.SSLCertVerificationError):
            return str(error.verify_message or error)
        seen.append(error)
        error = error.__cause__ or error.__context__
    return ""


def run_error(error: Any) -> str:
    """Why no sample can succeed."""
    url = getattr(getattr(error, "request", None), "url", None)
    where = f"{url.scheme}://{url.netloc.decode()}{url.path}" if url is not None else "the API"  # no query: keys
    if untrusted(error):
        return f"{where} cannot be asked any more: its TLS certificate is not trusted: {untrusted(error)}"
    status = error.status_code
    why = WHOLE_RUN.get(status, "the account has no quota left")
    return f"{where} refuses every request ({status}: {why}): {error_text(error)}{models_listed(error)}"


def models_listed(error: Any) -> str:
    """For an unknown model: the names that the server lists, as the end of a sentence."""
    request = getattr(error, "request", None)
    if getattr(error, "status_code", None) != 404 or request is None:
        return ""
    names: list[str] = []
    # In a thread that is left alone after that time: a server may send a byte a second.
    asking = threading.Thread(target=lambda: names.extend(_names_of(request)), daemon=True)
    asking.start()
    asking.join(LIST_S)
    more = ", …" if len(names) > LISTED else ""
    return f"; it lists: {', '.join(names[:LISTED])}{more}" if names else ""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows none that leads further in than the server is."""

    def redirect_request(self, req: urllib.request.Request, *args: Any) -> urllib.request.Request | None:
        if refused := refused_redirect(req.full_url, args[-1]):
            raise urllib.error.URLError(refused)
        return super().redirect_request(req, *args)


def _names_of(request: Any) -> list[str]:
    url = str(request.url).split("?")[0].removesuffix("/chat/completions") + "/models"
    handlers: list[urllib.request.BaseHandler] = [_Redirects()]
    handlers += [urllib.request.ProxyHandler({})] if is_loopback(str(request.url)) else []
    try:
        ask = urllib.request.Request(url)
        if "authorization" in request.headers:  # not for where a redirect leads
            ask.add_unredirected_header("Authorization", request.headers["authorization"])
        with urllib.request.build_opener(*handlers).open(ask, timeout=LIST_S) as answer:
            return [str(item["id"])[:SHOWN] for item in any_json.loads(answer.read(MOST_LISTED_BYTES))["data"]]
    except (OSError, ValueError, LookupError, TypeError, HTTPException):
        return []


def retry_after(error: BaseException) -> float | None:
    """Seconds that the server asks to wait, by its `Retry-After` header: a number, or a date."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    said = headers.get("retry-after") if hasattr(headers, "get") else None
    if not said:
        return None
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def error_reason(error: BaseException) -> str:
    """What a request failed with, as a short clause: clients say "Connection error" of whatever it was."""
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return masked(f"{status}: {' '.join(error_text(error).split())}"[:SHOWN])
    if classify(error)[0] == "timeout":
        return "no answer within the time that a request has (generation_config.timeout)"
    last, seen = error, [error]
    while (cause := last.__cause__ or last.__context__) is not None and cause not in seen:
        seen.append(cause)
        last = cause
    if isinstance(last, OSError) and last.strerror:
        return masked(last.strerror[:SHOWN].lower() if "SSL" not in last.strerror else last.strerror[:SHOWN])
    return masked(" ".join(str(last).split())[:SHOWN]) or type(last).__name__


def error_text(error: Any) -> str:
    """The server's own words, or the error's."""
    if any(kind.__name__ == "APIConnectionError" for kind in type(error).__mro__):
        return error_reason(error)
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    return str(said or error or type(error).__name__)
