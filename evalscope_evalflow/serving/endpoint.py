"""Where a model is served, and how to ask it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.config.api_url import split_api_url
from evalscope_evalflow.config.loopback import is_loopback
from evalscope_evalflow.config.secret_names import NO_KEY

if TYPE_CHECKING:
    from openai import OpenAI


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible API that serves a model.

    Attributes:
        api_url: base URL, ending in `/v1` for local engines; one of an API that runs elsewhere may have a query.
        model: the name to request.
        api_key: the key to send; "EMPTY" where the API asks for none.
    """

    api_url: str
    model: str
    api_key: str = field(default=NO_KEY, repr=False)

    def client(self, **options: Any) -> OpenAI:
        """A client of the openai package; `options` go to its constructor."""
        import openai

        url = split_api_url(self.api_url)
        if is_loopback(url.base):  # no proxy between us, whatever the variables say; of them, only certificates count
            direct = openai.DefaultHttpxClient(trust_env=False, verify=ssl.create_default_context())
            options.setdefault("http_client", direct)
        if url.query:
            options.setdefault("default_query", url.query)
        if url.authorization:
            options.setdefault("default_headers", {"Authorization": url.authorization})
        return openai.OpenAI(base_url=url.base, api_key=self.api_key, **options)
