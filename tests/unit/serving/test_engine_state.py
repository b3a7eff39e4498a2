"""The states of an engine: which follows which, and that all else is an error."""

import pytest

from evalscope_evalflow.serving.engine_state import TRANSITIONS, EngineState, IllegalTransition, StateMachine

# How each state is reached from the first one.
PATHS = {
    EngineState.NEW: (),
    EngineState.STANDBY: (EngineState.STANDBY,),
    EngineState.STARTING: (EngineState.STANDBY, EngineState.STARTING),
    EngineState.READY: (EngineState.STARTING, EngineState.READY),
    EngineState.SWAPPING: (EngineState.STARTING, EngineState.SWAPPING),
    EngineState.KEPT: (EngineState.STARTING, EngineState.READY, EngineState.KEPT),
    EngineState.RELEASED: (EngineState.RELEASED,),
    EngineState.FAILED: (EngineState.STARTING, EngineState.FAILED),
}


def machine_in(state):
    machine = StateMachine()
    for step in PATHS[state]:
        machine.to(step)
    assert machine.state is state
    return machine


@pytest.mark.parametrize("old", EngineState)
@pytest.mark.parametrize("new", EngineState)
def test_what_the_table_allows_happens_and_nothing_else(old, new):
    machine = machine_in(old)
    assert machine.allows(new) == (new in TRANSITIONS[old])
    if new in TRANSITIONS[old]:
        machine.to(new)
        assert machine.state is new
        return
    with pytest.raises(IllegalTransition, match=f"is {old.value} cannot become {new.value}"):
        machine.to(new)
    assert machine.state is old


def test_the_whole_life_of_an_engine():
    machine = StateMachine()
    for state in (
        EngineState.STANDBY, EngineState.STARTING, EngineState.READY, EngineState.KEPT, EngineState.STARTING,
        EngineState.SWAPPING, EngineState.READY,
        EngineState.KEPT, EngineState.STARTING, EngineState.READY, EngineState.KEPT, EngineState.RELEASED,
    ):  # fmt: skip
        machine.to(state)
    assert machine.failures == 0


@pytest.mark.parametrize("state", [state for state in EngineState if state.value not in ("released", "failed")])
def test_an_engine_may_fail_at_any_time_and_is_released_then(state):
    machine = machine_in(state)
    machine.to(EngineState.FAILED)
    machine.to(EngineState.RELEASED)
    assert machine.failures == 1


def test_what_has_failed_is_released_before_it_is_started_again():
    machine = machine_in(EngineState.FAILED)
    with pytest.raises(IllegalTransition, match="only one of: released"):
        machine.to(EngineState.STARTING)
