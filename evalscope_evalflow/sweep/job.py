"""One model of a task as a job: it is pickled as it is and runs in any process, given the files that it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.results.outcome import ModelResult
from evalscope_evalflow.run import model_run
from evalscope_evalflow.run.control import Control
from evalscope_evalflow.sweep.device_needs import Offer, devices_needed
from evalscope_evalflow.sweep.engine_groups import ALONE, Group
from evalscope_evalflow.sweep.size import Size


@dataclass(frozen=True)
class Job:
    """One model of a task.

    Attributes:
        task: the task, with this model alone.
        size: how much of it is left to do.
        phases: what is left to do: `infer`, `judge`, both or nothing.
        group: the models that can use one engine one after the other, on the same devices.
        asks_own_judge: whether it is judged by the judge that the sweep deploys (`judge` in the section).
    """

    task: Task
    size: Size
    phases: tuple[str, ...] = ("infer", "judge")
    group: Group = ALONE
    asks_own_judge: bool = False

    @property
    def model(self) -> ModelConfig:
        """The model."""
        return self.task.models[0]

    @property
    def deploy(self) -> DeployConfig:
        """How the model is served."""
        return self.task.flow.deploy_for(self.model)

    @property
    def asks_model(self) -> bool:
        """Whether the model is asked anything; else it is only judged, or nothing is left to do."""
        return "infer" in self.phases

    def needs(self, offer: Offer) -> int:
        """How many of the offered devices it takes; 0: none, as for an API, or where answers are only judged.

        Args:
            offer: what the executor can give one job.

        Raises:
            ConfigError: it does not fit what is offered.
        """
        return devices_needed(self.model, self.deploy, offer) if self.asks_model else 0

    def run(self, reporter: Reporter | None = None, control: Control | None = None) -> ModelResult:
        """Run it, in this thread.

        Args:
            reporter: reports to the user; default: nothing is reported.
            control: lets the executor end it, and tells the executor of its devices and of its judging; default: it
                runs for itself.

        Raises:
            EvalFlowError: it could not be finished.
        """
        return model_run.run_model(self.task, self.model, reporter, control)

    def with_deploy(self, **deploy: Any) -> Job:
        """The same job with these settings of `deploy`, such as `devices="0,1"`."""
        return dataclasses.replace(self, task=single_model_task(self.task, self.model, deploy))

    def with_judge_limit(self, verdicts: int) -> Job:
        """The same job, asking the judge for no more than so many verdicts at once."""
        flow = self.task.flow.model_copy(update={"judge_max_num_seqs": verdicts})
        size = dataclasses.replace(self.size, verdicts_at_once=verdicts)
        return dataclasses.replace(self, task=dataclasses.replace(self.task, flow=flow), size=size)


def single_model_task(task: Task, model: ModelConfig, deploy: Mapping[str, Any] | None = None) -> Task:
    """A task with one of its models alone.

    Args:
        task: the task.
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
