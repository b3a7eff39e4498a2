"""What share of the worker's start is hidden behind the engine's."""

import pytest

from evalscope_evalflow.run.overlap import overlap


@pytest.mark.parametrize(
    ("worker_began", "worker_ready", "engine_ready", "share"),
    [
        (100.0, 104.0, 130.0, 1.0),  # the engine takes longer
        (101.0, 105.0, 105.0, 1.0),
        (100.0, 110.0, 102.0, 0.2),  # the worker does
        (104.0, 110.0, 102.0, 0.0),  # it began when the engine was there
    ],
)
def test_share(worker_began: float, worker_ready: float, engine_ready: float, share: float) -> None:
    found = overlap(100.0, worker_began, worker_ready, engine_ready)
    assert found.share == share
    assert found.engine_ready_s == engine_ready - 100
    assert found.worker_ready_s == worker_ready - 100
