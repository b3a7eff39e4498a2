"""Scores with their intervals as pictures: inline SVG, whose colours follow the page, in light and dark."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from evalscope_evalflow.config.install_hint import install_command
from evalscope_evalflow.errors import ConfigError, Problem
from evalscope_evalflow.results import marks
from evalscope_evalflow.results.html.page_data import Plot, ScoreLine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from evalscope_evalflow.results.comparison.comparison_data import Comparison

MOST_MARKS = 200  # in all pictures of a kind; a mark with its two texts takes about 800 bytes
_WIDTH_IN = 5.0
_ROW_IN = 0.47
_LONGEST_LABEL = 33  # characters
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}"
# Colours that nobody else uses, and the variable of the page's style sheet that each becomes.
_COLOURS = {
    "#010203": "var(--ink)",
    "#010204": "var(--muted)",
    "#010205": "var(--accent)",
    "#010206": "var(--line)",
    "#010207": "var(--paper)",
}
_INK, _MUTED, _ACCENT, _LINE, _PAPER = _COLOURS
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be read out, found and copied
    "font.size": 11.0,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "xtick.color": _MUTED,
    "axes.unicode_minus": True,
    "text.usetex": False,
}
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def need_matplotlib() -> None:
    """Make sure that pictures can be drawn.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            Problem("--format html", "matplotlib, which draws the scores, is not installed", install_command("report"))
        ) from error


def score_plots(lines: Sequence[ScoreLine], most: int = MOST_MARKS) -> list[Plot]:
    """A picture for each dataset: a row for each run, with its score and interval.

    Args:
        lines: headline scores.
        most: how many scores are drawn at most; datasets beyond are left out as a whole.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    groups: dict[tuple[str, str], list[_Mark]] = {}
    for line in lines:
        if line.value is not None:
            mark = _Mark(line.run, value_text(line), line.value, line.low, line.high, hollow=not line.complete)
            groups.setdefault((line.dataset, line.metric), []).append(mark)
    return _plots(groups, most, "score", "Scores on {} with 95 % intervals")


def difference_plots(comparison: Comparison, most: int = MOST_MARKS) -> list[Plot]:
    """A picture for each dataset: a row for each run, with its difference from the baseline and the interval of that.

    Args:
        comparison: a comparison of runs.
        most: how many differences are drawn at most; datasets beyond are left out as a whole.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    groups: dict[tuple[str, str], list[_Mark]] = {}
    for cell in comparison.compared():
        if cell.difference is not None:
            width = "" if cell.half_width is None else f" ±{cell.half_width:.3f}"
            text = f"{cell.difference:+.4f}{width} {cell.verdict.mark}".rstrip()
            mark = _Mark(cell.run, text, cell.difference, cell.low, cell.high)
            groups.setdefault((cell.dataset, cell.metric), []).append(mark)
    return _plots(groups, most, "difference", "Differences from the baseline on {} with 95 % intervals", zero=True)


@dataclass(frozen=True)
class _Mark:
    """A row of a picture."""

    label: str
    text: str
    value: float
    low: float | None
    high: float | None
    hollow: bool = False


def _plots(
    groups: Mapping[tuple[str, str], Sequence[_Mark]], most: int, prefix: str, title: str, *, zero: bool = False
) -> list[Plot]:
    need_matplotlib()
    plots: list[Plot] = []
    for (dataset, metric), rows in groups.items():
        most -= len(rows)
        if most < 0:
            break
        svg = _for_the_page(_draw(rows, zero), f"{prefix}{len(plots)}-", title.format(dataset))
        plots.append(Plot(dataset, metric, svg))
    return plots


def _draw(rows: Sequence[_Mark], zero: bool) -> str:
    """An SVG document."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that matplotlib's font lacks is the browser's to find
        height = _ROW_IN * len(rows) + 0.45
        figure = Figure(figsize=(_WIDTH_IN, height), facecolor="none")
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.02, 0.38 / height, 0.96, 1 - 0.42 / height), facecolor="none")
        _fill(axes, rows, zero)
        file = StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return file.getvalue()


def _fill(axes: Axes, rows: Sequence[_Mark], zero: bool) -> None:
    """Draw names and numbers above, and marks and intervals on, a line for each row, from the top down."""
    y = [float(-number) for number in range(len(rows))]
    low = [mark.value if mark.low is None else mark.low for mark in rows]
    high = [mark.value if mark.high is None else mark.high for mark in rows]
    values = [mark.value for mark in rows]
    left, right = _limits([*low, *high, *values], zero)
    axes.hlines(y, left, right, colors=_LINE, linewidth=0.8, zorder=1)
    axes.hlines(y, low, high, colors=_ACCENT, linewidth=2.4, zorder=2)
    if zero:
        axes.vlines([0.0] * len(y), [at - 0.14 for at in y], [at + 0.14 for at in y], colors=_MUTED, linewidth=1.0)
    fills = [_PAPER if mark.hollow else _ACCENT for mark in rows]
    axes.scatter(values, y, s=34, facecolors=fills, edgecolors=_ACCENT, linewidths=1.5, zorder=3)
    place: dict[str, Any] = {"va": "bottom", "parse_math": False}
    for mark, at in zip(rows, y, strict=True):
        axes.text(left, at + 0.2, shortened(mark.label), ha="left", **place)
        axes.text(right, at + 0.2, mark.text, ha="right", color=_MUTED, **place)
    axes.set_xlim(left, right)
    axes.set_ylim(y[-1] - 0.3, 0.7)  # a row each
    axes.set_yticks([])
    axes.tick_params(axis="x", length=3)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)


def _limits(values: Sequence[float], zero: bool) -> tuple[float, float]:
    """The ends of the axis: 0 and 1 for scores between them; for differences as far to either side of 0."""
    low, high = min(values), max(values)
    if zero:
        far = max(-low, high, 0.01) * 1.05
        return -far, far
    if low >= 0 and high <= 1:
        return -0.01, 1.01
    room = (high - low or abs(high) or 1.0) * 0.05
    return min(low, 0.0) - room, high + room


def value_text(line: ScoreLine) -> str:
    """A score with its interval."""
    if line.value is None:
        return ""
    text = f"{line.value:.3f}{'' if line.complete else marks.INCOMPLETE}"
    if line.low is None or line.high is None:
        return text
    return f"{text} {marks.FEW if line.few_groups else ''}[{line.low:.3f}, {line.high:.3f}]"


def shortened(name: str) -> str:
    """A name that fits above its line: its middle is left out, as both ends of a model's name tell it from others."""
    name = _UNPRINTABLE.sub("\ufffd", name)
    if len(name) <= _LONGEST_LABEL:
        return name
    half = (_LONGEST_LABEL - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _for_the_page(svg: str, prefix: str, title: str) -> str:
    """matplotlib's document as an element of a page: ids of its own, the page's colours and font, no fixed size."""
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rsplit("}", 1)[-1] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.text, element.tail = (text and (text.strip() or None) for text in (element.text, element.tail))
        for name, value in list(element.attrib.items()):
            new = _replaced(name, value, prefix)
            del element.attrib[name]
            if not new.startswith("rotate(-0 "):
                element.attrib[name.removeprefix(_XLINK)] = new
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib.update(
        {"role": "img", "style": "stroke-linejoin: round", "aria-label": _UNPRINTABLE.sub("\ufffd", title)}
    )
    return ElementTree.tostring(root, encoding="unicode")


def _replaced(name: str, value: str, prefix: str) -> str:
    """An attribute's value with the page's ids and colours."""
    if name == "id":
        return prefix + value
    if name in ("d", "x", "y"):
        return re.sub(r"(\.\d\d)\d+", r"\1", value)  # a hundredth of a pixel is enough
    value = re.sub(r"url\(#", f"url(#{prefix}", value)
    if name.endswith("href") and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    for colour, variable in _COLOURS.items():
        value = value.replace(colour, variable)
    if name == "style":
        value = re.sub(r"'[^']*'(, '[^']*')*, sans-serif", "var(--sans)", value)
    return value
