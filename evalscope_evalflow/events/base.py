"""What every event has in common: its name is its class's, and it is written as one JSON object."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Event:
    """A transition. Subclasses are frozen dataclasses whose fields JSON can hold."""

    kinds: ClassVar[dict[str, type[Event]]] = {}

    def __init_subclass__(cls) -> None:
        Event.kinds[cls.__name__] = cls

    def as_dict(self) -> dict[str, Any]:
        """The event as JSON has it: its name under `event`, and its fields."""
        return {
            "event": type(self).__name__,
            **{item.name: getattr(self, item.name) for item in dataclasses.fields(self)},
        }


def parse(data: Mapping[str, Any]) -> Event | None:
    """The event that `as_dict` has written.

    Args:
        data: its name under `event`, and its fields; fields that are not known are dropped.

    Returns:
        None where no event has that name, or a field that it needs is missing.
    """
    kind = Event.kinds.get(str(data.get("event")))
    if kind is None:
        return None
    known = {item.name for item in dataclasses.fields(kind)}
    try:
        return kind(**{name: value for name, value in data.items() if name in known})
    except TypeError:
        return None
