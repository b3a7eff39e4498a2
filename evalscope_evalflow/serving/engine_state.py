"""The states of an engine, and which of them follows which."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from enum import Enum


class EngineState(Enum):
    """Where an engine is in its life."""

    NEW = "new"  # nothing was started
    STANDBY = "standby"  # started ahead of its use, without weights on a device
    STARTING = "starting"  # it loads; or it was kept, and is asked whether it still answers
    READY = "ready"  # it can be asked
    SWAPPING = "swapping"  # its weights are being replaced by another model's
    KEPT = "kept"  # nobody uses it; the warm pool has it
    RELEASED = "released"  # all of it was ended
    FAILED = "failed"  # it died, hung or could not be started; what is left of it has to be released


_State = EngineState
TRANSITIONS: Mapping[EngineState, frozenset[EngineState]] = {
    _State.NEW: frozenset({_State.STANDBY, _State.STARTING, _State.RELEASED, _State.FAILED}),
    _State.STANDBY: frozenset({_State.STARTING, _State.RELEASED, _State.FAILED}),
    _State.STARTING: frozenset({_State.SWAPPING, _State.READY, _State.RELEASED, _State.FAILED}),
    _State.READY: frozenset({_State.KEPT, _State.RELEASED, _State.FAILED}),
    _State.SWAPPING: frozenset({_State.READY, _State.RELEASED, _State.FAILED}),
    _State.KEPT: frozenset({_State.STARTING, _State.RELEASED, _State.FAILED}),
    _State.RELEASED: frozenset({_State.STARTING}),  # the handle of an engine may be used again
    _State.FAILED: frozenset({_State.RELEASED}),
}


class IllegalTransition(RuntimeError):
    """An engine was asked for something that its state does not allow: a fault of the program."""

    def __init__(self, old: EngineState, new: EngineState) -> None:
        allowed = ", ".join(sorted(state.value for state in TRANSITIONS[old]))
        super().__init__(f"an engine that is {old.value} cannot become {new.value}, only one of: {allowed}")


class StateMachine:
    """The state of one engine. Any thread may change it.

    Attributes:
        lock: may be held around several steps that have to see the same state.
        failures: how often it has failed.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.failures = 0
        self._state = EngineState.NEW

    @property
    def state(self) -> EngineState:
        """The present state."""
        return self._state

    def to(self, new: EngineState) -> None:
        """Change the state.

        Raises:
            IllegalTransition: the table does not allow it; nothing was changed.
        """
        with self.lock:
            if new not in TRANSITIONS[self._state]:
                raise IllegalTransition(self._state, new)
            self.failures += new is EngineState.FAILED
            self._state = new

    def fail(self) -> None:
        """It does not serve any more, and has to be released."""
        with self.lock:
            if self.allows(EngineState.FAILED):
                self.to(EngineState.FAILED)

    def allows(self, new: EngineState) -> bool:
        """Whether the table allows that state now."""
        return new in TRANSITIONS[self._state]
