"""Where a model is served, and how to ask it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.config.keys import NO_KEY
from evalscope_evalflow.serving import http

if TYPE_CHECKING:
    from openai import OpenAI


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible API that serves a model.

    Attributes:
        api_url: base URL, ending in `/v1` for local engines.
        model: the name to request.
        api_key: the key to send; "EMPTY" where the API asks for none.
    """

    api_url: str
    model: str
    api_key: str = field(default=NO_KEY, repr=False)

    def client(self, **options: Any) -> OpenAI:
        """A client of the openai package; `options` go to its constructor."""
        import httpx
        from openai import OpenAI

        if http.is_loopback(self.api_url):
            options.setdefault("http_client", httpx.Client(trust_env=False))  # no proxy between us
        return OpenAI(base_url=self.api_url, api_key=self.api_key, **options)
