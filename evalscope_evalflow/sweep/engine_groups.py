"""Which models of a sweep can use one engine, one after the other on the same devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evalscope_evalflow.sweep.job import Job


@dataclass(frozen=True)
class Group:
    """Models that can use one engine.

    Attributes:
        key: the same for all members, and for nobody else; empty for a model that shares its engine with none.
        swaps: whether the engine's weights are replaced between two members; else it serves all of them as it is.
    """

    key: str = ""
    swaps: bool = False

    def __bool__(self) -> bool:
        return bool(self.key)


ALONE = Group()


def members_together(jobs: Sequence[Job]) -> list[int]:
    """The numbers of jobs in their order, but the members of a group right behind the first of them."""
    first: dict[Group, int] = {}
    ranks = [first.setdefault(job.group, number) if job.group else number for number, job in enumerate(jobs)]
    return sorted(range(len(jobs)), key=lambda number: (ranks[number], number))


def release_kept_for_heirs() -> None:
    """End the engines that were kept for another model alone, where that has not used it, and wait for their end."""
    from evalscope_evalflow.serving.warm_pool import POOL

    for handle in POOL.engines():
        if not handle.deploy.keep_alive_s:
            POOL.release_one(handle)
