"""The ranges of generation settings. Outside of them an API refuses every request, or answers nothing of use.

Sources: OpenAI's API reference (temperature, top_p, penalties, n), vLLM's SamplingParams (top_k, min_p,
repetition_penalty).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from evalscope_evalflow.errors import Problem

_Positive = Annotated[int, Field(ge=1)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_RANGES: dict[str, Any] = {
    "max_tokens": _Positive,
    "n": _Positive,
    "temperature": Annotated[float, Field(ge=0, le=2)],
    "top_p": Annotated[float, Field(gt=0, le=1)],
    "top_k": Annotated[int, Field(ge=-1)],
    "min_p": Annotated[float, Field(ge=0, le=1)],
    "frequency_penalty": _Penalty,
    "presence_penalty": _Penalty,
    "repetition_penalty": Annotated[float, Field(gt=0)],
    "timeout": Annotated[float, Field(gt=0)],
    "retries": Annotated[int, Field(ge=0)],
    "retry_interval": Annotated[float, Field(ge=0)],
    "batch_size": _Positive,
}


def range_problems(settings: Any, where: str) -> Iterator[Problem]:
    """Generation settings that no API takes.

    Args:
        settings: a `generation_config`; what is no number is not this check's matter.
        where: how messages name it.
    """
    for name, kind in _RANGES.items():
        value = settings.get(name) if isinstance(settings, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        try:
            TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            said = error.errors(include_input=False, include_url=False, include_context=False)[0]["msg"]
            yield Problem(f"{where}.{name}", f"{value}: {said[0].lower()}{said[1:]}")
