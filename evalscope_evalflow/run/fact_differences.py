"""What has changed since saved answers were made, and which of that the user has accepted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evalscope_evalflow.config.secret_names import MASK
from evalscope_evalflow.run.fact_values import HUB, UNKNOWN, is_read
from evalscope_evalflow.state import keyed_hashes
from evalscope_evalflow.state.file_facts import same_file

OTHERS = "*"  # in a mapping of facts: UNKNOWN, where names that are not in it cannot be told
_PREFIX = "deploy."
_SHOWN = 60  # characters of a value


@dataclass(frozen=True)
class Difference:
    """One setting that was another when the answers were made.

    Attributes:
        name: what `reuse: {accept: […]}` calls it, such as `extra_args` or `generation_config.temperature`.
        text: in words, such as "limit was 4 and is 8".
    """

    name: str
    text: str

    @property
    def to_accept(self) -> str:
        """The name to write into `accept`: of a whole setting, but of one key of `generation_config`."""
        return self.name if self.name.startswith("generation_config.") else self.name.partition(".")[0]

    def accepted_by(self, names: Iterable[str]) -> bool:
        """Whether one of these names covers it: `generation_config` covers all of its settings."""
        plain = (name.removeprefix(_PREFIX) for name in names)
        return any(self.name == name or self.name.startswith(f"{name}.") for name in plain)


@dataclass(frozen=True)
class Compared:
    """The facts of saved answers against those of today.

    Attributes:
        differences: what has changed.
        unknown: names of what cannot be told, as it was not recorded, or with another key.
    """

    differences: list[Difference]
    unknown: list[str]


def compare(before: Mapping[str, Any], now: Mapping[str, Any], not_recorded: Iterable[str] = ()) -> Compared:
    """What has changed.

    Args:
        before: facts of saved answers, as `fingerprints.predictions` makes them.
        now: facts of today's task.
        not_recorded: names of facts that the version of EvalFlow which saved the answers did not know.
    """
    missing = set(not_recorded)
    differences, unknown = [], []
    for name in sorted({*before, *now}):
        shown = name.removeprefix(_PREFIX)
        old, new = before.get(name), now.get(name)
        if name in missing and name not in before:
            if new is not None:
                unknown.append(shown)
            continue
        if old == new:
            continue
        for part, was, is_now in _parts(shown, old, new):
            verdict = _same(was, is_now)
            if verdict is None:
                unknown.append(part)
            elif not verdict:
                differences.append(Difference(part, _words(part, was, is_now)))
    return Compared(differences, sorted(set(unknown)))


def _parts(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """The values to compare: those of a mapping one by one."""
    if name in ("checkpoint", "adapter"):
        yield from _file_parts(name, old or {}, new or {})
    elif isinstance(old, dict) or isinstance(new, dict):
        if not isinstance(old or {}, dict) or not isinstance(new or {}, dict):
            yield name, old, new
            return
        old, new = old or {}, new or {}
        untold = UNKNOWN if UNKNOWN in (old.get(OTHERS), new.get(OTHERS)) else None
        for key in sorted({*old, *new} - {OTHERS}):
            yield f"{name}.{key}", old.get(key, untold), new.get(key, untold)
    else:
        yield name, old, new


def _file_parts(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    if (HUB in old) != (HUB in new):  # one of them is not here to be looked at
        yield name, UNKNOWN if old and new else old, new
        return
    for key in sorted({*old, *new}):
        if (key == HUB or is_read(key)) and not same_file(old.get(key), new.get(key)):
            yield f"{name}.{key}", old.get(key), new.get(key)


def _same(old: Any, new: Any) -> bool | None:
    """Whether two values are the same; None where that cannot be told."""
    if old == new:
        return True
    if UNKNOWN in (old, new) or MASK in (old, new):
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        parts = {_same(old.get(key), new.get(key)) for key in {*old, *new}}
        return False if False in parts else None
    if keyed_hashes.is_keyed(old) and keyed_hashes.is_keyed(new) and not keyed_hashes.comparable(old, new):
        return None
    return False


def _words(name: str, old: Any, new: Any) -> str:
    if keyed_hashes.is_keyed(old) and keyed_hashes.is_keyed(new):
        return f"{name} is another secret"
    return f"{name} was {_short(old)} and is {_short(new)}"


def _short(value: Any) -> str:
    if keyed_hashes.is_keyed(value):
        return "a secret"
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}…"
