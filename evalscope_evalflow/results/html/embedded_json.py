"""JSON that may stand in a `script` element of an HTML page, whatever texts are in it."""

from __future__ import annotations

import json
import math
import re
from typing import Any

# `<` and `>` end a script or open a comment; `&` is an entity in XHTML; U+2028 and U+2029 end a line in old scripts; a
# lone surrogate, as broken text has, is in no encoding. They are in strings alone, where JSON may have escapes.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff\x7f-\x9f\ufeff]")


def embedded_json(value: Any) -> str:
    """A value as JSON without any character that means something to HTML.

    Args:
        value: mappings with text keys, lists, texts, numbers, booleans and None. NaN and infinities become null.
    """
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _finite(value: Any) -> Any:
    """The value, with None for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
