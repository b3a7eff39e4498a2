"""What the URLs of a task's APIs hold beside an address: it goes to the worker in a variable, and into no file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from evalscope_evalflow.config.api_url import split_api_url
from evalscope_evalflow.errors import ConfigError, Problem

_URL_FIELDS = ("api_url", "base_url")


class UrlParts:
    """Users, passwords and queries of URLs.

    Attributes:
        bases: the URLs without them.
        secrets: what of them may be a key, and so is masked in what is shown.
    """

    def __init__(self, *urls: str | None) -> None:
        """
        Args:
            urls: URLs beside those of the task.

        Raises:
            ConfigError: two of them have one base, and not the same of the rest.
        """
        self.bases: list[str] = []
        self.secrets: list[str] = []
        self._parts: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, dict[str, Any]] = {}
        for url in urls:
            if url:
                self._base_of(url)

    def taken_from(self, tree: Any, name: str = "") -> Any:
        """A copy of a task in which every URL of an API is its base.

        Raises:
            ConfigError: two of them have one base, and not the same of the rest: clients tell them apart by that.
        """
        if isinstance(tree, Mapping):
            return {key: self.taken_from(value, str(key)) for key, value in tree.items()}
        if isinstance(tree, (list, tuple)):
            return [self.taken_from(value, name) for value in tree]
        return self._base_of(tree) if isinstance(tree, str) and name in _URL_FIELDS else tree

    def as_json(self) -> str:
        """What the worker's clients add to their requests, by base."""
        return json.dumps(self._parts)

    def _base_of(self, url: str) -> str:
        found = split_api_url(url)
        parts = {"query": found.query, "authorization": found.authorization}
        if self._seen.setdefault(found.base, parts) != parts:
            what = f"two APIs at {found.base} differ in user, password or query, and would be given each other's"
            raise ConfigError(Problem("api_url", what, "Use the same URL for both, and give their keys as api_key."))
        self.bases.append(found.base)
        if found.is_plain:
            return url
        self._parts[found.base] = parts
        self.secrets += filter(None, [found.secret, *found.query.values()])
        return found.base
