"""What a user asks for: the `evalflow` section, the task, model patterns, keys, and what EvalScope knows.

The names of the section are loaded when they are first used: its schema takes a quarter of a second to build, and
commands that read no task do without.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalscope_evalflow.config.section import (
        AUTO,
        REMOTE,
        Count,
        DeployConfig,
        FlowConfig,
        ModelConfig,
        PluginChoice,
    )
    from evalscope_evalflow.config.section_part import Section

__all__ = ["AUTO", "REMOTE", "Count", "DeployConfig", "FlowConfig", "ModelConfig", "PluginChoice", "Section"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from evalscope_evalflow.config import section

    return getattr(section, name)
