"""The names of settings that hold keys, and the words that stand where no key is to be seen.

Apart from `keys`, which needs pydantic: commands that only read what a run has left do without that.
"""

from __future__ import annotations

import re

MASK = "**********"  # what pydantic writes in place of a SecretStr
NO_KEY = "EMPTY"  # EvalScope's and the engines' word for "no key was given"
_SECRET_NAME = re.compile(r"(^|[_-])((api|access)[_-]?key|authorization|token|secret|password)$", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name holds a key (`api_key`, `Authorization`, `hf_token`, …)."""
    return bool(_SECRET_NAME.search(name))
