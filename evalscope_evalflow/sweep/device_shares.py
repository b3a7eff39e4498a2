"""Which of an executor's devices a job may be given, and is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evalscope_evalflow.devices.claims import Claim
from evalscope_evalflow.devices.nvml import split


def among(claim: Claim, free: Iterable[str]) -> list[str]:
    """The free devices that a job may be given."""
    there = set(free)
    return [name for name in claim.devices if name in there]


def named(settings: Mapping[str, Any], otherwise: list[str]) -> list[str]:
    """The devices named by settings of `deploy`, or else these."""
    named = settings.get("devices")
    return otherwise if named is None else list(split(named))


def share_of(spare: list[str], jobs: int, size: int) -> list[str]:
    """A job's share of spare devices, in multiples of what it needs."""
    groups = len(spare) // max(1, size)
    return spare[: -(-groups // jobs) * size]
