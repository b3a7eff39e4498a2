"""What happens to the engine that a run uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from evalscope_evalflow.events.base import Event


@dataclass(frozen=True)
class EngineStarting(Event):
    """An engine is started, or an API that runs elsewhere is about to be used.

    Attributes:
        engine: its kind, as in `deploy.engine`.
        version: of the engine, in its own environment; None where that is not known.
        local: whether there is a process to start.
        log: the file of its output.
        command: its command line; empty for an API.
        placement: the devices and sizes that were chosen, with the arithmetic.
        facts: what it runs with: versions of it and of what is below it, devices, sizes (see serving/engine_facts.py).
        answers: answers that are saved already, which it goes on from.
        note: what has to be known of answers that are added to those; empty: nothing.
        devices: names of NVIDIA's GPUs that it is held on, as CUDA_VISIBLE_DEVICES has them.
    """

    engine: str
    version: str | None
    local: bool
    log: str
    command: list[str]
    placement: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    answers: int = 0
    note: str = ""
    devices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EngineReused(Event):
    """An engine that was kept since another run (`deploy.keep_alive_s`) serves this one.

    Attributes:
        engine: its kind.
        version: of the engine, in its own environment; None where that is not known.
        run_id: the run that started it.
        log: the file of its output.
        command: its command line.
        placement: the devices and sizes that were chosen.
        facts: what it runs with, as of `EngineStarting`.
        answers: answers that are saved already, which it goes on from.
        note: what has to be known of answers that are added to those; empty: nothing.
        devices: names of NVIDIA's GPUs that it is held on, as CUDA_VISIBLE_DEVICES has them.
    """

    engine: str
    version: str | None
    run_id: str
    log: str
    command: list[str]
    placement: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    answers: int = 0
    note: str = ""
    devices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EngineNotice(Event):
    """Something about kept engines that the user should know.

    Attributes:
        text: a sentence.
    """

    text: str


@dataclass(frozen=True)
class EngineStoodBy(Event):
    """The engine's process was started before its model's turn came, and has imported what it needs ahead.

    Attributes:
        engine: its kind.
        stood_by_s: seconds from that start to its turn.
    """

    engine: str
    stood_by_s: float


@dataclass(frozen=True)
class EngineReady(Event):
    """The engine lives, is healthy, lists the model and has answered.

    Attributes:
        engine: its kind.
        api_url: the base URL of its API.
        load_s: seconds from its start; None for an API that runs elsewhere.
    """

    engine: str
    api_url: str
    load_s: float | None


@dataclass(frozen=True)
class EngineWeights(Event):
    """Which weights the engine answers with, where it can tell.

    Attributes:
        engine: its kind.
        checkpoint: the folder that they were read from.
        fingerprint: of all tensors on the device.
        tensors: how many those are.
        took_from: the model whose weights were there before; empty: the engine was started with these.
        compared: tensors that were compared with the files, byte for byte.
        swap_s: seconds from the engine's being taken to its being ready; 0 after a start.
        read_s: seconds of them that reading the weights took.
        proof_s: seconds of them that served the proof alone.
    """

    engine: str
    checkpoint: str
    fingerprint: str
    tensors: int
    took_from: str = ""
    compared: int = 0
    swap_s: float = 0.0
    read_s: float = 0.0
    proof_s: float = 0.0


@dataclass(frozen=True)
class EngineNotNeeded(Event):
    """The worker found nothing left to ask before the engine was ready.

    Attributes:
        engine: its kind.
    """

    engine: str


@dataclass(frozen=True)
class EngineExited(Event):
    """The engine's processes are gone, for whatever reason."""


@dataclass(frozen=True)
class EngineUnwell(Event):
    """The engine's process lives, but does not work any more.

    Attributes:
        cause: what was seen: a hang, or an engine that says that it is not healthy.
    """

    cause: Any


@dataclass(frozen=True)
class EngineDied(Event):
    """The engine died, or hung, in the middle of the run; it is started again.

    Attributes:
        error: why, as far as its log tells.
        answers: answers that are saved.
        added: those of them that came since its last start.
        restart: which restart this is, from 1.
        max_restarts: how many there may be.
    """

    error: str
    answers: int
    added: int
    restart: int
    max_restarts: int


@dataclass(frozen=True)
class EngineKept(Event):
    """The engine is kept for whoever wants the same one next.

    Attributes:
        engine: its kind.
        until: a time of day, with the date.
        held_s: seconds from its start to now.
        has_heir: whether another model of the sweep begins with it at once.
    """

    engine: str
    until: str
    held_s: float
    has_heir: bool = False


@dataclass(frozen=True)
class KeptEngineReleased(Event):
    """The engine that this run left behind as a kept one has ended without having been used again.

    Attributes:
        released: whether nothing of it is left, as far as can be known.
        left: what is left, a line each.
    """

    released: bool
    left: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EngineReleased(Event):
    """The engine has ended, and what it held was looked at.

    Attributes:
        engine: its kind.
        released: whether nothing of it is left, as far as can be known.
        seconds: how long the release took.
        held_s: seconds from its start to the end of its release.
        problems: what is left for certain, a line each.
        warnings: what may be left, a line each.
        details: processes, port, files and devices, as run.json has them.
    """

    engine: str
    released: bool
    seconds: float
    held_s: float
    problems: list[str]
    warnings: list[str]
    details: dict[str, Any]


@dataclass(frozen=True)
class OwnJudgeUsed(Event):
    """The sweep's judge is ready, and this run asks it.

    Attributes:
        judge: its name.
        log: the file of its output.
    """

    judge: str
    log: str


@dataclass(frozen=True)
class OwnJudgeLost(Event):
    """The sweep's judge died, or hung, while this run asked it; verdicts that came are saved.

    Attributes:
        reason: why, as far as its log tells.
    """

    reason: str


@dataclass(frozen=True)
class DevicesFree(Event):
    """The engine is needed no more, and has ended: its devices may be given to another run."""
