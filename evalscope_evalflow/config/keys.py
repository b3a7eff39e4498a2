"""API keys: given as they are or as a `${VAR}` reference, read when used, never written down.

A reference stays a plain string, so that it survives being saved; a key itself becomes a SecretStr, which
pydantic masks wherever it is printed or dumped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, SecretStr

from evalscope_evalflow.config.api_url import public_url
from evalscope_evalflow.config.secret_names import MASK, NO_KEY, is_secret_name
from evalscope_evalflow.errors import ConfigError, Problem

_SHORT = 8  # characters; a key of fewer may be an ordinary word
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def protect(value: Any) -> str | SecretStr | None:
    """Keep a `${VAR}` reference as it is; wrap anything else, so that it is never shown.

    Raises:
        ConfigError: the mask of a key stands where the key should be.
    """
    if value is None or isinstance(value, SecretStr):
        text = value.get_secret_value() if value is not None else None
    else:
        text = str(value).strip()  # a line break from a file would end up in an HTTP header
    if text is None or text in ("", NO_KEY):
        return None
    if text == MASK:
        raise ConfigError(
            Problem(
                "api_key",
                f"{MASK} is the mask of a key, not a key: this file was written by a program that hides keys",
                'Put a reference there, such as "${API_KEY}", and the key in that environment variable.',
            )
        )
    return text if _REFERENCE.fullmatch(text) else SecretStr(text)


Key = Annotated[
    str | SecretStr | None,  # None: `EMPTY`, or nothing, stood there
    BeforeValidator(protect),
    PlainSerializer(lambda value: public(value), return_type=str | None, when_used="json"),
]


def public(value: str | SecretStr | None) -> str | None:
    """What may be shown and saved: a reference as it is, a key as its mask."""
    return MASK if isinstance(value, SecretStr) else value


def reveal(
    value: str | SecretStr | None, where: str = "api_key", environ: Mapping[str, str] | None = None
) -> str | None:
    """The key itself, with `${VAR}` read from the environment now.

    Raises:
        ConfigError: the variable that a reference names is not set.
    """
    if value is None:
        return None
    text = (value.get_secret_value() if isinstance(value, SecretStr) else value).strip()
    environ = os.environ if environ is None else environ
    match = _REFERENCE.fullmatch(text)
    if match is None:
        return text
    if not environ.get(match[1]):
        raise ConfigError(
            Problem(
                where,
                f"the environment variable {match[1]} is not set",
                f"export {match[1]}=… and run again.",
            )
        )
    return environ[match[1]].strip()


def mask_text(text: str, known: Iterable[str]) -> str:
    """A text that is shown, without keys. A short key is masked where it is a word: it may be a part of any other."""
    for key in filter(None, known):
        text = text.replace(key, MASK) if len(key) >= _SHORT else re.sub(rf"(?<!\w){re.escape(key)}(?!\w)", MASK, text)
    return text


def to_environment(tree: Any, found: dict[str, str], prefix: str = "EVALFLOW_KEY_") -> Any:
    """Replace every key in a tree of dicts and lists by a reference to an environment variable.

    Args:
        tree: settings; keys in it are SecretStr values, or strings under a secret's name.
        found: is filled with the variables that the reader of the result must have.
        prefix: how the variables' names start.

    Returns:
        A copy that may be written to a file or a pipe.
    """

    def convert(node: Any, name: str = "") -> Any:
        if isinstance(node, Mapping):
            return {key: convert(value, str(key)) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            return [convert(value, name) for value in node]
        if isinstance(node, SecretStr) or (isinstance(node, str) and is_secret_name(name)):
            key = reveal(protect(node), name)
            if key is None:
                return None
            variable = next((var for var, value in found.items() if value == key), f"{prefix}{len(found)}")
            found[variable] = key
            return f"${{{variable}}}"
        return node

    return convert(tree)


def redact(tree: Any) -> Any:
    """A copy of settings in which keys are masked and references stay: for records and messages.

    URLs of APIs lose user, password and query, any of which may be a key.
    """

    def convert(node: Any, secret: bool = False) -> Any:
        if isinstance(node, Mapping):
            return {
                key: public_url(value)
                if str(key).endswith("_url") and isinstance(value, str)
                else convert(value, is_secret_name(str(key)))
                for key, value in node.items()
            }
        if isinstance(node, (list, tuple)):
            return [convert(value, secret) for value in node]
        if isinstance(node, SecretStr) or (secret and isinstance(node, str)):
            return MASK if node == MASK else public(protect(node))
        return node

    return convert(tree)
