"""Text that a terminal shows and does not obey: answers, names and servers' errors may hold anything.

Escape sequences move the cursor, hide lines, set titles, and make some terminals answer with text of their own;
overriding marks of bidirectional text make letters stand in another order than they have.
"""

from __future__ import annotations

import re

_FIRST_PICTURE = 0x2400  # Unicode's pictures of control characters, in their order
_LAST_CONTROL, _DELETE, _PICTURE_OF_DELETE, _UNKNOWN = 0x1F, 0x7F, "\u2421", "\ufffd"
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_OBEYED_IN_LOGS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_SEQUENCE = re.compile("\x1b\\[[0-?]*[ -/]*[@-~]")
_COLOUR = re.compile("\x1b\\[[0-9;:]*m")


def printable(text: str) -> str:
    """A text in which nothing is left that a terminal would obey, but tabs and line ends.

    A control character becomes its picture, such as `␛` for ESC; what has none becomes U+FFFD. CRLF becomes LF.
    """
    return _OBEYED.sub(_picture, text.replace("\r\n", "\n")) if _OBEYED.search(text) else text


def printable_log(text: str, *, colours: bool) -> str:
    """The same for output of programs, which colour it, and redraw a line after a carriage return.

    Args:
        text: what was printed. Where it begins or ends within a sequence, the sequence is shown as text.
        colours: keep colours; without, they are left out. Other well-formed sequences are left out in any case.
    """

    def kept(found: re.Match[str]) -> str:
        return found[0] if colours and _COLOUR.fullmatch(found[0]) else ""

    parts, place = [], 0
    for found in _SEQUENCE.finditer(text):
        parts += [_OBEYED_IN_LOGS.sub(_picture, text[place : found.start()]), kept(found)]
        place = found.end()
    return "".join([*parts, _OBEYED_IN_LOGS.sub(_picture, text[place:])])


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code <= _LAST_CONTROL:
        return chr(_FIRST_PICTURE + code)
    return _PICTURE_OF_DELETE if code == _DELETE else _UNKNOWN
