"""Signals that end a run in order: for commands, never in somebody's notebook."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """In the block, SIGTERM and SIGHUP do as Ctrl-C does: KeyboardInterrupt, once.

    From then on they are ignored, as both often come together and the process is about to end; a second Ctrl-C does
    not wait. What was ignored, as under nohup, stays so. Outside the main thread, where Python allows no handlers,
    nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _interrupt)
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _interrupt(number: int, frame: Any) -> NoReturn:
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt
