"""What is known of each checkpoint that matches: whether it is whole, what it waits for, and what has been said of it.

It knows no engine and no clock of its own: `look` is told the time, so that tests can simulate it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from evalscope_evalflow.config.patterns import natural_order
from evalscope_evalflow.config.watch_settings import WatchConfig
from evalscope_evalflow.sweep.watching.found_matches import Match
from evalscope_evalflow.sweep.watching.match_files import MatchFiles, files_of
from evalscope_evalflow.sweep.watching.wholeness import is_marked

# A checkpoint that was last written so many times `quiet_s` ago counts as quiet at the first look.
LONG_QUIET = 10
_REST_S = 60.0  # and at least so long ago
RELOOK_S = 60.0  # between two looks at a checkpoint that was evaluated, if that is more than `poll_s`


class State(Enum):
    """How far a checkpoint is. The value is how it is shown."""

    WRITING = "being written"
    WHOLE = "whole"
    DONE = "evaluated"
    FAILED = "failed"
    BROKEN = "broken"


@dataclass
class Known:
    """A checkpoint that matches.

    Attributes:
        match: which.
        files: its files at the last look.
        first_s: when it was first seen, in seconds of a steady clock.
        since_s: since when the files are as they are, as far as was seen.
        state: how far it is.
        why: why it is not whole, or what failed.
        reported: whether it has been said that it is unfinished for long.
        next_look_s: when an evaluated one is looked at again.
        changed: whether its files changed since its evaluation was begun.
    """

    match: Match
    files: MatchFiles
    first_s: float
    since_s: float
    state: State = State.WRITING
    why: str = ""
    reported: bool = False
    next_look_s: float = 0.0
    changed: bool = False


@dataclass
class _Reference:
    """The files of a checkpoint that was whole, by which others of its series are measured."""

    name: str
    patterns: frozenset[str]
    order: list[tuple[int, str]] = field(default_factory=list)


class MatchBook:
    """The checkpoints that match, and which of them are to be evaluated next. Any thread may use it."""

    def __init__(
        self,
        settings: WatchConfig,
        why_not_whole: Callable[[Match, MatchFiles, tuple[str, frozenset[str]] | None], str],
        say: Callable[[str], None],
        recall: Callable[[Match], bool],
        changed: Callable[[Match], bool],
    ) -> None:
        """
        Args:
            settings: how checkpoints are taken.
            why_not_whole: why a match's files are no whole checkpoint, given those of the one before it.
            say: is called with a line that a person should see; each is said once.
            recall: whether a checkpoint that is seen for the first time was evaluated before, as it is now.
            changed: whether an evaluated checkpoint's files are others than those that were evaluated; then its answers
                do not count any more.
        """
        self._settings, self._why_not_whole, self._say = settings, why_not_whole, say
        self._recall, self._changed = recall, changed
        self._known: dict[str, Known] = {}
        self._references: dict[str, list[_Reference]] = {}
        self._lock = threading.RLock()
        self._beyond = 0  # the largest step seen that is not wanted
        self.last_change_s: float | None = None

    def look(self, matches: Sequence[Match], now_s: float, wall_ns: int) -> None:
        """Look at the files of what matches now.

        Args:
            matches: it.
            now_s: the time, by a steady clock.
            wall_ns: the time, by the clock that files have, in nanoseconds since the epoch.
        """
        with self._lock:
            if self.last_change_s is None:
                self.last_change_s = now_s
            wanted = [match for match in matches if self._is_wanted(match)]
            self._forget({match.name for match in wanted}, now_s)
            for match in wanted:
                self._look_at(match, now_s, wall_ns)

    def next_round(self) -> list[Match]:
        """The checkpoints that are whole and not evaluated, in the order of the settings, as many as a round takes."""
        with self._lock:
            ready = [known for known in self._known.values() if known.state is State.WHOLE]
            ready.sort(key=lambda known: _order_of(known.match), reverse=self._settings.order == "newest")
            chosen = ready[: self._settings.round_size]
            for known in chosen:
                known.changed = False
            return [known.match for known in chosen]

    def next_look_s(self, now_s: float) -> float:
        """In how many seconds the next look is due: sooner than `poll_s`, where a checkpoint would be quiet by then."""
        with self._lock:
            due = [
                known.since_s + self._settings.quiet_s - now_s
                for known in self._known.values()
                if known.state is State.WRITING and not known.why
            ]
        return max(0.0, min([self._settings.poll_s, *(seconds for seconds in due if seconds > 0)]))

    def settle(self, name: str, state: State, why: str, now_s: float) -> None:
        """Write down what became of a checkpoint.

        Args:
            name: its name.
            state: DONE or FAILED; WRITING: it has to be whole again.
            why: what failed.
            now_s: the time.
        """
        with self._lock:
            self.last_change_s = now_s
            known = self._known.get(name)
            if known is None:  # deleted meanwhile
                return
            if state is State.FAILED and known.changed:  # which may be why it failed
                return
            if state is State.DONE and self._changed(known.match):  # after it was compared for the last time
                state = State.WRITING
            known.state, known.why = state, why
            known.next_look_s = now_s + self._settings.poll_s
            if state is State.WRITING:
                known.since_s = now_s

    def waits_for(self) -> list[str]:
        """What unfinished checkpoints wait for, in words, a line each."""
        with self._lock:
            return [
                f"{known.match.name}: {known.why or 'it has to stay unchanged'}"
                for known in self._known.values()
                if known.state is State.WRITING
            ]

    def states(self) -> dict[str, State]:
        """The state of each checkpoint, by its name."""
        with self._lock:
            return {name: known.state for name, known in self._known.items()}

    def soon_whole(self) -> bool:
        """Whether a checkpoint lacks nothing but some time without a change."""
        with self._lock:
            return any(known.state is State.WRITING and not known.why for known in self._known.values())

    def has_reached(self, step: int) -> bool:
        """Whether every checkpoint up to a step is settled, and that step or a later one has been seen."""
        with self._lock:
            pending = [known for known in self._known.values() if known.state in (State.WRITING, State.WHOLE)]
            reached = max((known.match.step or 0 for known in self._known.values()), default=0)
            return not pending and max(reached, self._beyond) >= step

    def _is_wanted(self, match: Match) -> bool:
        every, until = self._settings.every, self._settings.until
        if until is not None and match.step is not None and match.step > until:
            self._beyond = max(self._beyond, match.step)
            return False
        return every is None or (match.step is not None and match.step % every == 0)

    def _forget(self, there: set[str], now_s: float) -> None:
        for name in [name for name in self._known if name not in there]:
            known = self._known.pop(name)
            self.last_change_s = now_s
            if known.state in (State.WRITING, State.WHOLE):
                self._say(f"{name}: it was deleted before its turn ({known.match.path})")

    def _look_at(self, match: Match, now_s: float, wall_ns: int) -> None:
        known = self._known.get(match.name)
        if known is not None and known.state is State.DONE and now_s < known.next_look_s:
            return
        files = files_of(match.path)
        if files is None:
            return
        if known is None:
            long_ago = wall_ns - files.newest_ns >= max(LONG_QUIET * self._settings.quiet_s, _REST_S) * 1e9
            since_s = now_s - self._settings.quiet_s if long_ago else now_s
            known = self._known[match.name] = Known(match, files, now_s, since_s)
            self.last_change_s = now_s
            if self._recall(match):
                known.state, known.next_look_s = State.DONE, now_s + self._settings.poll_s
                self._add_reference(known)
        elif files != known.files:
            self._note_change(known, files, now_s)
        elif known.state is State.DONE:
            known.next_look_s = now_s + max(self._settings.poll_s, RELOOK_S)
        if known.state is State.WRITING:
            self._judge(known, now_s)

    def _note_change(self, known: Known, files: MatchFiles, now_s: float) -> None:
        known.files, known.changed = files, True
        if known.state is State.DONE:
            known.next_look_s = now_s + self._settings.poll_s
            if not self._changed(known.match):  # nothing that an engine reads
                return
        known.state, known.why, known.since_s = State.WRITING, "", now_s
        self.last_change_s = now_s

    def _judge(self, known: Known, now_s: float) -> None:
        """Find whether an unfinished checkpoint is whole now."""
        settings = self._settings
        marked = is_marked(known.files, settings.marker)
        known.why = self._why_not_whole(known.match, known.files, self._reference(known.match))
        if known.why:
            broken = marked or now_s - known.since_s >= settings.late_s
            if broken and not known.reported:
                known.reported = True
                how = "it is marked as whole, but" if marked else f"unfinished for {now_s - known.since_s:.0f} s:"
                self._say(f"{known.match.name}: {how} {known.why}; it waits for that, and the others go on")
            return
        if not marked and now_s - known.since_s < settings.quiet_s:
            return
        if files_of(known.match.path) != known.files:  # written while its content was looked at
            known.since_s = now_s
            return
        known.state, known.reported = State.WHOLE, False
        self.last_change_s = now_s
        self._add_reference(known)

    def is_as_it_was(self, match: Match) -> bool:
        """Whether a checkpoint is whole, and its files are as they were when that was found."""
        with self._lock:
            known = self._known.get(match.name)
            return known is not None and known.state is State.WHOLE and files_of(match.path) == known.files

    def _add_reference(self, known: Known) -> None:
        order = natural_order(known.match.path)
        references = self._references.setdefault(known.match.series, [])
        references[:] = [item for item in references if item.name != known.match.name]
        references.append(_Reference(known.match.name, known.files.patterns, order))

    def _reference(self, match: Match) -> tuple[str, frozenset[str]] | None:
        """The whole checkpoint right before this one, or else the one right behind it."""
        order = natural_order(match.path)
        others = [item for item in self._references.get(match.series, []) if item.name != match.name]
        before = [item for item in others if item.order < order]
        found = max(before, key=lambda item: item.order) if before else min(others, key=lambda i: i.order, default=None)
        return None if found is None else (found.name, found.patterns)

    def unfinished(self) -> Iterator[tuple[str, str]]:
        """Names of the checkpoints that were reported as unfinished or broken, each with why."""
        with self._lock:
            yield from [
                (name, known.why)
                for name, known in self._known.items()
                if known.reported and known.state is State.WRITING
            ]


def _order_of(match: Match) -> tuple[int, list[tuple[int, str]]]:
    return match.step or 0, natural_order(match.path)
