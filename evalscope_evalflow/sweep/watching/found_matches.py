"""The entries of `models` in a task that is watched: those with patterns, their matches now, and all others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalscope_evalflow.config import ModelConfig, patterns
from evalscope_evalflow.config.task import Task, read_section
from evalscope_evalflow.errors import ConfigError, Problem

_WHERE = "evalflow.models"


@dataclass(frozen=True)
class Match:
    """A checkpoint that matches a pattern.

    Attributes:
        name: the model's, which stays the same whatever else matches later.
        path: the checkpoint, or the adapter.
        series: the folder that one training writes into, or else the pattern.
        step: of the training; None: its name has no number.
        entry: its entry of `models`.
    """

    name: str
    path: str
    series: str
    step: int | None
    entry: Mapping[str, Any]

    @property
    def model(self) -> ModelConfig:
        """Its model."""
        return ModelConfig.parse(self.entry, _WHERE)


class WatchedTask:
    """A task as its file has it, of which a new `Task` is made for each round."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        """
        Args:
            data: the task, as a YAML file holds it.

        Raises:
            ConfigError: it has no pattern, or says something that does not go with watching.
        """
        self._data = {name: value for name, value in data.items() if name not in ("evalflow", "eval_config")}
        section = read_section(data.get("evalflow", data.get("eval_config")))
        self._section = {str(key).replace("-", "_"): value for key, value in section.items()}
        entries = [_as_mapping(item) for item in self._section.get("models") or ()]
        self._patterned = [item for item in entries if _pattern_key(item)]
        self._fixed = [item for item in entries if not _pattern_key(item)]
        problems = list(self._problems())
        if problems:
            raise ConfigError(*problems)

    def _problems(self) -> Iterator[Problem]:
        if not self._patterned:
            todo = "Name what training will write: models: [{path: '/ckpts/step-*'}]; `evalflow run` is for the others."
            yield Problem(_WHERE, "none has a pattern, so there is nothing to watch", todo)
        for item in self._patterned:
            if patterns.is_pattern(item.get("path")) and patterns.is_pattern(item.get("adapter")):
                what = "both `path` and `adapter` are patterns, and which adapter is for which checkpoint is not said"
                yield Problem(_WHERE, what, "Name the base; its adapters may be a pattern.")
        if self._section.get("reuse") in (False, "false", "no", "off"):
            what = "false would ask everything again at each start"
            yield Problem("evalflow.reuse", what, "Leave it out; another work_dir begins anew.")
        if self._section.get("mode") in ("judge", "eval"):
            what = "judge asks no model, and `watch` is for new ones"
            yield Problem("evalflow.mode", what, "Leave it out, or use `evalflow run`.")

    @property
    def fixed(self) -> list[str]:
        """Names of the models without a pattern, such as a base."""
        return [ModelConfig.parse(item, _WHERE).name for item in self._fixed]

    def matches(self) -> list[Match]:
        """What matches now, each series in natural order; a name that two have is the first's."""
        found: dict[str, Match] = {name: Match(name, "", "", None, {}) for name in self.fixed}
        taken = set(found)
        for item in self._patterned:
            key = _pattern_key(item)
            assert key is not None
            pattern = str(item[key])
            given = patterns.given_name(item, pattern)
            for path in patterns.matches_now(pattern):
                name = patterns.steady_name(pattern, path, given)
                entry = {**item, "name": name, key: path, "pattern": pattern}
                series = os.path.dirname(path) if patterns.varies_at_its_end(pattern) else pattern
                found.setdefault(name, Match(name, path, series, patterns.step_of_match(pattern, path), entry))
        return [match for name, match in found.items() if name not in taken]

    def task(self, chosen: Sequence[Match], *, fixed: bool = True) -> Task:
        """The task with these matches.

        Args:
            chosen: the matches.
            fixed: whether the models without a pattern are in it.

        Raises:
            ConfigError: it cannot work.
        """
        models = [*(self._fixed if fixed else ()), *(match.entry for match in chosen)]
        return Task.parse({**self._data, "evalflow": {**self._section, "models": models}})


def _as_mapping(item: Any) -> dict[str, Any]:
    if isinstance(item, ModelConfig):
        return item.to_section()
    return dict(item) if isinstance(item, Mapping) else {"path": str(item)}


def _pattern_key(item: Mapping[str, Any]) -> str | None:
    return next((key for key in ("adapter", "path") if patterns.is_pattern(item.get(key))), None)
