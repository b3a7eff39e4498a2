"""Plug-ins that the section chooses by name and gives options of their own: executors and result exporters."""

from __future__ import annotations

from typing import Any

from evalscope_evalflow.config import plugins
from evalscope_evalflow.config.section import PluginChoice
from evalscope_evalflow.config.section_part import Section
from evalscope_evalflow.errors import ConfigError, Problem


class PluginOptions(Section):
    """Options of a plug-in in the section: a subclass has a typed field for each, `Field(default, description="…")`."""


def load_with_options(
    group: str, choice: PluginChoice, *, what: str, where: str, interface_version: int
) -> tuple[Any, PluginOptions]:
    """The class that a plug-in's entry point names, and its options, validated by the class's own `Options`.

    Args:
        group: the group of entry points.
        choice: name and options, from the section.
        what: the kind of plug-in, for messages.
        where: the setting that chooses it, for messages.
        interface_version: the version of the interface that this EvalFlow offers.

    Raises:
        ConfigError: there is no such plug-in, it was written for another version, or an option is wrong; an unknown
            option is reported with the names of all that there are.
    """
    plugin = plugins.load(group, choice.name, what=what, where=where, interface_version=interface_version)
    known: type[PluginOptions] = plugin.Options
    if choice.options and not known.model_fields:
        given = ", ".join(choice.options)
        raise ConfigError(Problem(where, f"{what} {choice.name!r} has no options, and is given {given}"))
    return plugin, known.parse(choice.options, where)
