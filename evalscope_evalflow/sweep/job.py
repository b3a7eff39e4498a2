"""One model's part of a task, as something that can be done anywhere: it is pickled as it is, and needs nothing else
but the files that it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.devices.claims import Claim
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.run import model_run as flow
from evalscope_evalflow.run.control import Control
from evalscope_evalflow.sweep.size import Size


@dataclass(frozen=True)
class Job:
    """One model's part of a task.

    Attributes:
        task: the task, with this model alone.
        size: how much of it is left to do.
        claim: the devices that it may be given, and how many of them it takes.
        serves: whether it asks the model; else it only judges, or there is nothing left to do.
    """

    task: Task
    size: Size
    claim: Claim
    serves: bool = True

    @property
    def model(self) -> ModelConfig:
        """The model."""
        return self.task.models[0]

    def run(self, reporter: Reporter | None = None, control: Control | None = None) -> ModelResult:
        """Do it, here and now.

        Args:
            reporter: who says what happens; default: nobody.
            control: whoever runs it; default: nobody has a say.

        Raises:
            EvalFlowError: it could not be finished.
        """
        return flow.run_model(self.task, self.model, reporter, control)

    def served(self, **deploy: Any) -> Job:
        """The same, with these settings of `deploy`."""
        return dataclasses.replace(self, task=alone(self.task, self.model, deploy))


def alone(task: Task, model: ModelConfig, deploy: Mapping[str, Any] | None = None) -> Task:
    """A task with one of its models alone.

    Args:
        task: it.
        model: one of its models.
        deploy: settings of `deploy` that replace the model's.
    """
    if deploy:
        model = model.model_copy(update={"deploy": {**model.deploy, **deploy}})
    flow_config = task.flow
    if task.multi_model:
        flow_config = flow_config.model_copy(update={"models": [model]})
    elif deploy:
        flow_config = flow_config.model_copy(update={"deploy": flow_config.deploy.model_copy(update=dict(deploy))})
    return dataclasses.replace(task, flow=flow_config, models=(model,))
