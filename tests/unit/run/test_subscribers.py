"""What `evalflow ps` shows of a run while it goes on."""

from __future__ import annotations

from typing import cast

from evalscope_evalflow.events.api_events import JUDGE, MODEL, ApiBack, ApiBusy, ApiDown, ApiGivenUp
from evalscope_evalflow.events.run_events import Phase, PhaseBegan
from evalscope_evalflow.processes.registry import Registration
from evalscope_evalflow.run.subscribers import RegistrySubscriber


class Entry:
    """Keeps the phases that it is told."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def phase(self, name: str) -> None:
        self.phases.append(name)


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
