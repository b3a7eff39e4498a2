"""Prints a report's data as one HTML document, with style sheet and script in it."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

from evalscope_evalflow.results import marks
from evalscope_evalflow.results.html.page_data import Page
from evalscope_evalflow.results.html.sample_choice import shorten
from evalscope_evalflow.results.html.score_plot import difference_plots

if TYPE_CHECKING:
    from jinja2 import Environment

    from evalscope_evalflow.results.comparison.comparison_data import Comparison

MOST_FLIPS = 100
_PACKAGE = "evalscope_evalflow.results.html"
# What HTML does not allow, and what UTF-8 cannot hold.
_UNENCODABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def render(page: Page, comparison: Comparison | None = None) -> str:
    """The page as HTML.

    Args:
        page: what to show.
        comparison: a comparison of the runs; None: there is none.

    Returns:
        A whole document, which can be written in UTF-8. Every text in it is escaped.
    """
    from markupsafe import Markup

    script = _template_text("report.js")
    flips = comparison.flips[:MOST_FLIPS] if comparison else ()
    text = (
        _environment()
        .get_template("report.html.j2")
        .render(
            page=page,
            comparison=comparison,
            difference_plots=difference_plots(comparison) if comparison else [],
            flips=flips,
            flips_left_out=comparison is not None and comparison.flips_in_all > len(flips),
            style=Markup(_template_text("report.css")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )
    return _UNENCODABLE.sub("\ufffd", text)


def _template_text(name: str) -> str:
    """A file beside the templates, as it is."""
    return (files(_PACKAGE) / "templates" / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    """The template engine: it escapes whatever is not said to be safe, and refuses what it does not know."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shorten"] = shorten
    environment.globals["marks"] = marks
    return environment
