"""EvalScope's judge, whose failures say what they are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from evalscope_evalflow.worker.budget import NOWHERE, Budget
from evalscope_evalflow.worker.credentials import JUDGE_KEY, masked
from evalscope_evalflow.worker.evalscope_client import refuse_error_texts
from evalscope_evalflow.worker.judge_probe import JudgeProbe
from evalscope_evalflow.worker.quick_requests import quicken
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


def patch_judge(probe: JudgeProbe, budget: Budget, own: Callable[[], str] | None = None) -> None:
    """Patch EvalScope's judge: errors are no replies, each is of a kind, and what a probe was told is not asked again.

    Args:
        probe: this worker's.
        budget: what requests are counted by.
        own: gives the URL of a judge that is an engine of this sweep's; default: it is one that the task names.
    """
    from evalscope.metrics import LLMJudge

    start, generate = LLMJudge._init_server_adapter, LLMJudge.generate

    def start_strictly(self: Any) -> None:
        if own is not None:  # where nothing was to be judged, it is not there; EvalScope would ask a public host
            self.api_url, self.api_key = own() or NOWHERE, os.environ.get(JUDGE_KEY, "EMPTY")
        start(self)
        refuse_error_texts(self.model)
        quicken(self.model)
        budget.watch_judge(self.model)

    def generate_or_say_why(self: Any, messages: Any) -> Any:
        judge = str(getattr(self, "judge_id", None) or self.model_id)
        asked = [[item.role, item.model_dump(mode="json", include={"content"})] for item in messages]

        def ask() -> Any:
            budget.judge_request()
            return generate(self, messages)

        try:
            return probe.ask(json.dumps([judge, self.api_url, asked]), ask)
        except Exception as error:
            raise JudgeFailed(error) from error

    LLMJudge._init_server_adapter, LLMJudge.generate = start_strictly, generate_or_say_why
