"""URLs of APIs in any form: with or without `/chat/completions`, with user, password and query."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class ApiUrl:
    """An API's URL in its parts.

    Attributes:
        base: what clients take as base URL: without user, password and query, any of which may be a key.
        query: parameters that every request has to have, such as `api-version`.
        authorization: the `Authorization` header that user and password make; empty where there are none.
    """

    base: str
    query: dict[str, str] = field(default_factory=dict, repr=False)
    authorization: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)  # the password, or the user where there is none

    @property
    def is_plain(self) -> bool:
        """Whether the base says all of it."""
        return not self.query and not self.authorization


def split_api_url(url: str) -> ApiUrl:
    """A URL in its parts; one that is none stays as it is."""
    try:
        parts = urlsplit(url)
        user, secret = parts.username, parts.password
    except ValueError:
        return ApiUrl(url)
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    base = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=path, query="", fragment="").geturl()
    named = f"{unquote(user or '')}:{unquote(secret or '')}"
    basic = f"Basic {base64.b64encode(named.encode()).decode()}" if user or secret else ""
    return ApiUrl(base, dict(parse_qsl(parts.query, keep_blank_values=True)), basic, unquote(secret or user or ""))


def split_authorization(url: str) -> tuple[str, str]:
    """A URL without user and password, and the `Authorization` header that they make; its query stays."""
    found = split_api_url(url)
    if not found.authorization:
        return url, ""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), found.authorization


def api_base(url: str) -> str:
    """The URL that paths are added to by `endpoint_of`: without `/chat/completions` and slashes at the end."""
    head, question, query = url.partition("?")
    return head.rstrip("/").removesuffix("/chat/completions").rstrip("/") + question + query


def endpoint_of(base: str, path: str) -> str:
    """The URL of a path, such as `/models`, below a base URL; its query stays."""
    head, question, query = base.partition("?")
    return head.rstrip("/") + path + question + query


def public_url(url: str) -> str:
    """A URL without user, password and query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition("?")[0].rpartition("@")[2]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
