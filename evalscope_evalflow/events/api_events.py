"""What happens to an API that runs elsewhere while it is asked: the model's, or a judge's. The worker reports it."""

from __future__ import annotations

from dataclasses import dataclass

from evalscope_evalflow.events.worker_events import WorkerEvent

MODEL, JUDGE = "model", "judge"


@dataclass(frozen=True)
class ApiEvent(WorkerEvent):
    """About one API.

    Attributes:
        api: whose it is: `model` or `judge`.
        url: its base URL, without user and query.
        model: the model that it is asked for.
    """

    api: str
    url: str
    model: str


@dataclass(frozen=True)
class ApiFailing(ApiEvent):
    """Requests fail, though the API answers a request of one token: each of them is asked again by itself.

    Attributes:
        reason: what the last one failed with.
        requests: how many have failed since the last answer; one at least.
    """

    reason: str
    requests: int


@dataclass(frozen=True)
class ApiDown(ApiEvent):
    """The API does not work. Nobody asks it but one probe, until it answers again or is given up.

    Attributes:
        reason: what was seen, as a clause.
        hangs: whether it takes requests and says nothing.
        give_up_s: seconds from now after which it is given up; those that it asks for itself are not counted.
    """

    reason: str
    hangs: bool
    give_up_s: float


@dataclass(frozen=True)
class ApiBusy(ApiEvent):
    """The API asks for time, and gets it (`Retry-After`).

    Attributes:
        reason: its words.
        wait_s: seconds that it is not asked.
    """

    reason: str
    wait_s: float


@dataclass(frozen=True)
class ApiSilent(ApiEvent):
    """The API has not answered for a while, which alone is no fault: a model may think for minutes.

    Attributes:
        seconds: since its last answer.
        requests: that it has been asked.
        answers_probe: whether it answers a request of one token; None: that is not known yet.
    """

    seconds: float
    requests: int
    answers_probe: bool | None


@dataclass(frozen=True)
class ApiBack(ApiEvent):
    """The API answers again, after it was down or busy.

    Attributes:
        seconds: since it was seen to be so.
    """

    seconds: float


@dataclass(frozen=True)
class ApiGivenUp(ApiEvent):
    """The API is not asked any more in this run; what it has answered is saved.

    Attributes:
        reason: why, as a clause.
        seconds: for which it was not usable.
    """

    reason: str
    seconds: float
