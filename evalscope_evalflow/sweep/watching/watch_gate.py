"""The gate of a watched training: each new checkpoint against a baseline, at a level that many looks do not use up.

The k-th checkpoint is tested at the level α·6/(π²k²). These levels add up to α, so the chance that a training no
worse than the baseline is ever stopped is at most α, however many checkpoints are looked at (Bonferroni with weights;
π²/6 is the sum of 1/k²).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evalscope_evalflow.config.task import safe_name
from evalscope_evalflow.config.watch_settings import WatchGate
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.results.gating.gate_policy import Policy, check_names, read_policy
from evalscope_evalflow.results.gating.gate_verdicts import GateResult, Status

FILE = "watch-gate.json"
_WHERE = "evalflow.watch.gate"


def level_of_look(number: int, level: float) -> float:
    """The level of one look.

    Args:
        number: which look it is, from 1.
        level: of all looks together.
    """
    return level * 6 / (math.pi**2 * number**2)


@dataclass(frozen=True)
class Look:
    """One checkpoint that was compared with the baseline.

    Attributes:
        model: its name.
        files: digest of its files, so that a checkpoint that was written again is looked at again.
        number: which look it was, from 1.
        level: the level of its test.
        status: what the gate said of it.
        called: whether the command was called for it, and ended well.
    """

    model: str
    files: str
    number: int
    level: float
    status: str
    called: bool = False


class GateKeeper:
    """Looks at evaluated checkpoints, and calls a command for those that are blocked. Looks are kept in work_dir."""

    def __init__(
        self,
        settings: WatchGate,
        work_dir: Path,
        models: Sequence[str],
        log: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        """
        Args:
            settings: the section's.
            work_dir: where results are.
            models: names of the task's models that are no match of a pattern.
            log: is called with a line about each look.
            warn: is called with a line that must not be missed.

        Raises:
            ConfigError: the policy cannot be read, there is no such baseline or command.
        """
        self._settings, self._work_dir, self._log, self._warn = settings, work_dir, log, warn
        problems: list[Problem] = []
        try:
            self._policy = read_policy(settings.policy) if settings.policy else _NEVER_BELOW
        except ConfigError as error:
            problems += error.problems
        problems += _problems(settings, models)
        if problems:
            raise ConfigError(*problems)
        self._is_model = settings.baseline in models
        self._looks = list(_read(work_dir / FILE))
        self._not_comparable: set[tuple[str, str]] = set()

    def stops(self, name: str, files: str) -> bool:
        """Look at a checkpoint, once, and call the command if it is blocked.

        Args:
            name: the model's name; its evaluation has ended.
            files: digest of its files.

        Returns:
            Whether the command was called and ended well.
        """
        if (name, files) in self._not_comparable:
            return False
        known = next((look for look in self._looks if (look.model, look.files) == (name, files)), None)
        if known is None:
            known = self._looked(name, files)
        if known is None or known.called or known.status != Status.BLOCKED.value:
            return False
        return self._call(known)

    def has_looked_at(self, name: str, files: str) -> bool:
        """Whether a checkpoint was looked at, and needs no further call."""
        if (name, files) in self._not_comparable:
            return True
        found = next((look for look in self._looks if (look.model, look.files) == (name, files)), None)
        return found is not None and (found.called or found.status != Status.BLOCKED.value)

    def _looked(self, name: str, files: str) -> Look | None:
        """The look at a checkpoint; None while the baseline has no scores, or where they cannot be compared."""
        number = len(self._looks) + 1
        level = level_of_look(number, self._settings.level)
        try:
            result = self._judged(name, level)
        except ConfigError as error:
            self._not_comparable.add((name, files))
            self._warn(f"gate: {name} cannot be compared with {self._settings.baseline}: {error}")
            return None
        if result is None:
            return None
        look = Look(name, files, number, level, result.status.value)
        self._keep(look)
        say = self._warn if result.status is Status.BLOCKED else self._log
        say(f"gate: {name}: {result.status.value} (look {number}, tested at a level of {level:.2g})")
        for cell in result.cells:
            if cell.rule.tier.decides:
                say(f"gate: {name}, {cell.dataset}: {cell.status.value}; {cell.reason}")
        return look

    def _judged(self, name: str, level: float) -> GateResult | None:
        from evalscope_evalflow.results.comparison.chosen_runs import choose_runs
        from evalscope_evalflow.results.comparison.compare_runs import Rules, compare, load_runs
        from evalscope_evalflow.results.gating.gate_verdicts import judge
        from evalscope_evalflow.state import record

        baseline = (
            self._work_dir / safe_name(self._settings.baseline) if self._is_model else Path(self._settings.baseline)
        )
        if self._is_model and (record.read(baseline) or {}).get("state") not in ("complete", "incomplete"):
            return None  # its turn is still to come
        policy = self._policy
        rules = Rules(policy.min_share, share_from="min_share: ")
        runs = load_runs(choose_runs([str(self._work_dir / safe_name(name))], str(baseline)), rules)
        datasets = list(dict.fromkeys(dataset for run in runs for dataset in run.datasets))
        check_names(policy, self._settings.policy or "policy", datasets)
        return judge(compare(runs, rules), policy, datasets, self._settings.policy or "policy", level)

    def _call(self, look: Look) -> bool:
        """Call the command with the checkpoint's name; whether it ended well."""
        argv = [*self._settings.command, look.model]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=self._settings.timeout_s, check=False)
        except subprocess.TimeoutExpired:
            self._warn(f"gate: {argv[0]} did not end within {self._settings.timeout_s:g} s, and was killed")
            return False
        except OSError as error:
            self._warn(f"gate: {argv[0]} could not be called: {error.strerror}")
            return False
        if done.returncode:
            self._warn(f"gate: {argv[0]} failed with exit code {done.returncode}; watching goes on")
            return False
        self._keep(Look(**{**asdict(look), "called": True}))
        self._warn(f"gate: {argv[0]} was called for {look.model}")
        return True

    def _keep(self, look: Look) -> None:
        """Write a look down, in place of an earlier entry of it."""
        self._looks = [*(item for item in self._looks if item.number != look.number), look]
        path = self._work_dir / FILE
        new = path.with_name(f".{FILE}.new")
        new.write_text(json.dumps({"looks": [asdict(item) for item in self._looks]}, indent=1) + "\n", encoding="utf-8")
        os.replace(new, path)


_NEVER_BELOW = Policy.model_validate({"supporting": {"*": {"max_drop": 0}}})


def _problems(settings: WatchGate, models: Sequence[str]) -> Iterator[Problem]:
    if settings.baseline not in models and not os.path.isdir(settings.baseline):
        known = (
            f"Models without a pattern: {', '.join(models)}." if models else "The task has no model without a pattern."
        )
        what = f"{settings.baseline!r} is neither a model of the task nor a run folder"
        yield Problem(f"{_WHERE}.baseline", what, known)
    program = settings.command[0]
    if shutil.which(os.path.expanduser(program)) is None:
        yield Problem(
            f"{_WHERE}.command", f"{program} is no program that can be called", "Give its path, and make it executable."
        )


def _read(path: Path) -> Iterator[Look]:
    """The looks that a file holds.

    Raises:
        ConfigError: it is damaged: without the number of looks, good trainings would be stopped.
    """
    if not path.exists():
        return
    try:
        for item in json.loads(path.read_text(encoding="utf-8"))["looks"]:
            yield Look(**item)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"{path} cannot be read: {error}"
        raise ConfigError(
            Problem(_WHERE, what, "It counts the looks that were made; remove it to begin anew.")
        ) from None
