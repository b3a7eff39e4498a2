"""What `ps`, `stop` and `clean` print with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from evalscope_evalflow.display.safe_console import SafeConsole
from evalscope_evalflow.errors import EvalFlowError

FILE_WIDTH = 200  # a file has no width, and rich would take 80


def a_console(console: Console | None) -> Console:
    """A console for lines and tables; wide where it writes to a file or a pipe."""
    console = console or SafeConsole(emoji=False, highlight=False)
    if console.is_terminal:
        return console
    return SafeConsole(file=console.file, emoji=False, highlight=False, width=FILE_WIDTH)


@contextmanager
def registry_errors() -> Iterator[None]:
    """Turns what the operating system says of the registry's folder into an error of ours.

    Raises:
        EvalFlowError: the registry cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise EvalFlowError(f"the list of this machine's runs cannot be read: {error}") from error
