"""Writes down what is bought, and stops asking where a budget is reached.

A request is admitted only if the most that it may cost still fits, beside those that are on their way: its prompt, as
estimated by its length, and `max_tokens`. Without `max_tokens`, the largest answer so far stands for it, and a budget
may be exceeded by the answers that are on their way when it is reached.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from evalscope_evalflow.events.json_lines import FileError, append
from evalscope_evalflow.events.schema import SCHEMA
from evalscope_evalflow.events.spending import ANSWER, FILE, JUDGE_REPLY, JUDGE_REQUEST, read, room_for_an_answer
from evalscope_evalflow.worker.progress_meter import ProgressMeter
from evalscope_evalflow.worker.request_failures import Unanswered

OVER_BUDGET = "over_budget"
NOWHERE = "http://127.0.0.1:9/v1"  # the address of a model that will not be asked
_CHARACTERS_PER_TOKEN = 3  # an estimate on the safe side for most languages
_TOKENS_PER_FILE = 1_500  # of an image, likewise


class Budget:
    """What may be bought in this run folder.

    Attributes:
        dataset: the dataset that is asked, or judged, now.
    """

    def __init__(
        self, folder: str, limits: Mapping[str, Any], max_tokens: int | None, progress: ProgressMeter | None = None
    ) -> None:
        """
        Args:
            folder: `evalflow` in the run folder.
            limits: `tokens` and `judge_requests`; what is None or not there is not limited.
            max_tokens: the most tokens of an answer, as the task says.
            progress: is told of requests and their tokens; default: nobody is.
        """
        self.dataset = ""
        self._progress = progress or ProgressMeter(lambda event: None, ())
        self._path = Path(folder, FILE)
        self._tokens, self._judge_requests = limits.get("tokens"), limits.get("judge_requests")
        self._max_tokens = max_tokens
        self._spent = read(self._path)
        self._reserved = 0
        self._unwritten = ""
        self._change = threading.Condition()

    @property
    def has_room(self) -> bool:
        """Whether the model may be asked at all."""
        return room_for_an_answer(self._tokens, self._spent.tokens, self._max_tokens)

    def watch(self, model: Any) -> None:
        """Have a model of EvalScope's ask through this budget."""
        generate, generate_async = model.generate, model.generate_async

        def ask(input: Any, *others: Any, **options: Any) -> Any:
            reserved = self._admit(input)
            with self._progress.request() as came:
                try:
                    output = generate(input, *others, **options)
                except BaseException:
                    self._release(reserved)
                    raise
                came(*self._take(reserved, input, output))
            return output

        async def ask_async(input: Any, *others: Any, **options: Any) -> Any:
            reserved = await asyncio.to_thread(self._admit, input)
            with self._progress.request() as came:
                try:
                    output = await generate_async(input, *others, **options)
                except BaseException:
                    self._release(reserved)
                    raise
                came(*self._take(reserved, input, output))
            return output

        model.generate, model.generate_async = ask, ask_async

    def watch_judge(self, model: Any) -> None:
        """Write down the tokens of a judge that is a model of EvalScope's; its requests are counted before they go."""
        generate = model.generate
        if hasattr(generate, "of_judge"):  # EvalScope makes one client for several benchmarks
            return

        def ask(input: Any, *others: Any, **options: Any) -> Any:
            dataset = self.dataset  # it may be another one when the reply comes
            judged = self._progress.is_judging  # one answer is judged ahead, while the model is asked
            with self._progress.request() if judged else nullcontext(lambda *tokens: None) as came:
                output = generate(input, *others, **options)
                tokens = _tokens(input, output)
                with self._change:
                    self._write({"kind": JUDGE_REPLY, "dataset": dataset, **tokens})
                came(tokens.get("input_tokens", 0), tokens.get("output_tokens", 0))
            return output

        ask.of_judge = True  # type: ignore[attr-defined]
        model.generate = ask

    def judge_request(self) -> None:
        """A request to the judge is about to be sent.

        Raises:
            Unanswered: the budget is used up.
        """
        with self._change:
            used = self._spent.judge_requests
            if self._judge_requests is not None and used >= self._judge_requests:
                raise Unanswered(
                    OVER_BUDGET,
                    True,
                    f"the budget of {self._judge_requests:,} judge requests is used up: raise budget.judge_requests",
                )
            self._write({"kind": JUDGE_REQUEST, "dataset": self.dataset})

    def _admit(self, prompt: Any) -> int:
        """Tokens that are reserved for a request. It waits while those on their way may leave enough.

        Raises:
            Unanswered: the budget is used up.
        """
        if self._tokens is None:
            return 0
        wanted = _tokens_of(prompt) + (self._max_tokens or 0)
        with self._change:
            wanted = max(wanted, 0 if self._max_tokens else self._spent.largest, 1)
            while self._spent.tokens + self._reserved + wanted > self._tokens:
                if not self._reserved:
                    raise Unanswered(
                        OVER_BUDGET,
                        True,
                        f"the budget of {self._tokens:,} tokens is used up: {self._spent.tokens:,} are used, and an "
                        f"answer may take {wanted:,}: raise budget.tokens",
                    )
                self._change.wait()
            self._reserved += wanted
        return wanted

    def _release(self, reserved: int) -> None:
        with self._change:
            self._reserved -= reserved
            self._change.notify_all()

    def _take(self, reserved: int, prompt: Any, output: Any) -> tuple[int, int]:
        """An answer has come; its tokens, in and out."""
        tokens = _tokens(prompt, output)
        with self._change:
            self._reserved -= reserved
            self._write({"kind": ANSWER, "dataset": self.dataset, **tokens})
            self._change.notify_all()
        return tokens.get("input_tokens", 0), tokens.get("output_tokens", 0)

    def _write(self, item: dict[str, Any]) -> None:
        self._spent.add(item)
        self._unwritten += json.dumps({"schema": SCHEMA, **item}) + "\n"
        with suppress(FileError):  # what was bought must not be lost for its bill: it is tried again
            self._settle()

    def settle(self) -> None:
        """Write down what could not be written before.

        Raises:
            FileError: it still cannot be.
        """
        with self._change:
            self._settle()

    def _settle(self) -> None:
        if self._unwritten:
            append(self._path, self._unwritten)
            self._unwritten = ""


def _tokens(prompt: Any, output: Any) -> dict[str, int]:
    """Tokens of a request, as its server counts them: all, and how many in and out; estimated where it does not."""
    usage = getattr(output, "usage", None)
    given, said = (usage.input_tokens or 0, usage.output_tokens or 0) if usage is not None else (0, 0)
    total = (usage.total_tokens or given + said) if usage is not None else 0
    if not total:
        given = _tokens_of(prompt)
        said = len(str(getattr(output, "completion", ""))) // _CHARACTERS_PER_TOKEN
        total = given + said
    apart = {"input_tokens": int(given), "output_tokens": int(said)} if given or said else {}
    return {"tokens": int(total), **apart}


def _tokens_of(prompt: Any) -> int:
    """An estimate of a prompt's tokens."""
    if isinstance(prompt, str):
        return len(prompt) // _CHARACTERS_PER_TOKEN + 1
    tokens = 0
    for message in prompt:
        content = getattr(message, "content", message)
        if isinstance(content, str):
            tokens += len(content) // _CHARACTERS_PER_TOKEN + 1
            continue
        for part in content if isinstance(content, list) else ():
            text = getattr(part, "text", None)
            tokens += len(text) // _CHARACTERS_PER_TOKEN + 1 if isinstance(text, str) else _TOKENS_PER_FILE
    return tokens
