"""What `evalflow ps` shows of a run while it goes on."""

from __future__ import annotations

from typing import Any, cast

import pytest

from evalscope_evalflow.events.api_events import JUDGE, MODEL, ApiBack, ApiBusy, ApiDown, ApiGivenUp
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.events.run_events import Phase, PhaseBegan
from evalscope_evalflow.processes.registry import Registration
from evalscope_evalflow.run import subscribers
from evalscope_evalflow.run.subscribers import RegistrySubscriber


class Entry:
    """Keeps the phases that it is told."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.progress: list[int] = []

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def set(self, progress: dict[str, Any]) -> None:
        self.progress.append(progress["done"])


def test_a_run_that_waits_for_an_api_or_a_judge_says_so() -> None:
    entry = Entry()
    subscriber = RegistrySubscriber(cast(Registration, entry))
    for event in (
        PhaseBegan(Phase.INFER),
        ApiDown(MODEL, "u", "m", "refused", False, 300.0),
        ApiBack(MODEL, "u", "m", 3.0),
        PhaseBegan(Phase.JUDGE),
        ApiBusy(JUDGE, "u", "j", "429", 60.0),
        ApiGivenUp(JUDGE, "u", "j", "429", 60.0),
    ):
        subscriber.on_event(event)
    assert entry.phases == [
        "evaluating", "waiting for the API", "evaluating", "judging", "waiting for the judge", "judging",
    ]  # fmt: skip


def test_progress_is_written_every_two_seconds_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(subscribers.time, "monotonic", lambda: now[0])
    entry = Entry()
    subscriber = RegistrySubscriber(cast(Registration, entry))
    subscriber.on_event(DatasetProgress("d", False, 0, 9))  # the engine is not ready yet
    subscriber.on_event(PhaseBegan(Phase.INFER))
    for done in range(5):
        subscriber.on_event(DatasetProgress("d", False, done, 9))
        now[0] += 1
    subscriber.on_event(DatasetProgress("d", False, 9, 9, ended=True))
    assert entry.progress == [0, 2, 4, 9]
