"""EvalScope's judge, whose failures say what they are."""

from __future__ import annotations

from typing import Any

from evalscope_evalflow.worker.credentials import masked
from evalscope_evalflow.worker.evalscope_client import refuse_error_texts
from evalscope_evalflow.worker.request_failures import WHOLE_RUN, classify, error_text


class JudgeFailed(Exception):
    """A request to the judge failed. EvalScope saves the words, by which the parent knows the kind."""

    def __init__(self, error: Exception) -> None:
        kind = classify(error)[0]
        status = getattr(error, "status_code", None)
        said = masked(error_text(error))
        if kind == "run":
            kind, said = "judge_refuses", f"{WHOLE_RUN.get(status or 0, 'refused')}: {said}"
        super().__init__(f"{kind}: {said}" + (f" ({status})" if status else ""))


def name_judge_failures() -> None:
    """Patch EvalScope's judge: errors are no replies, and each is of a kind."""
    from evalscope.metrics import LLMJudge

    start, generate = LLMJudge._init_server_adapter, LLMJudge.generate

    def start_strictly(self: Any) -> None:
        start(self)
        refuse_error_texts(self.model)

    def generate_or_say_why(self: Any, messages: Any) -> Any:
        try:
            return generate(self, messages)
        except Exception as error:
            raise JudgeFailed(error) from error

    LLMJudge._init_server_adapter, LLMJudge.generate = start_strictly, generate_or_say_why
