"""The benchmark of sweeps: what it draws, and that it notices what would make its figures worthless."""

import sys
from pathlib import Path

import pytest

from evalscope_evalflow.engines.checkpoints import safetensors_headers as weights

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from scripted_sweep import simulation
from scripted_sweep.run import measure
from scripted_sweep.scenario import ONE_DEVICE_S, draw


def test_a_seed_is_the_same_sweep_on_every_machine():
    small, large = draw(3, 1), draw(3, 8)
    assert small == draw(3, 1)
    assert small != draw(4, 1)
    assert [model.checkpoint for model in small.models] == [model.checkpoint for model in large.models]
    assert small.samples == large.samples
    assert {model.devices for model in small.models} == {1}
    assert {model.devices for model in large.models} > {1}
    assert sum(model.engine_s for model in small.models) == pytest.approx(ONE_DEVICE_S, rel=0.02)


def test_checkpoints_are_as_large_as_the_scenario_says(tmp_path):
    for model in draw(0, 1).models:
        folder = model.checkpoint.write(tmp_path / model.name)
        found = weights.read(folder)
        assert found is not None
        assert found.stored_bytes == model.checkpoint.stored_bytes
        assert sum(file.stat().st_blocks for file in folder.iterdir()) * 512 < 1e6  # holes


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_no_decision_beats_the_work_there_is(devices):
    for seed in range(3):
        scenario = draw(seed, devices)
        made = simulation.makespan(scenario)
        work = sum(model.engine_s * model.devices for model in scenario.models) / devices
        assert max(work, *(model.engine_s + model.judge_s for model in scenario.models)) <= made
        assert made <= scenario.sequential_s


def journal(scenario, devices_of, at_once=200):
    """All models one after the other, unless `devices_of` gives them devices that others have."""
    events, at = [], 0.0
    for number, model in enumerate(scenario.models):
        for kind, more in (
            ("engine began", {"devices": devices_of(number)}), ("predicted", {}), ("engine ended", {}),
            ("judging began", {"at_once": at_once}), ("judging ended", {}),
        ):  # fmt: skip
            at += 1
            events.append({"time": at, "event": kind, "model": model.name, **more})
    return events


def test_what_was_measured_is_from_the_first_engine_to_the_last_verdict():
    scenario = draw(0, 1)
    found = measure(scenario, journal(scenario, lambda _: ["0"]), 60.0)
    assert found.makespan_s == 49  # ten models of five events
    assert found.handover_s == 4
    assert found.order == tuple(range(10))


def test_a_device_that_two_engines_have_is_noticed():
    scenario = draw(0, 1)
    events = journal(scenario, lambda _: ["0"])
    early = next(event for event in events if event["event"] == "engine began" and event["model"] == "model-1")
    early["time"] = 1.5
    with pytest.raises(RuntimeError, match="model-1 was given"):
        measure(scenario, sorted(events, key=lambda event: event["time"]), 60.0)


def test_a_model_on_fewer_devices_than_it_needs_is_noticed():
    scenario = draw(0, 8)
    with pytest.raises(RuntimeError, match="model-0 was given"):
        measure(scenario, journal(scenario, lambda _: ["0"]), 60.0)


def test_a_judge_that_is_asked_for_too_much_is_noticed():
    scenario = draw(0, 1)
    with pytest.raises(RuntimeError, match="too much at once"):
        measure(scenario, journal(scenario, lambda _: ["0"], at_once=201), 60.0)


def test_a_model_that_was_left_out_is_noticed():
    scenario = draw(0, 1)
    with pytest.raises(RuntimeError, match="judged were"):
        measure(scenario, journal(scenario, lambda _: ["0"])[:-5], 60.0)
