"""Executors by name: ours and those of other packages, from the entry-point group `evalflow.executors`."""

from __future__ import annotations

from evalscope_evalflow.config import PluginChoice
from evalscope_evalflow.config.plugin_options import PluginOptions, load_with_options
from evalscope_evalflow.sweep.executors.base import INTERFACE_VERSION, Executor

__all__ = ["GROUP", "INTERFACE_VERSION", "Executor", "PluginOptions", "load_executor"]

GROUP = "evalflow.executors"


def load_executor(choice: PluginChoice) -> tuple[type[Executor], PluginOptions]:
    """The executor that the section chooses, and its options.

    Raises:
        ConfigError: there is none of this name, its package is broken or of another version, or an option is wrong.
    """
    return load_with_options(
        GROUP, choice, what="executor", where="evalflow.executor", interface_version=INTERFACE_VERSION
    )
