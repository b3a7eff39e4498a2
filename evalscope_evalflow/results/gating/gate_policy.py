"""A gate's policy: which datasets decide, and how far each may fall."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evalscope_evalflow.config.task_file import read_mapping
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.errors import ConfigError, Problem, nearest
from evalscope_evalflow.results.comparison.compare_runs import MIN_SHARE


class Tier(str, Enum):
    """How much a dataset has to say."""

    CRITICAL = "critical"
    SUPPORTING = "supporting"
    ADVISORY = "advisory"
    NOT_NAMED = "not in the policy"

    @property
    def decides(self) -> bool:
        """Whether its cells can block, or leave the gate undecided."""
        return self in (Tier.CRITICAL, Tier.SUPPORTING)


class _Part(BaseModel):
    """A part of the policy; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class Allowance(_Part):
    """How far a score may fall; the stricter of the two counts."""

    max_drop: float | None = Field(None, ge=0, allow_inf_nan=False, description="in the metric's own unit")
    max_relative_drop: float | None = Field(None, ge=0, lt=1, description="as a share of the baseline's score")


class Policy(_Part):
    """What the policy's file holds."""

    critical: dict[str, Allowance] = Field(
        default_factory=dict, description="by dataset or pattern: has to be shown not to be worse by more than this"
    )
    supporting: dict[str, Allowance] = Field(
        default_factory=dict, description="by dataset or pattern: blocks if it fell for sure, and by more than this"
    )
    advisory: list[str] = Field(default_factory=list, description="datasets or patterns that decide nothing")
    min_share: float = Field(MIN_SHARE, gt=0, le=1, description="of the samples, to have a score in both runs")


@dataclass(frozen=True)
class Rule:
    """What the policy says of a dataset.

    Attributes:
        tier: how much it has to say.
        name: the policy's name or pattern for it; empty where it is not named.
        max_drop: absolute drop that is allowed; None: not limited so.
        max_relative_drop: drop that is allowed, as a share of the baseline's score; None: not limited so.
    """

    tier: Tier
    name: str = ""
    max_drop: float | None = None
    max_relative_drop: float | None = None

    @property
    def text(self) -> str:
        """What is allowed, in words."""
        parts = []
        if self.max_drop is not None:
            parts.append(f"{self.max_drop:g}")
        if self.max_relative_drop is not None:
            parts.append(f"{self.max_relative_drop:.3g} of the baseline's score")
        return " and ".join(parts)


def read_policy(path: str) -> Policy:
    """The policy in a YAML or JSON file.

    Raises:
        ConfigError: it cannot be read, a key is misspelt, a value is wrong, or it says nothing that could decide.
    """
    data = read_mapping(path)
    twice = list(_keys_given_twice(path))
    if twice:
        raise ConfigError(*twice)
    try:
        policy = Policy.model_validate(data)
    except ValidationError as error:
        raise ConfigError(*_invalid(error, path, data)) from None
    problems = list(_problems(policy, path))
    if problems:
        raise ConfigError(*problems)
    return policy


def _keys_given_twice(path: str) -> Iterator[Problem]:
    """Keys that a mapping has twice: YAML takes the last, so that a whole tier could vanish in silence."""
    import yaml

    def visit(node: yaml.Node | None) -> Iterator[Problem]:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                name = str(key.value)
                if name in seen:
                    yield Problem(
                        f"{path}: {name}", f"is there twice, again in line {key.start_mark.line + 1}", "Join them."
                    )
                seen.add(name)
                yield from visit(value)

    yield from visit(yaml.compose(user_path(path).read_bytes(), Loader=yaml.SafeLoader))


def _invalid(error: ValidationError, path: str, data: Mapping[str, Any]) -> Iterator[Problem]:
    """What pydantic found, with the nearest known key for one that is misspelt, and what to write for a number."""
    for item in error.errors(include_input=False, include_url=False, include_context=False):
        place = [str(part) for part in item["loc"]]
        where = f"{path}: {'.'.join(place)}"
        if item["type"] == "extra_forbidden":
            known = list((Policy if len(place) == 1 else Allowance).model_fields)
            yield Problem(where, "unknown key", f"{nearest(place[-1], known)} Known: {', '.join(known)}".strip())
        elif item["type"] == "model_type":
            given: Any = data[place[0]][item["loc"][1]]
            drop = f"{given}" if isinstance(given, (int, float)) and not isinstance(given, bool) else "0.02"
            yield Problem(where, "says not which drop is meant", f"Write {{max_drop: {drop}}}.")
        elif place[-1] == "max_relative_drop" and item["type"] == "less_than":
            yield Problem(
                where, "has to be less than 1: it is a share of the baseline's score", "0.05 is five percent."
            )
        else:
            yield Problem(where, item["msg"])


def _problems(policy: Policy, path: str) -> Iterator[Problem]:
    if not policy.critical and not policy.supporting:
        yield Problem(
            path, "names no dataset that could decide", "Write at least one line under `critical` or `supporting`."
        )
    seen: dict[str, str] = {}
    for tier in (Tier.CRITICAL, Tier.SUPPORTING, Tier.ADVISORY):
        for name in getattr(policy, tier.value):
            if name in seen:
                yield Problem(f"{path}: {tier.value}.{name}", f"is in {seen[name]} already", "Remove one of the two.")
            seen.setdefault(name, tier.value)
    for tier in (Tier.CRITICAL, Tier.SUPPORTING):
        for name, allowance in getattr(policy, tier.value).items():
            if allowance.max_drop is None and allowance.max_relative_drop is None:
                yield Problem(
                    f"{path}: {tier.value}.{name}",
                    "says not how far the score may fall",
                    "Set max_drop or max_relative_drop.",
                )
            elif tier is Tier.CRITICAL and 0 in (allowance.max_drop, allowance.max_relative_drop):
                yield Problem(
                    f"{path}: {tier.value}.{name}",
                    "allows no drop at all, and no number of samples can show that there is none",
                    "Allow a small one, such as 0.01.",
                )


def check_names(policy: Policy, path: str, datasets: Sequence[str]) -> None:
    """Check that everything that the policy names is there.

    Args:
        policy: the policy.
        path: its file, for messages.
        datasets: all datasets that either run has, or was to have.

    Raises:
        ConfigError: a name or pattern stands for none of them.
    """
    problems = []
    for tier in (Tier.CRITICAL, Tier.SUPPORTING, Tier.ADVISORY):
        for name in getattr(policy, tier.value):
            if name != "*" and not any(fnmatchcase(dataset, name) for dataset in datasets):
                known = f"{nearest(name, datasets)} The runs have: {', '.join(datasets)}".strip()
                problems.append(Problem(f"{path}: {tier.value}.{name}", "no run has such a dataset", known))
    if problems:
        raise ConfigError(*problems)


def rule_of(policy: Policy, dataset: str) -> Rule:
    """What the policy says of a dataset: a name counts before a pattern, a longer pattern before a shorter one."""
    found: list[tuple[bool, int, Rule]] = []
    for tier in (Tier.CRITICAL, Tier.SUPPORTING, Tier.ADVISORY):
        lines = getattr(policy, tier.value)
        for name in lines:
            if fnmatchcase(dataset, name):
                allowance = lines[name] if isinstance(lines, dict) else Allowance()
                rule = Rule(tier, name, allowance.max_drop, allowance.max_relative_drop)
                found.append((name == dataset, len(name), rule))
    return max(found, key=lambda item: item[:2])[2] if found else Rule(Tier.NOT_NAMED)
