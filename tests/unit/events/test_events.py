"""Events are values that JSON can hold."""

import dataclasses
import json

import pytest

from evalscope_evalflow.events import (  # noqa: F401 - they register
    api_events,
    base,
    engine_events,
    run_events,
    worker_events,
)
from evalscope_evalflow.events.base import Event, parse

# Classes that group others and are never emitted.
GROUPS = {"WorkerEvent", "ApiEvent"}
CONCRETE = {name: kind for name, kind in Event.kinds.items() if kind.__module__.startswith("evalscope_evalflow.")}
VALUES = {"str": "x", "int": 1, "float": 0.5, "bool": True, "Phase": run_events.Phase.LOAD, "Any": "hangs"}


def example(kind):
    """An event with some value in each field that needs one."""
    values = {}
    for item in dataclasses.fields(kind):
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            plain = str(item.type).split(" | ")[0]
            empty = {"list": [], "dict": {}}.get(plain.split("[")[0])
            values[item.name] = VALUES.get(plain) if empty is None else empty
    return kind(**values)


@pytest.mark.parametrize("name", sorted(CONCRETE.keys() - GROUPS))
def test_an_event_survives_its_way_through_json(name):
    event = example(CONCRETE[name])
    data = json.loads(json.dumps(event.as_dict()))
    assert data["event"] == name
    assert parse(data) == event


@pytest.mark.parametrize("name", sorted(CONCRETE))
def test_an_event_is_frozen_and_says_what_it_means(name):
    assert CONCRETE[name].__doc__
    assert not CONCRETE[name].__doc__.startswith(f"{name}("), "dataclass made this docstring"
    if name not in GROUPS:
        assert CONCRETE[name].__dataclass_params__.frozen


def test_fields_of_a_later_version_are_dropped():
    assert parse({"event": "VerdictsDropped", "dataset": "a", "number": 2, "more": 1}) == worker_events.VerdictsDropped(
        "a", 2
    )


@pytest.mark.parametrize("data", [{}, {"event": "NoSuchThing"}, {"event": "VerdictsDropped", "dataset": "a"}])
def test_what_is_no_event_is_none(data):
    assert parse(data) is None
