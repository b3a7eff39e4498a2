"""An API that runs elsewhere: nothing to start, nothing to stop."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from evalscope_evalflow.config import REMOTE, DeployConfig, ModelConfig
from evalscope_evalflow.config.api_url import public_url
from evalscope_evalflow.engines.base import Engine
from evalscope_evalflow.errors import Problem


def is_url(text: str) -> bool:
    """Whether it is an HTTP URL with a host."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


class Remote(Engine):
    """Any OpenAI-compatible API; it is checked, used, and left alone."""

    name = REMOTE
    local = False
    default_max_num_seqs = 8  # EvalScope's own default for an API: no more without being asked

    def check(self, model: ModelConfig, deploy: DeployConfig) -> Iterable[Problem]:
        where = f"model {model.name}"
        if not model.api_url:
            yield Problem(where, "engine remote needs the API's URL", "Set api_url (--remote_api_url).")
        else:
            if not is_url(model.api_url):
                yield Problem(
                    where, f"{public_url(model.api_url)} is no URL", "It looks like https://api.example.com/v1."
                )
        if model.path:
            yield Problem(where, "engine remote takes no path", "Remove it, or choose a local engine.")
