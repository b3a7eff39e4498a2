"""The console that everything is printed with: no text on it is obeyed by a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from evalscope_evalflow.terminal_text import printable


class SafeConsole(Console):
    """rich's console, for texts of any origin. Colours and cursor movements are rich's own alone."""

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as rich renders it; made printable before its width is measured."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of anything that can be printed; here passes what was no plain text before."""
        for segment in super().render(renderable, options):
            shown = segment.text if segment.control else printable(segment.text)
            yield segment if shown == segment.text else Segment(shown, segment.style)
