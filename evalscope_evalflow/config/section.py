"""FlowConfig: the `evalflow` section of a task, whichever door it came through.

Stock fields of a TaskConfig keep their stock meaning and are not repeated here; this section adds what
EvalScope lacks: which models to deploy, how, and what to do with results that are there already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_serializer, model_validator
from typing_extensions import Self

from evalscope_evalflow.config.default_backend import known_backends
from evalscope_evalflow.config.keys import Key
from evalscope_evalflow.config.model_name import LONGEST, is_name, name_of
from evalscope_evalflow.config.section_part import SECTIONS, Section
from evalscope_evalflow.config.setting_effects import ACCEPTABLE
from evalscope_evalflow.config.watch_settings import WatchConfig, WatchGate
from evalscope_evalflow.errors import nearest

AUTO: Literal["auto"] = "auto"
REMOTE = "remote"  # the engine that starts nothing: the model is an API that runs elsewhere
_DEVICE = re.compile(r"\d+|(GPU|MIG)-\S+", re.ASCII)
_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
Count = Annotated[int, Field(gt=0)]


class DeployConfig(Section):
    """How a model is served."""

    engine: str = Field(
        AUTO,
        description="vllm, lmdeploy, sglang, llamacpp, remote, or the name of an `evalflow.engines` entry point; "
        "auto: llamacpp for a .gguf file, remote where there is an api_url, else vllm",
    )
    env: str | None = Field(
        None,
        description="conda prefix, venv or uv environment that has the engine; default: this interpreter's",
    )
    env_vars: dict[str, str] = Field(default_factory=dict, description="environment variables for the engine")
    devices: str | None = Field(
        AUTO,
        description='devices that the engine may use, such as "0,1" or [0, 1]; auto: those of the idle ones that it '
        "needs; all: every one of this machine; empty: none, for an engine on CPUs",
    )
    tensor_parallel: Count | Literal["auto"] = Field(
        AUTO, description="devices that share a replica; auto: as few as hold the weights and a sequence's KV cache"
    )
    data_parallel: Count | Literal["auto"] = Field(
        AUTO, description="replicas of the model; auto: on all of `devices`, but 1 while other models wait for them"
    )
    max_model_len: int | None = Field(None, gt=0, description="context length in tokens; default: the model's own")
    max_num_seqs: int | None = Field(None, gt=0, description="sequences served at once, and inference concurrency")
    chat_template: str | None = Field(None, description="chat template, in the form that the engine takes")
    host: str = Field("127.0.0.1", description="address that the engine binds")
    port: int | None = Field(None, ge=1, le=65535, description="port, or the next free one; default: any free one")
    api_key: Key | None = Field(None, description="key that the engine shall ask for; default: a random one")
    extra_args: list[str] = Field(default_factory=list, description="more arguments for the engine, as they are")
    max_restarts: int = Field(2, ge=0, description="times that an engine that dies in mid-run is started again")
    stall_timeout_s: float = Field(
        300,
        gt=0,
        description="seconds without any progress after which a start is given up (log, CPU time), "
        "a working engine is started again (its counters), or an API or judge that does not answer is given up",
    )
    keep_alive_s: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="seconds that an engine is kept after its last use, for the next task in this process that wants "
        "the same one (a list of tasks, a notebook); `evalflow` itself does one task, and keeps none",
    )
    swap: Literal["auto", "never"] = Field(
        AUTO,
        description="auto: models that differ in their weights alone use one engine, one after the other, where the "
        "engine can replace its weights with proof; never: each has an engine of its own",
    )

    @property
    def replicas(self) -> int:
        """Replicas of the model, where nobody has chosen a number for `auto`: one."""
        return 1 if self.data_parallel == AUTO else self.data_parallel

    @field_validator("devices", mode="before")
    @classmethod
    def _join_devices(cls, value: Any) -> Any:
        if value is None:
            return AUTO
        if isinstance(value, int):
            value = str(value)
        if isinstance(value, str) and value.strip().lower() in ("auto", "all"):
            return value.strip().lower()
        if isinstance(value, bytes):  # pydantic would take them for text, unchecked
            raise ValueError("bytes are no devices: give numbers or UUIDs")
        if not isinstance(value, (str, list, tuple)):
            return value
        names = [str(item).strip() for item in (value.split(",") if isinstance(value, str) else value)]
        for name in filter(None, names):
            if not _DEVICE.fullmatch(name):
                raise ValueError(f'{name!r} is no device: give numbers or UUIDs (GPU-…, MIG-…), such as "0,1"')
        return ",".join(filter(None, names))

    @field_validator("extra_args", mode="before")
    @classmethod
    def _strings(cls, value: Any) -> Any:
        return [str(item) for item in value] if isinstance(value, (list, tuple)) else value

    @field_validator("env_vars", mode="before")
    @classmethod
    def _string_values(cls, value: Any) -> Any:
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else value

    @field_validator("env", "chat_template", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return None if value is None else str(value)


class ModelConfig(Section):
    """One model to evaluate: a checkpoint to deploy (`path`), or an API to use (`api_url`)."""

    name: str = Field(
        min_length=1,
        description="name in results, and the one that is requested from the engine; default: the last part of "
        "`adapter`, or of `path`",
    )
    path: str | None = Field(
        None, description="checkpoint folder, or .gguf file; a pattern (*, ?, […]): one model a match"
    )
    adapter: str | None = Field(
        None,
        description="LoRA adapter of the checkpoint at `path`: the folder with adapter_config.json, or for llamacpp a "
        ".gguf file; a pattern: one model a match. Adapters of one base share an engine",
    )
    pattern: str | None = Field(None, description="the pattern that matched `path` or `adapter`; set by EvalFlow")
    adapters: dict[str, str] = Field(
        default_factory=dict, description="adapters that the model's engine serves, by their names; set by EvalFlow"
    )
    base_name: str | None = Field(
        None, description="name under which an engine with adapters serves their base; set by EvalFlow"
    )
    api_url: str | None = Field(None, description="base URL of an OpenAI-compatible API (remote)")
    api_key: Key | None = Field(None, description="key of that API")
    model_id: str | None = Field(None, min_length=1, description="name that the API knows it by; default: `name`")
    generation_config: dict[str, Any] = Field(
        default_factory=dict, description="settings that differ from the stock `generation_config`"
    )
    deploy: dict[str, Any] = Field(default_factory=dict, description="settings that differ from the common `deploy`")

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_path(cls, data: Any) -> Any:
        data = {"path": str(data)} if isinstance(data, (str, Path)) else data
        named = isinstance(data, Mapping) and not data.get("name") and (data.get("adapter") or data.get("path"))
        return {**data, "name": name_of(str(named))} if named else data

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not is_name(value):
            shown = repr(value) if len(value) < LONGEST else f"{value[:40]!r}… ({len(value)} characters)"
            more = ", and may go nowhere else; `model_id` is what an API knows it by" if "/" in value else ""
            raise ValueError(f"{shown} is no name for a model: results are filed under it{more}")
        return value

    @property
    def served_name(self) -> str:
        """The name that requests give: the API's, or the one that the engine serves it under."""
        return self.model_id or self.name

    @property
    def served_adapters(self) -> dict[str, str]:
        """The adapters that its engine serves, by their names: the model's own, where no other shares the engine."""
        return self.adapters or ({self.name: self.adapter} if self.adapter else {})

    @property
    def engine_name(self) -> str:
        """The name under which its engine serves the checkpoint itself: with adapters, that of their base."""
        if not self.served_adapters or (self.adapter is None and self.base_name is None):
            return self.name
        if self.base_name:
            return self.base_name
        found = name_of(self.path or "base")
        while found in self.served_adapters:
            found += "-base"
        return found

    @model_validator(mode="after")
    def _adapter_of_a_checkpoint(self) -> Self:
        if self.adapter and self.api_url:
            raise ValueError("adapter is for a checkpoint that is deployed (path), not for an API (api_url)")
        return self

    @model_validator(mode="after")
    def _model_id_of_an_api(self) -> Self:
        if self.model_id and not self.api_url:
            raise ValueError("model_id is the name at an API (api_url); an engine serves a checkpoint as `name`")
        return self

    @field_validator("path", "adapter", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return None if value is None else str(value)

    @field_validator("deploy", mode="before")
    @classmethod
    def _check_deploy(cls, value: Any) -> Any:
        if not isinstance(value, (Mapping, DeployConfig)):
            return value
        return DeployConfig.model_validate(value).to_section()


class Reuse(Section):
    """How saved answers are reused: `reuse: {accept: [extra_args]}`."""

    accept: list[str] = Field(
        default_factory=list, description="settings that may be others than those of the saved answers"
    )


class PluginChoice(Section):
    """A plug-in by its name, with options of its own: `NAME`, or `{name: NAME, OPTION: …}`."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _by_its_name(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        return {"name": self.name, **self.options} if self.options else self.name

    @property
    def options(self) -> dict[str, Any]:
        """What is given beside the name; the plug-in knows what it means."""
        return dict(self.model_extra or {})


class BudgetConfig(Section):
    """The most that may be bought for each model, all runs of its folder together."""

    tokens: int | None = Field(
        None, gt=0, description="tokens of the model's answers, prompts included, as its API counts them"
    )
    judge_requests: int | None = Field(None, ge=0, description="requests to the judge")


class FlowConfig(Section):
    """The `evalflow` section of a task."""

    backend: str = Field(
        AUTO,
        description="what evaluates: Native (EvalScope's own), VLMEvalKit, or the name of an `evalflow.backends` entry "
        "point; auto: the one that has the datasets",
    )
    mode: Literal["all", "infer", "judge"] = Field(
        "all", description="all; infer: save answers, and stop; judge: judge those that are saved"
    )
    worker_env: str | None = Field(
        None, description="environment with EvalScope that runs the task; default: this interpreter's"
    )
    reuse: bool | Reuse = Field(
        True,
        description="resume what work_dir holds; false: archive that and start again; {accept: [extra_args]}: resume "
        "it although these settings were others when its answers were made, which is noted beside the scores",
    )
    models: list[ModelConfig] = Field(default_factory=list, description="the models; or the stock `model`, for one")
    on_incomplete: Literal["skip", "refuse"] = Field(
        "skip",
        description="matches of a pattern that are no whole checkpoints, such as one that is being written: skip: the "
        "others are evaluated, and the exit code is 3; refuse: nothing is started",
    )
    deploy: DeployConfig = Field(default=DeployConfig(), description="how they are served")
    judge: ModelConfig | None = Field(None, description="a judge to deploy for all models: {path, name, deploy: {…}}")
    judge_max_num_seqs: int = Field(200, gt=0, description="answers that are judged at once")
    budget: BudgetConfig | None = Field(
        None,
        description="hard caps for each model, kept across reruns: {tokens: 2000000, judge_requests: 5000}; when one "
        "is reached nothing more is asked, what there is is kept, and the exit code is 3",
    )
    executor: PluginChoice = Field(
        "local",
        validate_default=True,
        description="what runs the models: local: this machine; inline: here, one after the other; slurm, ray: a "
        "cluster; or a plug-in; with options: {name: local, max_models: 2}",
    )
    exporters: list[PluginChoice] = Field(
        default_factory=list,
        description="how results are exported at the end, beside the reports: csv, jsonl, parquet, mlflow, wandb, or a "
        "plug-in; with options: [{name: NAME, …}]",
    )
    watch: WatchConfig | None = Field(
        None, description="how `evalflow watch` takes checkpoints while training writes them: {quiet_s: 60, …}"
    )
    verify_md5: bool = Field(True, description="take only the published files under the names of VLMEvalKit's datasets")
    verbose: bool = Field(False, description="show what EvalScope prints; it is in worker.log all the same")
    dry_run: bool = Field(False, description="check and print the plan, start nothing")

    @field_validator("mode", mode="before")
    @classmethod
    def _eval_means_judge(cls, value: Any) -> Any:
        return "judge" if value == "eval" else value  # VLMEvalKit's word

    @field_validator("exporters", mode="before")
    @classmethod
    def _one_exporter(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, Mapping)) else value

    @field_validator("backend", mode="before")
    @classmethod
    def _known_in_any_case(cls, value: Any) -> Any:
        known = [AUTO, *known_backends()]
        name = {name.lower(): name for name in known}.get(str(value).lower())
        if name is None:
            raise ValueError(f"unknown backend {value!r}. {nearest(str(value), known)} Known: {', '.join(known)}")
        return name

    @field_validator("reuse", mode="before")
    @classmethod
    def _known_to_accept(cls, value: Any) -> Any:
        if isinstance(value, (bool, Reuse)):
            return value
        if isinstance(value, str) and value.strip().lower() in _SWITCHES:
            return _SWITCHES[value.strip().lower()]
        names = value.get("accept") if isinstance(value, Mapping) and set(value) == {"accept"} else None
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, (list, tuple)):
            raise ValueError("is neither true, nor false, nor {accept: [NAME, …]}")
        for name in map(str, names):
            plain = name.removeprefix("deploy.").partition(".")[0]
            if plain not in ACCEPTABLE:
                what = f"there is no {name!r} to accept. {nearest(plain, ACCEPTABLE)}"
                raise ValueError(f"{what} Known: {', '.join(ACCEPTABLE)}")
        return Reuse(accept=[str(name) for name in names])

    @property
    def accepted(self) -> tuple[str, ...]:
        """Settings that may be others than those of the saved answers."""
        return () if isinstance(self.reuse, bool) else tuple(self.reuse.accept)

    @property
    def caps(self) -> BudgetConfig:
        """The budget; without limits where none is set."""
        return self.budget or BudgetConfig()

    def deploy_for(self, model: ModelConfig) -> DeployConfig:
        """The common `deploy`, with what this model sets for itself on top."""
        return self.deploy.model_copy(update=DeployConfig.model_validate(model.deploy).model_dump(exclude_unset=True))


SECTIONS.update(models=ModelConfig, judge=ModelConfig, deploy=DeployConfig, watch=WatchConfig, gate=WatchGate)
