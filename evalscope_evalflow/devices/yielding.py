"""Devices that look busy, but whose holder gives them up as soon as another engine of this process needs them.

Kept engines are such holders. They live above this package, so they say here which devices they hold.
"""

from __future__ import annotations

from collections.abc import Callable

Holder = Callable[[], frozenset[str]]

_holders: list[Holder] = []


def add_holder(holder: Holder) -> None:
    """Ask this holder from now on.

    Args:
        holder: returns names and UUIDs of the devices that it would give up.
    """
    _holders.append(holder)


def yielding_devices() -> frozenset[str]:
    """Names and UUIDs of the devices that an engine which needs them will find free."""
    return frozenset().union(*(holder() for holder in _holders))
