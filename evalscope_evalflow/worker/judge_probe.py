"""One answer of each dataset is judged while others are still being answered: can the judge's verdicts be read?

Without that, a judge that nobody understands is found when the model is gone. The reply is kept, and taken for the
judge's when the same request is made later; a request that is not made later was one more.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any, TypeVar

from evalscope_evalflow.events.worker_events import JudgeProbed
from evalscope_evalflow.worker.channel import Channel

MOST_TRIES = 10  # answers of a dataset that turn out to need no judge
Reply = TypeVar("Reply")
Why = tuple[str, str, str]  # the kind of a missing verdict, what the judge said, and what was expected


class JudgeProbe:
    """Judges one answer of each dataset, in a thread of its own."""

    def __init__(self, channel: Channel, *, every_thread: bool = False) -> None:
        """
        Args:
            channel: to the parent.
            every_thread: whether, while an answer is judged ahead, requests of any thread are for it: its judging uses
                threads of its own, and nothing else asks the judge at that time.
        """
        self._channel, self._every_thread = channel, every_thread
        self._one_at_a_time = threading.Lock()
        self._now: list[str] | None = None  # requests for the answer that is judged ahead now
        self._tries: Counter[str] = Counter()
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
            self._tries[dataset] += 1
            if self._tries[dataset] > MOST_TRIES:
                return
            thread = threading.Thread(target=self._judge, args=(dataset, judge), daemon=True, name="evalflow-probe")
            self._threads[dataset] = thread
            thread.start()

    @property
    def asks_here(self) -> bool:
        """Whether this thread judges an answer ahead."""
        return getattr(self._here, "requests", None) is not None

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
        requests: list[str] | None = getattr(self._here, "requests", self._now if self._every_thread else None)
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
        why = None
        with self._one_at_a_time:
            self._now = requests
            try:
                why = judge()
            except Exception as error:  # noqa: BLE001 - whatever a benchmark's code raises is told when it is judged
                what = f"{type(error).__name__}: {error}"
                print(f"{dataset}: one answer could not be judged ahead: {what}", file=sys.stderr)
            finally:
                self._now = None
        if requests:
            with self._lock:
                self._asked.add(dataset)
            kind, said, expected = why or ("", "", "")
            self._channel.emit(JudgeProbed(dataset, len(requests), kind, said, expected))
