"""One answer of each dataset is judged while others are still being answered: can the judge's verdicts be read?

Without that, a judge that nobody understands is found when the model is gone. The reply is kept, and taken for the
judge's when the same request is made later; a request that is not made later was one more.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, TypeVar

from evalscope_evalflow.events.worker_events import JudgeProbed
from evalscope_evalflow.worker.channel import Channel

Reply = TypeVar("Reply")
Why = tuple[str, str, str]  # the kind of a missing verdict, what the judge said, and what was expected


class JudgeProbe:
    """Judges one answer of each dataset, in a thread of its own."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}  # the last one of each dataset
        self._asked: set[str] = set()  # datasets of which the judge was asked
        self._kept: dict[str, deque[Any]] = defaultdict(deque)  # replies by their requests
        self._here = threading.local()

    def offer(self, dataset: str, judge: Callable[[], Why | None]) -> None:
        """An answer is saved. It is judged if none of this dataset was, or none that took the judge.

        Args:
            dataset: its dataset.
            judge: judges it, as it will be judged later; returns why there is no verdict, or None.
        """
        with self._lock:
            thread = self._threads.get(dataset)
            if dataset in self._asked or (thread is not None and thread.is_alive()):
                return
            thread = threading.Thread(target=self._judge, args=(dataset, judge), daemon=True, name="evalflow-probe")
            self._threads[dataset] = thread
            thread.start()

    def wait(self) -> None:
        """Wait until every answer that was offered is judged."""
        for thread in list(self._threads.values()):
            thread.join()

    def ask(self, request: str, ask: Callable[[], Reply]) -> Reply:
        """Ask the judge, or take what it has said to the same request before.

        Args:
            request: what tells requests apart.
            ask: sends it.

        Raises:
            Exception: what `ask` raises.
        """
        requests: list[str] | None = getattr(self._here, "requests", None)
        if requests is None:
            with self._lock:
                if self._kept.get(request):
                    kept: Reply = self._kept[request].popleft()
                    return kept
            return ask()
        requests.append(request)
        reply = ask()
        with self._lock:
            self._kept[request].append(reply)
        return reply

    def _judge(self, dataset: str, judge: Callable[[], Why | None]) -> None:
        requests: list[str] = []
        self._here.requests = requests
        try:
            why = judge()
        except Exception as error:  # noqa: BLE001 - whatever a benchmark's code raises will be told when it is judged
            print(f"{dataset}: one answer could not be judged ahead: {type(error).__name__}: {error}", file=sys.stderr)
            return
        if requests:
            with self._lock:
                self._asked.add(dataset)
            kind, said, expected = why or ("", "", "")
            self._channel.emit(JudgeProbed(dataset, len(requests), kind, said, expected))
