"""The section's `watch`: how checkpoints are taken while training writes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from evalscope_evalflow.config.section_part import Section

MARKER = "STABLE"  # the marker that counts where none is named
_Count = Annotated[int, Field(gt=0)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class WatchGate(Section):
    """A gate on checkpoints as they are evaluated: `watch: {gate: {baseline: base, command: [./stop.sh]}}`."""

    baseline: str = Field(
        min_length=1, description="what checkpoints are compared with: a model of the task, or a folder"
    )
    command: list[str] = Field(
        min_length=1,
        description="what is called when a checkpoint is blocked: program and arguments, without a shell; the "
        "checkpoint's name is added",
    )
    policy: str | None = Field(
        None, description="file with the gate's policy; default: no dataset may fall below the baseline for sure"
    )
    level: float = Field(
        0.05, gt=0, lt=1, description="chance that a training that is no worse is ever stopped, over all checkpoints"
    )
    timeout_s: float = Field(600, gt=0, allow_inf_nan=False, description="seconds that the command may take")

    @field_validator("command", mode="before")
    @classmethod
    def _no_shell(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError('is one text, and no shell is used: give a list, such as [./stop.sh, "1234"]')
        return [str(item) for item in value] if isinstance(value, (list, tuple)) else value


class WatchConfig(Section):
    """How `evalflow watch` takes checkpoints. Times are in seconds."""

    marker: str | None = Field(
        None,
        min_length=1,
        description="file that the trainer writes into a checkpoint when it is whole, and without which none is taken; "
        f"default: {MARKER} where there is one, else the files themselves say it",
    )
    quiet_s: _Seconds = Field(60, description="seconds that a checkpoint without a marker has to stay unchanged")
    poll_s: float = Field(30, gt=0, allow_inf_nan=False, description="seconds between two looks at the folder")
    order: Literal["newest", "oldest"] = Field("newest", description="which of several new checkpoints comes first")
    every: _Count | None = Field(None, description="take only checkpoints whose step is a multiple; default: all")
    until: _Count | None = Field(None, description="end when the checkpoint of this step is evaluated; default: never")
    idle_timeout_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="end when nothing has changed for so many seconds; default: never"
    )
    round_size: _Count = Field(
        8, description="checkpoints that are evaluated together; new ones have their turn after them"
    )
    late_s: _Seconds = Field(1800, description="seconds after which an unfinished checkpoint is reported, once")
    gate: WatchGate | None = Field(None, description="when to call a command that stops training")

    @field_validator("marker")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and ("/" in value or value in (".", "..")):
            raise ValueError("is no file's name: the marker lies in the checkpoint's folder")
        return value
