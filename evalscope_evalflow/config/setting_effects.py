"""What each setting changes: answers, scoring alone, or neither. Every setting of every door is in the table.

A flag has the effect of the setting that it stands for (`config/flag_hints.py`, `cli/flags.py`), and what an engine's
options and environment variables change is declared by the engine (`engines/options/text_effects.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Effect(Enum):
    """What another value of a setting means for what a run folder holds. The value is how the docs put it."""

    ANSWERS = "answers"
    SCORING = "scoring"
    RECORDED = "recorded"
    NEITHER = "neither"
    PARTS = "see its parts"
    REFUSED = "refused"


MEANINGS = {
    Effect.ANSWERS: "saved answers are reused only where it is the same, or the difference is accepted",
    Effect.SCORING: "saved answers stand; they are scored or judged anew",
    Effect.RECORDED: "no obstacle; written down with the answers, and shown where it differs between them",
    Effect.NEITHER: "no difference",
    Effect.PARTS: "holds settings that have lines of their own",
    Effect.REFUSED: "cannot be set beside `evalflow`",
}


@dataclass(frozen=True)
class Setting:
    """A line of the table.

    Attributes:
        effect: what another value means.
        default: the value that counts as if nothing were set; None: there is none but that.
        note: what of it counts, where that does not go without saying.
    """

    effect: Effect
    default: Any = None
    note: str = ""


def _all(effect: Effect, names: str) -> dict[str, Setting]:
    return {name: Setting(effect) for name in names.split()}


_A, _S, _R, _N, _P = Effect.ANSWERS, Effect.SCORING, Effect.RECORDED, Effect.NEITHER, Effect.PARTS

# Fields of EvalScope's TaskConfig. Defaults are EvalScope's.
STOCK: Mapping[str, Setting] = {
    "model": Setting(_A, note="the content of a checkpoint's files, not where they are; the name of an API's model"),
    "model_id": Setting(_A, note="the name that results are filed under"),
    "model_args": Setting(_A, default={}),
    "model_task": Setting(_A, default="text_generation"),
    "chat_template": Setting(Effect.REFUSED, note="`deploy.chat_template` is the engine's"),
    "datasets": Setting(_N, note="each dataset is resumed by itself"),
    "dataset_args": Setting(_P),
    "dataset_dir": Setting(_A, note="as an absolute path"),
    "dataset_hub": Setting(_A, default="modelscope"),
    "repeats": Setting(_A, default=1, note="chooses rows: the saved answers count"),
    "generation_config": Setting(_P),
    "eval_type": Setting(Effect.REFUSED, note="all but `openai_api` and its old name `server`"),
    "eval_backend": Setting(_A, note="which of Native and VLMEvalKit"),
    "eval_config": Setting(_P, note="the section, under another name"),
    "limit": Setting(_A, note="chooses rows: the saved answers count"),
    "eval_batch_size": Setting(_R),
    "use_cache": Setting(Effect.REFUSED, note="`reuse` says it"),
    "rerun_review": Setting(Effect.REFUSED, note="`reuse` says it"),
    "work_dir": Setting(_N, note="where results are looked for"),
    "seed": Setting(_A, default=42),
    "api_url": Setting(_A, note="of a model that is an API: without user info and query"),
    "api_key": Setting(_N),
    "judge": Setting(_P),
    "judge_strategy": Setting(_S, default="auto"),
    "judge_model_args": Setting(_P, note="old form of `judge`"),
    "sandbox": Setting(_P),
    "use_sandbox": Setting(_A, default=False, note="old form of `sandbox.enabled`"),
    "sandbox_type": Setting(_A, default="docker", note="old form of `sandbox.engine`"),
    "sandbox_manager_config": Setting(_A, default={}, note="old form of `sandbox.manager_config`"),
    "agent_config": Setting(_A),
    **_all(
        _N,
        "no_timestamp enable_progress_tracker ignore_errors debug dry_run timeout stream analysis_report collect_perf "
        "evalscope_version",
    ),
}

# Keys of `generation_config`.
GENERATION: Mapping[str, Setting] = {
    **_all(
        _A,
        "max_tokens top_p temperature stop_seqs frequency_penalty presence_penalty repetition_penalty logit_bias seed "
        "do_sample top_k logprobs top_logprobs parallel_tool_calls reasoning_effort reasoning_tokens "
        "reasoning_summary reasoning_history response_schema extra_body extra_query height width "
        "num_inference_steps guidance_scale",
    ),
    "n": Setting(_A, default=1, note="old form of `repeats`"),
    "extra_headers": Setting(_A, note="but for those that hold a key"),
    **_all(
        _N, "timeout retries retry_interval batch_size stream anthropic_cache_control anthropic_cache_strategy"
    ),
}  # fmt: skip

# Keys of `dataset_args.NAME`. A benchmark's own default counts as if nothing were set.
DATASET: Mapping[str, Setting] = {
    "local_path": Setting(_A, note="the content of the files, not where they are"),
    **_all(
        _A,
        "name dataset_id data_adapter output_types subset_list default_subset few_shot_num few_shot_mode "
        "allowed_few_shot_nums few_shot_random train_split eval_split prompt_template few_shot_prompt_template "
        "system_prompt supports_choice choice_instructions query_template shuffle shuffle_choices extra_params "
        "sandbox_config max_image_bytes evaluation_version dataset_revision hf_dataset_id hf_dataset_revision",
    ),
    **_all(_S, "filters metric_list aggregation primary_metric"),
    **_all(
        _N,
        "pretty_name description paper_url data_statistics sample_example tags force_redownload review_timeout",
    ),
}

# Keys of `judge`, of each of its `models`, and of its `contract`.
JUDGE: Mapping[str, Setting] = {
    "strategy": Setting(_S, default="auto"),
    "models": Setting(_P),
    "contract": Setting(_P),
    "repeats": Setting(_S, default=1),
    "position_swap": Setting(_S, default="auto"),
    "aggregation": Setting(_S, default="mean"),
    "min_valid_judges": Setting(_S, default=1),
}
JUDGE_MODEL: Mapping[str, Setting] = {
    "model_id": Setting(_S),
    "judge_id": Setting(_S, note="its default is `model_id`"),
    "eval_type": Setting(_S, default="openai_api"),
    "model_args": Setting(_S, default={}),
    "generation_config": Setting(_S, default={}, note="as `generation_config` of the task"),
    "api_url": Setting(_N, note="the same judge may be served elsewhere"),
    "api_key": Setting(_N),
}
JUDGE_CONTRACT: Mapping[str, Setting] = {
    "system_prompt": Setting(_S),
    "prompt_template": Setting(_S),
    "score_mapping": Setting(_S),
    "score_type": Setting(_S, default="pattern"),
}
SANDBOX: Mapping[str, Setting] = {
    "enabled": Setting(_A, default=False),
    "engine": Setting(_A, default="docker"),
    "default_config": Setting(_A, default={}),
    "manager_config": Setting(_A, default={}),
    "pool_size": Setting(_N),
}

# Keys of the section, of each of its `models`, and of `deploy`. Defaults are in config/section.py.
SECTION: Mapping[str, Setting] = {
    "backend": Setting(_A, note="which of Native and VLMEvalKit"),
    "mode": Setting(_N),
    "worker_env": Setting(_N, note="its EvalScope's versions of the benchmarks count"),
    "reuse": Setting(_N),
    "models": Setting(_P),
    "deploy": Setting(_P),
    "judge": Setting(_P),
    "watch": Setting(_P),
    "verify_md5": Setting(_A, note="by the data's content"),
    **_all(_N, "judge_max_num_seqs budget executor exporters dry_run verbose on_incomplete"),
}
MODEL: Mapping[str, Setting] = {
    "name": Setting(_A, note="of a model that is deployed; an API's, where there is no `model_id`"),
    "path": Setting(_A, note="the content of the checkpoint's files, not where they are"),
    "api_url": Setting(_A, note="without user info and query"),
    "api_key": Setting(_N),
    "model_id": Setting(_A, note="the name that the API knows it by"),
    "generation_config": Setting(_P),
    "adapter": Setting(_A, note="the content of its files, not where they are"),
    **_all(_N, "pattern adapters base_name"),
    "deploy": Setting(_P),
}
OWN_JUDGE: Mapping[str, Setting] = {
    "name": Setting(_S),
    "path": Setting(_S, note="the content of the checkpoint's files, not where they are"),
    "generation_config": Setting(_S, note="as `generation_config` of the task"),
    "deploy": Setting(_S, note="what of it changes a model's answers changes verdicts"),
    "adapter": Setting(_S, note="the content of its files, not where they are"),
    **_all(Effect.REFUSED, "api_url api_key model_id"),
    **_all(_N, "pattern adapters base_name"),
}
DEPLOY: Mapping[str, Setting] = {
    "engine": Setting(_A, note="which one; its version is recorded"),
    "env": Setting(_R, note="the engine's version in it"),
    "env_vars": Setting(_A, note="but for those that the engine declares to have no effect on text"),
    "devices": Setting(_R, note="their type"),
    "tensor_parallel": Setting(_R),
    "data_parallel": Setting(_R),
    "max_model_len": Setting(_A, note="the model's own, where nothing is set"),
    "max_num_seqs": Setting(_R),
    "chat_template": Setting(_A, note="by its content"),
    "extra_args": Setting(
        _A, note="but for those that the engine declares to have no effect on text; files by their content"
    ),
    **_all(_N, "host port api_key max_restarts stall_timeout_s keep_alive_s swap"),
}

REUSE: Mapping[str, Setting] = {"accept": Setting(_N, note="what it names is noted beside the scores")}

# When checkpoints are taken, and when training is stopped.
WATCH: Mapping[str, Setting] = {
    **_all(_N, "marker quiet_s poll_s order every until idle_timeout_s round_size late_s"),
    "gate": Setting(_P),
}
WATCH_GATE: Mapping[str, Setting] = _all(_N, "baseline command policy level timeout_s")

# By the place where they are written.
TABLE: Mapping[str, Mapping[str, Setting]] = {
    "": STOCK,
    "generation_config": GENERATION,
    "dataset_args.NAME": DATASET,
    "judge": JUDGE,
    "judge.models[]": JUDGE_MODEL,
    "judge.contract": JUDGE_CONTRACT,
    "sandbox": SANDBOX,
    "evalflow": SECTION,
    "evalflow.reuse": REUSE,
    "evalflow.models[]": MODEL,
    "evalflow.judge": OWN_JUDGE,
    "evalflow.deploy": DEPLOY,
    "evalflow.watch": WATCH,
    "evalflow.watch.gate": WATCH_GATE,
}

# What `reuse: {accept: […]}` may name: settings that change answers, as a refusal names them.
ACCEPTABLE = (
    *("model", "engine", "checkpoint", "adapter", "extra_args", "env_vars", "max_model_len", "chat_template"),
    *("api_url", "generation_config", "dataset_args", "limit", "repeats", "seed", "model_args", "model_task"),
    *("dataset_hub", "dataset_dir", "agent_config", "sandbox"),
)


def settings_with(effect: Effect, settings: Mapping[str, Setting]) -> list[str]:
    """The names of those that have an effect."""
    return [name for name, setting in settings.items() if setting.effect is effect]


def without_defaults(values: Mapping[str, Any], settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The values that say something: those that are not set, or set to their default, are left out.

    Args:
        values: settings, by name.
        settings: their lines of the table; others are kept.
    """
    found = {}
    for name, value in values.items():
        default = settings[name].default if name in settings else None
        if value not in (None, {}, []) and value != default:
            found[name] = value
    return found


def effect_of(place: str) -> Effect:
    """What a setting changes, by its place in a task file, such as `evalflow.models[].path`.

    Raises:
        KeyError: it is in no line.
    """
    home, _, name = place.rpartition(".")
    return TABLE[home][name].effect
