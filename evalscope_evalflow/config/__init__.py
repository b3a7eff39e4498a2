"""What a user asks for: the `evalflow` section, the task, model patterns, keys, and what EvalScope knows."""

from evalscope_evalflow.config.section import (
    AUTO,
    REMOTE,
    Count,
    DeployConfig,
    FlowConfig,
    ModelConfig,
    PluginChoice,
    Section,
)

__all__ = ["AUTO", "REMOTE", "Count", "DeployConfig", "FlowConfig", "ModelConfig", "PluginChoice", "Section"]
