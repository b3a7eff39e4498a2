"""Which models of a sweep can use one engine, one after the other on the same devices, and why the others cannot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.engines.base import Engine
from evalscope_evalflow.engines.checkpoints import weight_family
from evalscope_evalflow.engines.checkpoints.weight_family import Family

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


@dataclass(frozen=True)
class Sharing:
    """Which models share engines.

    Attributes:
        groups: the group of each model that shares an engine, by its name.
        lines: what `evalflow check` says of it.
    """

    groups: Mapping[str, Group]
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    """A model whose engine can replace its weights.

    Attributes:
        name: its name.
        settings: hashes of all that the engine is started with, but for the model, by name.
        family: of its checkpoint.
    """

    name: str
    settings: Mapping[str, str]
    family: Family

    @property
    def key(self) -> str:
        """Equal for models that can use one engine; empty where it can share none."""
        if not self.family:
            return ""
        return hashlib.sha256(json.dumps([self.family.key, self.settings], sort_keys=True).encode()).hexdigest()[:16]


def sharing(models: Sequence[tuple[ModelConfig, DeployConfig]]) -> Sharing:
    """Find which of the models that are to be served can share engines.

    Args:
        models: each with how it is served.
    """
    local = [(resolve_engine(model, deploy), model, deploy) for model, deploy in models]
    local = [item for item in local if item[0].local and item[2].swap != "never"]
    if len(local) < 2:
        return Sharing({})
    refusals = {_kind(engine, deploy): _why_no_swap(engine, deploy) for engine, _, deploy in local}
    able = [_candidate(*item) for item in local if not refusals[_kind(item[0], item[2])]]
    members: dict[str, list[_Candidate]] = {}
    for candidate in able:
        if candidate.key:
            members.setdefault(candidate.key, []).append(candidate)
    groups = {key: found for key, found in members.items() if len(found) > 1}
    lines = [f"{why}: every model has an engine of its own" for why in dict.fromkeys(refusals.values()) if why.strip()]
    found = {item.name: Group(key, swaps=True) for key, group in groups.items() for item in group}
    return Sharing(found, (*lines, *_lines(able, list(groups.values()))))


def _kind(engine: Engine, deploy: DeployConfig) -> tuple[str, str | None]:
    return engine.name, deploy.env


def _why_no_swap(engine: Engine, deploy: DeployConfig) -> str:
    """Why no weights of an engine of this kind are replaced, with its name; a space where that goes without saying."""
    if type(engine).can_swap is Engine.can_swap:
        return " "
    why = engine.can_swap(Environment.find(deploy.env))
    return f"{engine.name} {why}" if why else ""


def _candidate(engine: Engine, model: ModelConfig, deploy: DeployConfig) -> _Candidate:
    from evalscope_evalflow.serving.engine_identity import CHECKPOINT, FAMILY, NAME, PATH, identity

    family = weight_family.family(engine, model, deploy)
    its_own = {NAME, PATH, CHECKPOINT, FAMILY}
    settings = {name: value for name, value in identity(engine, model, deploy).items() if name not in its_own}
    return _Candidate(model.name, settings, family)


def _lines(able: Sequence[_Candidate], groups: Sequence[Sequence[_Candidate]]) -> list[str]:
    lines = []
    for first, *others in groups:
        verb = "takes" if len(others) == 1 else "take"
        lines.append(f"{_names(others)} {verb} {first.name}'s engine: their weights alone differ")
    grouped = {item.name for group in groups for item in group}
    alone = [item for item in able if item.name not in grouped]
    largest = max(groups, key=len, default=None)
    model = largest[0] if largest else next((item for item in alone if item.family), None)
    reasons: dict[str, list[_Candidate]] = {}
    for item in alone:
        if item is not model:
            reasons.setdefault(_why_alone(item, model), []).append(item)
    for why, items in reasons.items():
        of = f" take {model.name}'s engine" if model is not None and largest is None else ""
        lines.append(f"{_names(items)} cannot{of or (' share an engine' if model is None else '')}: {why}")
    return lines


def _why_alone(item: _Candidate, model: _Candidate | None) -> str:
    if model is None or not item.family:
        return item.family.why_not
    settings = [name for name in sorted({*item.settings, *model.settings}) if _differ(item, model, name)]
    words = [f"{name} differs" for name in settings[:3]] + weight_family.differences(model.family, item.family)
    return ", ".join(words)


def _differ(one: _Candidate, other: _Candidate, name: str) -> bool:
    return one.settings.get(name) != other.settings.get(name)


def _names(items: Sequence[_Candidate]) -> str:
    """Names in a line: of many the first two and the last."""
    names = [item.name for item in items]
    if len(names) > 4:
        return f"{', '.join(names[:2])} … {names[-1]}"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


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
