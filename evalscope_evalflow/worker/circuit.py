"""Whether an API that runs elsewhere can be asked, for all who ask it.

A circuit is up, down, busy or given up. Where a request fails for a reason of the API's, or nothing has been answered
for a while, one probe, a request of one token, tells the API's fault from the request's. While the API is down, that
probe alone asks again, with growing pauses, and everybody waits for it.

    up ─ a request fails, and so does the probe ─────────────→ down ─ the probe is answered ─→ up
    up ─ requests go on failing, though the probe is answered → down ─ one request at a time is tried ─→ up
    up ─ nothing is answered, nor is the probe ──────────────→ down (hangs)
    up ─ Retry-After ────────────────────────────────────────→ busy ─ the time is over ─→ up
    down ─ for too long ─→ given up        busy ─ for more than ten minutes in all ─→ given up

One thread for each circuit (`_watch`) makes every decision; the others wait for what it decides.

This file has over 400 lines, as it is one state machine under one lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from evalscope_evalflow.events.api_events import (
    ApiBack,
    ApiBusy,
    ApiDown,
    ApiFailing,
    ApiGivenUp,
    ApiSilent,
)
from evalscope_evalflow.events.base import Event
from evalscope_evalflow.worker.api_probe import Api, Fault, GivenUp, Probe, Pulse
from evalscope_evalflow.worker.request_slots import RequestSlots

LONGEST_WAIT_S = 600.0  # that a server may ask for, from one answer to the next
ROUNDS = 3  # times that requests fail in a row, though the probe is answered, before the API counts as down
DISTINCT = 2  # requests of these: one alone may be at fault itself


@dataclass(frozen=True)
class Pace:
    """How soon things are done, in seconds.

    Attributes:
        give_up_s: for which the API may be down.
        first_pause_s: before the probe asks again; each pause is twice the last one.
        longest_pause_s: of these.
        suspect_s: for which a probe waits when a request has just failed.
        probe_s: for which it waits otherwise, at least: it may stand in a queue behind requests.
        silent_s: without an answer after which that is said; then after twice as long, and so on.
        shown_s: that a server asks for, from which on it is said, and the probe asks first.
        look_s: between two looks at the clock.
    """

    give_up_s: float
    first_pause_s: float = 1.0
    longest_pause_s: float = 15.0
    suspect_s: float = 5.0
    probe_s: float = 30.0
    silent_s: float = 30.0
    shown_s: float = 10.0
    look_s: float = 0.5


class _State(Enum):
    UP = "up"
    DOWN = "down"
    BUSY = "busy"
    GIVEN_UP = "given up"


class Turn:
    """A request that is under way.

    Attributes:
        over: is set when it has ended, or is not waited for any more.
    """

    def __init__(self, request: object, trial: bool) -> None:
        self.request, self.trial = request, trial
        self.began = time.monotonic()
        self.over = threading.Event()


class Circuit:
    """One API. Every request enters, and then succeeds or fails.

    Attributes:
        api: it.
        slots: limit the requests at once, together with those of other workers.
    """

    def __init__(
        self,
        api: Api,
        probe: Callable[[float], Pulse],
        emit: Callable[[Event], None],
        pace: Pace,
        slots: RequestSlots | None = None,
    ) -> None:
        """
        Args:
            api: which.
            probe: asks it for one token, and waits for so many seconds; never raises.
            emit: reports an event.
            pace: how soon things are done.
            slots: a request holds one of them while it is sent; None: it needs none.
        """
        self.slots = slots
        self.api, self._ask_probe, self._emit, self._pace = api, probe, emit, pace
        self._changed = threading.Condition()
        self._watching = False
        self._state = _State.UP
        self._turns: set[Turn] = set()
        self._gone: tuple[str, str] | None = None  # kind and reason of the end
        self._probe: Probe | None = None
        # since the last answer
        self._sign = 0.0
        self._longest = 0.0  # time that an answer took, ever
        self._next_silence = pace.silent_s
        self._suspicion = ""  # why the API is suspected; the probe will tell
        self._suspicion_of_silence = False
        self._verdicts = 0  # suspicions that were decided
        self._failing: set[int] = set()  # requests that failed, though the probe was answered
        self._failures = self._rounds = 0
        self._round_at = 0.0
        self._said_failing = float("-inf")
        # while it is down or busy
        self._reason = ""
        self._since = self._excused_s = 0.0
        self._hangs = self._blind = self._permit = False
        self._pause_s = self._probe_at = 0.0
        self._until = self._busy_s = 0.0
        self._busy_since: float | None = None  # that was said

    # for those who ask

    def is_open(self) -> bool:
        """Whether the API can be asked.

        Raises:
            GivenUp: it is not asked any more.
        """
        with self._changed:
            return self._is_open()

    def wait(self) -> None:
        """Wait until the API can be asked.

        Raises:
            GivenUp: it is not asked any more.
        """
        with self._changed:
            while not self._is_open():
                self._changed.wait()

    def try_enter(self, request: object) -> Turn | None:
        """Begin to ask.

        Args:
            request: identifies the request, however often it is sent.

        Returns:
            None where the API cannot be asked now.

        Raises:
            GivenUp: it is not asked any more.
        """
        with self._changed:
            if not self._is_open():
                return None
            turn = Turn(request, self._state is _State.DOWN)
            self._permit = False
            self._turns.add(turn)
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, daemon=True, name="evalflow-circuit").start()
            self._changed.notify_all()
            return turn

    def end(self) -> GivenUp | None:
        """Why it is not asked any more; None while it is."""
        if self._gone is None:
            return None
        kind, reason = self._gone
        return GivenUp(kind, True, f"{self.api.url} was given up: {reason}")

    def succeeded(self, turn: Turn) -> None:
        """It was answered."""
        with self._changed:
            self._leave(turn)
            self._longest = max(self._longest, time.monotonic() - turn.began)
            self._sign_of_life(turn)

    def abandon(self, turn: Turn) -> None:
        """Nobody waits for its answer any more."""
        with self._changed:
            self._leave(turn)

    def failed(self, turn: Turn, fault: Fault, reason: str) -> Fault:
        """It failed; wait until it is known whose fault that is.

        Args:
            turn: the request.
            fault: whose fault it looks like.
            reason: what happened, as a clause.

        Returns:
            `API` where the API is down; `REQUEST` where others are answered.

        Raises:
            GivenUp: it is not asked any more.
        """
        with self._changed:
            self._leave(turn)
            if fault is Fault.REQUEST:
                self._sign_of_life(turn)
                return fault
            if self._state is _State.UP:
                if fault is not Fault.SILENCE:
                    self._failing.add(id(turn.request))
                    self._failures += 1
                if fault is Fault.LIMIT:
                    self._count_round(turn.began, reason)
                else:
                    self._suspect(fault, reason)
            elif turn.trial:  # the probe was answered: it may be the request's own fault
                self._reason = reason
                self._schedule_probe()
                return Fault.REQUEST
            if self._gone:
                raise self._ended()
            return Fault.REQUEST if self._state is _State.UP else Fault.API

    def busy(self, turn: Turn, seconds: float, reason: str) -> None:
        """The API asks for time.

        Args:
            turn: the request that it did not answer.
            seconds: how long it asks to wait.
            reason: its words.

        Raises:
            GivenUp: it asks for too much.
        """
        with self._changed:
            self._leave(turn)
            self._wait_for(seconds, reason)
            if self._gone:
                raise self._ended()

    def refuse(self, kind: str, reason: str) -> None:
        """It refuses every request: ask it no more.

        Args:
            kind: of the failure, in a word.
            reason: why, as a clause.
        """
        with self._changed:
            self._give_up(kind, reason, 0.0)

    # under the lock

    def _ended(self) -> GivenUp:
        end = self.end()
        assert end is not None
        return end

    def _is_open(self) -> bool:
        if self._gone:
            raise self._ended()
        return self._state is _State.UP or (self._state is _State.DOWN and self._permit)

    def _leave(self, turn: Turn) -> None:
        self._turns.discard(turn)
        turn.over.set()

    def _sign_of_life(self, turn: Turn) -> None:
        self._sign, self._next_silence = time.monotonic(), self._remarkable_s()
        self._failing.clear()
        self._failures = self._rounds = 0
        self._busy_s = 0.0
        # A server that takes no new connections may still answer what it has: that alone does not mean that it is back.
        if self._state is _State.DOWN and (turn.trial or self._hangs):
            self._back()

    def _suspect(self, fault: Fault, reason: str) -> None:
        """Wait for what the probe says."""
        if not self._suspicion or fault is Fault.API:
            self._suspicion, self._suspicion_of_silence = reason or fault.value, fault is Fault.SILENCE
        before = self._verdicts
        self._changed.notify_all()
        while self._verdicts == before and self._state is _State.UP:
            self._changed.wait()

    def _count_round(self, began: float, reason: str) -> None:
        """Requests fail, although the API works, or seems to.

        Args:
            began: when the last of them was sent; those that are sent together count once.
            reason: what it failed with.
        """
        now = time.monotonic()
        if began >= self._round_at:
            self._rounds, self._round_at = self._rounds + 1, now
        if self._rounds >= ROUNDS and len(self._failing) >= DISTINCT:
            self._down(f"{reason}, {self._failures} times in a row", blind=True)
        elif now - self._said_failing >= 2 * self._pace.silent_s:
            self._said_failing = now
            # Others may have been answered meanwhile, which ends the count: the one that this is about failed as well.
            self._tell(ApiFailing, reason=reason, requests=max(1, self._failures))

    def _watch(self) -> None:
        with self._changed:
            while not self._gone:
                self._step(time.monotonic())
                idle = self._state is _State.UP and not (self._turns or self._suspicion or self._probe)
                self._changed.wait(None if idle else self._pace.look_s)

    def _step(self, now: float) -> None:
        late = self._state is _State.DOWN and now - self._since - self._excused_s >= self._pace.give_up_s
        if late and not any(turn.trial for turn in self._turns):
            self._give_up("api_down", self._reason, now - self._since)
        elif self._probe is not None:
            self._look_at_probe(self._probe, now)
        elif self._state is _State.UP and self._suspicion:
            self._start_probe(self._patience() if self._suspicion_of_silence else self._pace.suspect_s)
        elif self._state is _State.UP and self._turns and self._silent_s(now) >= self._next_silence:
            self._start_probe(self._patience())
        elif self._state is _State.DOWN and now >= self._probe_at and not self._trying():
            self._start_probe(self._patience() if self._hangs else self._pace.longest_pause_s)
        elif self._state is _State.BUSY and now >= self._until:
            if self._busy_since is None:
                self._back()
            else:
                self._start_probe(self._pace.probe_s)

    def _trying(self) -> bool:
        """Whether a request is tried, or may be."""
        return self._permit or any(turn.trial for turn in self._turns)

    def _silent_s(self, now: float) -> float:
        return now - max(self._sign, min((turn.began for turn in self._turns), default=now))

    def _remarkable_s(self) -> float:
        """How long a silence is worth a word: longer than any answer took, within reason."""
        return min(max(self._pace.silent_s, self._longest), 10 * self._pace.silent_s)

    def _patience(self) -> float:
        """Of a probe that may stand in a queue: as long as answers have taken."""
        return min(max(self._pace.probe_s, 1.5 * self._longest), 10 * self._pace.probe_s)

    def _start_probe(self, patience_s: float) -> None:
        def done() -> None:
            with self._changed:
                self._changed.notify_all()

        self._probe = Probe(self._ask_probe, patience_s, done)

    def _look_at_probe(self, probe: Probe, now: float) -> None:
        silent = self._state is _State.UP and not self._suspicion
        if self._state is _State.UP and self._suspicion and not self._suspicion_of_silence:
            probe.deadline = min(probe.deadline, now + self._pace.suspect_s)
        if silent and not self._turns:  # the last request was answered meanwhile
            self._probe = None
            return
        if silent and not probe.told and now - probe.began >= self._pace.suspect_s:
            probe.told = True
            self._say_silent(now, None)
        pulse = probe.result(now)
        if pulse is None:
            return
        self._probe = None
        if pulse.retry_after_s is not None:
            self._wait_for(pulse.retry_after_s, pulse.said)
        elif self._state is _State.UP:
            self._decide(pulse, probe, now)
        elif not pulse.alive and self._state is _State.BUSY:
            self._down(pulse.said)
        elif not pulse.alive:
            self._reason = self._reason if self._hangs else pulse.said
            self._schedule_probe()
        elif self._blind and self._state is _State.DOWN:
            self._permit = True
            self._changed.notify_all()
        else:
            self._back()

    def _decide(self, pulse: Pulse, probe: Probe, now: float) -> None:
        """Whether an API that was thought to be up is."""
        suspicion, self._suspicion = self._suspicion, ""
        if suspicion and not pulse.alive:
            self._down(suspicion, hangs=self._suspicion_of_silence)
        elif suspicion and not self._suspicion_of_silence:
            self._count_round(probe.began, suspicion)
        elif not suspicion and pulse.alive:
            if not probe.told and self._silent_s(now) >= self._next_silence:
                self._say_silent(now, True)
            self._next_silence *= 2
        elif not suspicion and self._silent_s(now) >= self._next_silence:
            silent_s, number = self._silent_s(now), len(self._turns)
            self._down(f"no answer for {silent_s:.0f} s to {_requests(number)}; {pulse.said}", hangs=True)
        self._verdicts += 1
        self._changed.notify_all()

    def _say_silent(self, now: float, answers_probe: bool | None) -> None:
        self._tell(
            ApiSilent, seconds=round(self._silent_s(now)), requests=len(self._turns), answers_probe=answers_probe
        )

    def _down(self, reason: str, *, hangs: bool = False, blind: bool = False) -> None:
        self._state, self._reason, self._hangs, self._blind, self._permit = _State.DOWN, reason, hangs, blind, False
        self._since, self._excused_s, self._pause_s = time.monotonic(), 0.0, 0.0
        self._busy_since = None
        self._schedule_probe()
        self._tell(ApiDown, reason=reason, hangs=hangs, give_up_s=self._pace.give_up_s)
        self._changed.notify_all()

    def _schedule_probe(self) -> None:
        self._pause_s = min(self._pace.longest_pause_s, max(self._pace.first_pause_s, 2 * self._pause_s))
        self._probe_at = time.monotonic() + self._pause_s

    def _wait_for(self, seconds: float, reason: str) -> None:
        """Leave the API alone for as long as it asks for."""
        if self._gone:
            return
        now = time.monotonic()
        self._probe = None
        more = now + seconds - max(now, self._until)
        if more > 0:
            self._until = now + seconds
            self._busy_s += more
        if self._busy_s > LONGEST_WAIT_S:
            asks = f"it asks to wait {seconds:.0f} s" if seconds > LONGEST_WAIT_S else "it asks to wait again and again"
            self._give_up("rate_limited", f"{asks} ({reason})", self._busy_s - max(more, 0.0))
            return
        if self._state is _State.DOWN:
            self._excused_s += max(more, 0.0)
            self._probe_at, self._permit = self._until, False
            return
        self._state = _State.BUSY
        self._suspicion = ""
        self._verdicts += 1
        if seconds >= self._pace.shown_s and more > 0:
            self._busy_since = self._busy_since or now
            self._tell(ApiBusy, reason=reason, wait_s=round(seconds, 1))
        self._changed.notify_all()

    def _back(self) -> None:
        now = time.monotonic()
        since = self._since if self._state is _State.DOWN else self._busy_since
        self._state, self._busy_since, self._permit = _State.UP, None, False
        self._sign, self._next_silence = now, self._remarkable_s()
        self._failing.clear()
        self._failures = self._rounds = 0
        if since is not None:
            self._tell(ApiBack, seconds=round(now - since, 1))
        self._changed.notify_all()

    def _give_up(self, kind: str, reason: str, seconds: float) -> None:
        if self._gone:
            return
        self._state, self._gone = _State.GIVEN_UP, (kind, reason)
        self._tell(ApiGivenUp, reason=reason, seconds=round(seconds, 1))
        for turn in self._turns:
            turn.over.set()
        self._changed.notify_all()

    def _tell(self, kind: Callable[..., Event], **facts: Any) -> None:
        self._emit(kind(api=self.api.role, url=self.api.url, model=self.api.model, **facts))


def _requests(number: int) -> str:
    return "1 request" if number == 1 else f"{number} requests"
