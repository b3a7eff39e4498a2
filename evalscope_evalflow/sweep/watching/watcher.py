"""Keeps a task going while training writes checkpoints: looks, evaluates what is whole in rounds, and exports."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from filelock import Timeout

from evalscope_evalflow.config.file_locks import locked
from evalscope_evalflow.config.patterns import natural_order
from evalscope_evalflow.config.section import FlowConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.config.watch_settings import WatchConfig
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import RESUME, ConfigError, EvalFlowError, ExitCode, Problem, Stopped
from evalscope_evalflow.results.outcome import FlowResult, ModelResult
from evalscope_evalflow.run.checkpoint_changes import CheckpointChanged, changed_since, digest_of, void
from evalscope_evalflow.run.dead_runs import clean_up_before
from evalscope_evalflow.run.model_run import run_model
from evalscope_evalflow.run.resume import check_saved, remaining
from evalscope_evalflow.serving.warm_pool import release_kept
from evalscope_evalflow.state import cells
from evalscope_evalflow.sweep.adapter_groups import with_bases
from evalscope_evalflow.sweep.preparation import Prepared, prepare
from evalscope_evalflow.sweep.runner import run_prepared
from evalscope_evalflow.sweep.watching.found_matches import Match, WatchedTask
from evalscope_evalflow.sweep.watching.match_book import MatchBook, State
from evalscope_evalflow.sweep.watching.match_files import MatchFiles
from evalscope_evalflow.sweep.watching.round_exports import RoundExports, check_task
from evalscope_evalflow.sweep.watching.watch_gate import GateKeeper
from evalscope_evalflow.sweep.watching.wholeness import why_not_whole

LOCK = ".watch.lock"
_VIEW = "watch"
_LEAST_PAUSE_S = 0.05


@dataclass(frozen=True)
class WatchResult:
    """What came of watching.

    Attributes:
        flow: the results of every model that was evaluated, or found evaluated.
        blocked: whether the gate has had training stopped.
    """

    flow: FlowResult
    blocked: bool = False

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the command."""
        return ExitCode.BLOCKED if self.blocked else self.flow.exit_code


class _GateStops(Exception):
    """The gate has had training stopped: the round ends in order."""


class Watcher:
    """Watches for one task, in one process."""

    def __init__(self, data: Mapping[str, Any], reporter: Reporter, *, once: bool = False, **changes: Any) -> None:
        """
        Args:
            data: the task, as a YAML file holds it.
            reporter: reports to the user.
            once: whether to end when nothing more is whole, for cron.
            changes: settings of `watch` in place of the section's.

        Raises:
            ConfigError: it cannot work; nothing was started.
        """
        self._watched = WatchedTask(data)
        self._reporter, self._once = reporter, once
        self._said: set[str] = set()
        self._task = check_task(self._watched, reporter.log)
        self._flow: FlowConfig = self._task.flow
        given = self._flow.watch.model_dump(exclude_unset=True) if self._flow.watch else {}
        self.settings = settings = WatchConfig.parse({**given, **changes}, "evalflow.watch")
        self._exports = RoundExports(self._task, reporter)
        self._gate = (
            GateKeeper(settings.gate, self._task.work_dir, self._watched.fixed, reporter.log, reporter.warn)
            if settings.gate is not None
            else None
        )
        self.book = MatchBook(settings, self._why_not_whole, self._warn_once, self._recall, self._changed)
        self._results: dict[str, ModelResult] = {}
        self._matches: dict[str, Match] = {}
        self._digests: dict[str, str] = {}  # of the files that results are of
        self._to_gate: list[str] = []
        self._fixed_done = not self._watched.fixed
        self._checked_once = False
        self._gate_waits = self._is_alone = False

    def run(self) -> WatchResult:
        """Watch until the settings say that it ends.

        Returns:
            The results.

        Raises:
            ConfigError: another process watches for this folder, or nothing of the first round can be evaluated.
            Stopped: by `evalflow stop --all`.
            KeyboardInterrupt: everything was ended in order.
        """
        clean_up_before(self._reporter.warn)
        self._task.work_dir.mkdir(parents=True, exist_ok=True)
        path = self._task.work_dir / LOCK
        try:
            with locked(path, 0):
                return self._watch()
        except Timeout:
            what = f"{self._task.work_dir} is watched for by another process"
            raise ConfigError(Problem("work_dir", what, "Wait for it, end it, or choose another folder.")) from None
        finally:
            self._reporter.end(_VIEW)
            release_kept()

    def _watch(self) -> WatchResult:
        wake = threading.Event()
        blocked = False
        try:
            while True:
                self._look()
                self._run_gate()
                chosen = self.book.next_round()
                if chosen or not self._fixed_done:
                    self._reporter.end(_VIEW)
                    self._round(chosen)
                    continue
                why = self._why_end()
                if why:
                    self._reporter.end(_VIEW)
                    self._reporter.log(f"watch: {why}")
                    break
                self._show_waiting()
                wake.wait(self.book.next_look_s(time.monotonic()))
        except _GateStops:
            blocked = True
        return WatchResult(self._result(), blocked)

    # --- looking ---

    def _look(self) -> None:
        matches = self._watched.matches()
        self._matches.update({match.name: match for match in matches})
        self.book.look(matches, time.monotonic(), time.time_ns())

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """A block in which a thread looks on, so that what is quiet meanwhile has its turn right after it."""
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(max(_LEAST_PAUSE_S, self.book.next_look_s(time.monotonic()))):
                try:
                    self._look()
                except (EvalFlowError, OSError) as error:  # the round goes on, and the next look may do
                    self._warn_once(f"watch: {error}")

        thread = threading.Thread(target=follow, name="evalflow-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _why_not_whole(self, match: Match, files: MatchFiles, before: tuple[str, frozenset[str]] | None) -> str:
        try:
            model = match.model
            return why_not_whole(model, self._flow.deploy_for(model), files, self.settings.marker, before)
        except ConfigError as error:
            return str(error)
        except OSError as error:  # it is deleted, or written, just now
            return f"{error.filename} cannot be read: {error.strerror}"

    def _recall(self, match: Match) -> bool:
        """Whether a checkpoint was evaluated by an earlier process, as it is now."""
        try:
            task = self._alone(match)
            model = task.models[0]
            if not cells.read(task.folder(model)) or self._changed(match):
                return False
            if list(check_saved(task, model)) or remaining(task, model).phases:
                return False
            self._results[match.name] = run_model(task, model, Reporter(quiet=True))
        except EvalFlowError:  # its turn will say what it is
            return False
        self._digests[match.name] = digest_of(model)
        self._to_gate.append(match.name)
        self._gate_waits = True
        return True

    def _changed(self, match: Match) -> bool:
        """Whether a checkpoint's files are others than those that were evaluated; then its answers are archived."""
        task = self._alone(match)
        model = task.models[0]
        changes = changed_since(task, model)
        if not changes:
            return False
        why = f"its files changed after it was evaluated: {', '.join(changes[:3])}"
        try:
            archive = void(task, model, why)
        except Timeout:
            return True  # it is evaluated just now, and compared when that ends
        self._results.pop(match.name, None)
        self._reporter.warn(f"{match.name}: {why}; its answers are in {archive}, and it is evaluated again when whole")
        self._exports.write(self._result())
        return True

    def _why_end(self) -> str:
        """Why watching ends now, in words; empty if it goes on."""
        settings, now_s = self.settings, time.monotonic()
        if settings.until is not None and self.book.has_reached(settings.until):
            return f"step {settings.until} is reached"
        if self._once and not self.book.soon_whole():
            return "nothing more is whole"
        idle_s = now_s - (self.book.last_change_s or now_s)
        if settings.idle_timeout_s is not None and idle_s >= settings.idle_timeout_s:
            return f"nothing has changed for {idle_s:.0f} s"
        return ""

    def _show_waiting(self) -> None:
        """Say what it waits for: on a terminal all the time, elsewhere when that changes."""
        waits = self.book.waits_for()
        more = f" (and {len(waits) - 1} more)" if len(waits) > 1 else ""
        text = f"waits for {waits[0]}{more}" if waits else "waits for new checkpoints"
        done = sum(state is State.DONE for state in self.book.states().values())
        self._reporter.begin(_VIEW, f"{done} checkpoints evaluated; {text}")
        if not self._reporter.is_live and text not in self._said:
            self._said.add(text)
            self._reporter.log(f"watch: {text}")

    def _warn_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._reporter.warn(text)

    # --- evaluating ---

    def _round(self, chosen: Sequence[Match]) -> None:
        prepared = self._prepared(chosen)
        self._fixed_done = True
        if prepared is None:
            return
        for note in prepared.notes:
            self._warn_once(note)
        now_s = time.monotonic()
        for name in prepared.skipped:
            self.book.settle(name, State.WRITING, "", now_s)
        self._is_alone = len(prepared.task.models) == 1
        try:
            with self._looking():
                result = run_prepared(prepared, self._reporter, self._finished)
        except ConfigError as error:  # such as a folder that another run uses
            self._reporter.warn(str(error))
            for match in chosen:
                self._fail(match.name, ModelResult(match.model, self._task.folder(match.model), error=error))
            return
        errors = [item.error for item in result.models]
        if any(isinstance(error, Stopped) and error.everything for error in errors):
            raise Stopped.all(f"stopped by `evalflow stop`; {RESUME}")

    def _prepared(self, chosen: Sequence[Match]) -> Prepared | None:
        """The round's task, checked, without the models that cannot be evaluated; None where none can.

        Raises:
            ConfigError: a model without a pattern cannot be evaluated, or nothing in the first round can.
        """
        fixed, first = not self._fixed_done, not self._checked_once
        try:
            prepared = self._check(chosen, fixed=fixed)
        except ConfigError as error:
            if fixed:
                self._check([], fixed=True)
            fine = [match for match in chosen if self._is_fine(match, last=error if len(chosen) == 1 else None)]
            if not fine and not fixed:
                if first:
                    raise
                return None
            prepared = self._check(fine, fixed=fixed)
        self._checked_once = self._checked_once or prepared is not None
        return prepared

    def _check(self, chosen: Sequence[Match], *, fixed: bool) -> Prepared | None:
        """Check the task of these matches; None where none of them is as it was when it was found whole.

        Raises:
            ConfigError: it cannot work.
        """
        digests = {match.name: digest_of(self._alone(match).models[0]) for match in chosen}
        as_they_were = [match for match in chosen if self.book.is_as_it_was(match)]  # of others the next look tells
        if not as_they_were and not fixed:
            return None
        self._digests.update(digests)
        task = replace(self._watched.task(as_they_were, fixed=fixed), whole=digests)
        return prepare(task, self._reporter.log)

    def _is_fine(self, match: Match, last: ConfigError | None) -> bool:
        """Whether a match alone can be evaluated; what is wrong with it is said."""
        try:
            if last is not None:
                raise last
            self._check([match], fixed=False)
        except ConfigError as error:
            self._reporter.warn(f"{match.name} cannot be evaluated: {error}")
            self._fail(match.name, ModelResult(match.model, self._task.folder(match.model), error=error))
            return False
        return True

    def _alone(self, match: Match) -> Task:
        """The task with one match alone, as preparation would have it.

        Raises:
            ConfigError: its settings cannot work.
        """
        return with_bases(self._watched.task([match], fixed=False))

    def _fail(self, name: str, item: ModelResult) -> None:
        self._results[name] = item
        self.book.settle(name, State.FAILED, str(item.error), time.monotonic())

    def _finished(self, item: ModelResult) -> None:
        """A model's evaluation has ended."""
        name, error = item.model.name, item.error
        if error is not None and self._is_alone:  # of several, the live view says it
            self._reporter.warn(f"{name}: {error}")
        if isinstance(error, CheckpointChanged):
            self._results.pop(name, None)
            self.book.settle(name, State.WRITING, "", time.monotonic())
        elif error is not None:
            self._fail(name, item)
        else:
            self._results[name] = item
            self.book.settle(name, State.DONE, "", time.monotonic())
            if name in self._matches:
                self._to_gate.append(name)
        self._gate_waits = True
        self._exports.write(self._result())
        self._run_gate()

    # --- results ---

    def _run_gate(self) -> None:
        """Look at what was evaluated since the last time.

        Raises:
            _GateStops: training was stopped.
        """
        if self._gate is None or not self._gate_waits:
            return
        self._gate_waits = False
        left: list[str] = []
        for name in dict.fromkeys(self._to_gate):
            if name not in self._results:  # it was written again
                continue
            if self._gate.stops(name, self._digests.get(name, "")):
                raise _GateStops
            if not self._gate.has_looked_at(name, self._digests.get(name, "")):
                left.append(name)
        self._to_gate = left

    def _result(self) -> FlowResult:
        """The results of all models so far: those without a pattern first, then each series in its order."""

        def place(name: str) -> tuple[int, str, list[tuple[int, str]]]:
            match = self._matches.get(name)
            return (0, "", []) if match is None else (1, match.series, natural_order(match.path))

        names = sorted(self._results, key=place)
        models = [item for name in names if (item := self._results.get(name)) is not None]
        task = replace(self._task, models=tuple(item.model for item in models))
        return FlowResult(task, models, dict(self.book.unfinished()))


def watch(data: Mapping[str, Any], reporter: Reporter, *, once: bool = False, **changes: Any) -> WatchResult:
    """Keep a task going while training writes checkpoints.

    Args:
        data: the task, as a YAML file holds it; at least one of its models is a pattern.
        reporter: reports to the user.
        once: evaluate what is whole now, and end.
        changes: settings of `watch` in place of the section's.

    Returns:
        The results.

    Raises:
        ConfigError: it cannot work; nothing was started.
        Stopped: by `evalflow stop --all`.
    """
    return Watcher(data, reporter, once=once, **changes).run()
