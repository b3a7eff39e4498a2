"""What the parent asks of its worker, one JSON line each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class WorkerRequest:
    """Goes to the worker. Subclasses are frozen dataclasses whose fields JSON can hold."""

    kinds: ClassVar[dict[str, type[WorkerRequest]]] = {}

    def __init_subclass__(cls) -> None:
        WorkerRequest.kinds[cls.__name__] = cls

    def as_dict(self) -> dict[str, Any]:
        """The request as JSON has it: its name under `request`, and its fields."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {"request": type(self).__name__, **values}


@dataclass(frozen=True)
class ImportAhead(WorkerRequest):
    """Comes before StartTask where a worker is started before its task is known: import what the task will need.

    Attributes:
        worker_half: as StartTask has it.
    """

    worker_half: str


@dataclass(frozen=True)
class SetVariables(WorkerRequest):
    """Comes after ImportAhead: variables that only the task's run knows, keys among them.

    Attributes:
        variables: their values; None: it is removed.
    """

    variables: dict[str, str | None]


@dataclass(frozen=True)
class StartTask(WorkerRequest):
    """The first request: what to do.

    Attributes:
        worker_half: the worker half of the stock backend, as `/path/of/file.py:class`.
        phases: what to do, of `infer` and `judge`, in this order.
        stock_task: fields of EvalScope's TaskConfig, without the model's URL and key; other keys are references.
        failures_file: where samples without an answer or a score are written down.
        failure_cause: fingerprint of everything in the task, other than a prompt, that can make a request fail.
        judge_batch_size: answers that are judged at once; None for as many as the model is asked at once.
        settings: what else the worker half of this backend needs.
        own_engine: whether an engine of this run's serves the model, which the parent watches.
        stall_timeout_s: seconds for which an API that runs elsewhere may be down before it is given up.
        request_slots: folder and number of the slots that requests to the model take; None: it has no others' requests.
        judge_slots: the same for requests to the judge.
        budget: the most that may be bought, of `tokens` and `judge_requests`.
        own_judge: whether the judge is an engine of this sweep's, which the parent watches; its URL comes when it is
            asked, and its key is in a variable.
    """

    worker_half: str
    phases: Sequence[str]
    stock_task: dict[str, Any]
    failures_file: str
    failure_cause: str
    judge_batch_size: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    own_engine: bool = True
    stall_timeout_s: float = 300.0
    request_slots: Sequence[Any] | None = None
    judge_slots: Sequence[Any] | None = None
    budget: dict[str, Any] = field(default_factory=dict)
    own_judge: bool = False


@dataclass(frozen=True)
class ModelReady(WorkerRequest):
    """The model can be asked.

    Attributes:
        api_url: the base URL of its API.
        judge_ahead: datasets of which the judge is asked about one answer while others are still being answered.
    """

    api_url: str
    judge_ahead: Sequence[str] = ()


@dataclass(frozen=True)
class JudgeAnswers(WorkerRequest):
    """The saved answers may be judged: the engine is released.

    Attributes:
        at_once: answers that are judged at once, where other models ask the same judge; None: as the task says.
        judge_url: the base URL of the judge, where that is an engine of this sweep's.
    """

    at_once: int | None = None
    judge_url: str = ""


def parse_request(data: Mapping[str, Any]) -> WorkerRequest:
    """The request that `as_dict` has written.

    Raises:
        ValueError: no request has that name, or a field that it needs is missing.
    """
    kind = WorkerRequest.kinds.get(str(data.get("request")))
    known = {item.name for item in dataclasses.fields(kind)} if kind else set()
    try:
        if kind is not None:
            return kind(**{name: value for name, value in data.items() if name in known})
    except TypeError as error:
        raise ValueError(f"not a request to the worker: {error}") from None
    raise ValueError(f"not a request to the worker: {data.get('request')!r}")
