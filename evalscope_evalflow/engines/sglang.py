"""SGLang's OpenAI-compatible server, from any environment that has it. By its source and its parser (0.5.23); it
has served on an H100 (0.5.17)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import ClassVar

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.engines.adapters import check_adapters
from evalscope_evalflow.engines.base import (
    HONOURABLE,
    KEY_VARIABLE,
    Address,
    Command,
    Counters,
    Engine,
    LogPattern,
    ParserSource,
    holds_json,
    parallel,
    shown_template,
)
from evalscope_evalflow.engines.checkpoints import checkpoint_folder as checkpoint
from evalscope_evalflow.engines.checkpoints.memory import Memory, Options, float_bytes, kv_bytes
from evalscope_evalflow.engines.checkpoints.tokenizer_check import check_tokenizer
from evalscope_evalflow.engines.launchers import ImportsAhead, key_launcher
from evalscope_evalflow.engines.log_patterns import NO_DEVICE, PORT_TAKEN, REJECTED, WHERE_IS_IT
from evalscope_evalflow.engines.options import text_effects
from evalscope_evalflow.errors import Problem

PROGRAM = "sglang.launch_server"
LONGER_CONTEXT = "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"


class SGLang(Engine):
    """`python -m sglang.launch_server`."""

    name = "sglang"
    imports_ahead = ImportsAhead(
        ("sglang.srt.entrypoints.http_server", "sglang.srt.server_args"),
        ("sglang.srt.managers.scheduler", "sglang.srt.managers.detokenizer_manager"),
    )
    modules = ("sglang",)
    distribution = "sglang"
    checked_versions = ("0.5", "0.5")  # served: 0.5.17 on an H100; 0.5.23 by its source and its parser
    install = "pip install sglang, in an environment of its own"
    honours = frozenset(HONOURABLE)
    needs_gpu = True
    replicates = "any"
    # Tokens in use move with every step; the others are written at the intervals of its log.
    counters = Counters(
        in_flight=("sglang:num_running_reqs", "sglang:num_queue_reqs"),
        progress=(
            "sglang:num_used_tokens",
            "sglang:realtime_tokens_total",
            "sglang:generation_tokens_total",
            "sglang:prompt_tokens_total",
        ),
    )
    parser = ParserSource(PROGRAM)
    reserved_options: ClassVar[Mapping[str, str]] = {
        "--model-path": "the model's `path`",
        "--served-model-name": "the model's `name`",
        "--host": "deploy.host",
        "--port": "deploy.port",
        "--context-length": "deploy.max_model_len",
        "--max-running-requests": "deploy.max_num_seqs",
        "--tp-size": "deploy.tensor_parallel",
        "--dp-size": "deploy.data_parallel",
        "--chat-template": "deploy.chat_template",
        "--api-key": "deploy.api_key",
    }
    reserved_variables: ClassVar[Mapping[str, str]] = {KEY_VARIABLE: "deploy.api_key"}
    neutral_options = text_effects.SGLANG_OPTIONS
    parallel_options = text_effects.SGLANG_PARALLEL
    neutral_variables = text_effects.SGLANG_VARIABLES
    variable_prefixes = ("SGLANG_*", "SGL_*")
    log_routine = r"(?:\[[^\]]+\] )?(?:INFO|WARNING):|\[[^\]]+\] (?:server_args=|Ignore import error )"
    log_patterns = (
        LogPattern(
            REJECTED,
            "SGLang rejects an argument: {0}",
            "Compare it with `python -m sglang.launch_server --help` of that environment.",
        ),
        LogPattern(
            r"(Chat template .+? is not a built-in template name\b.*)",
            "SGLang cannot read the chat template: {0}",
            "Give a .jinja file, a JSON file, or one of SGLang's own names.",
        ),
        *WHERE_IS_IT,
        LogPattern(
            r"((?:User-specified|Target model's) context_length \(\d+\) is greater than the derived \S+ \(.+?\))",
            "the context is too long for this model: {0}",
            "Lower max_model_len (--eval_max_model_length).",
        ),
        LogPattern(
            r"(Not enough memory\. Please try to increase --mem-fraction-static.*)",
            "there is not enough memory for the KV cache: {0}",
            "Raise tensor_parallel, or --mem-fraction-static in extra_args.",
            device_memory=True,
        ),
        LogPattern(
            r"OutOfMemoryError: (.+)",
            "the device ran out of memory: {0}",
            "Lower --mem-fraction-static (extra_args) or max_num_seqs, or raise tensor_parallel.",
            device_memory=True,
        ),
        PORT_TAKEN,
        LogPattern(
            r"(assert self\.total_num_(?:kv_)?heads % tp_size == 0|AssertionError: \d+ is not divisible by \d+"
            r"|\S+ (?:\(\d+\) )?must be divisible by (?:moe_)?tp_size.*)",
            "tensor_parallel does not fit: {0}",
            "Choose a tensor_parallel that divides the attention heads.",
        ),
        LogPattern(
            r"(No accelerator \(.+?\).*is available)",
            "SGLang finds no device that it can use: {0}",
            "Check the driver and `devices`; without a GPU, use vllm's CPU build or llamacpp.",
        ),
        NO_DEVICE,
        LogPattern(
            r"((?:ModuleNotFoundError|ImportError): .+)",
            "the engine's environment is broken: {0}",
            "Repair that environment.",
        ),
    )

    def check(self, model: ModelConfig, deploy: DeployConfig) -> Iterable[Problem]:
        yield from checkpoint.check(model.path, f"model {model.name}")
        yield from check_tokenizer(model, deploy, unless=("--tokenizer-path", "--skip-tokenizer-init"))
        yield from check_adapters(model, deploy, "--lora-paths")
        if LONGER_CONTEXT not in deploy.env_vars:
            yield from checkpoint.check_context(model, deploy, unless=("--json-model-override-args",))
        yield from _check_template(deploy.chat_template)
        if ":" in model.name:
            yield Problem(
                f"model {model.name}",
                "SGLang takes what stands behind a colon for the name of an adapter",
                "Give it a name without a colon.",
            )

    def memory(self, deploy: DeployConfig) -> Memory:
        given = Options(
            deploy.extra_args,
            {"--mem-fraction-static": float, "--kv-cache-dtype": str, "--dtype": str, "--pp-size": int},
        )
        size = float_bytes(given.get("--dtype", None))
        return Memory(
            # Its own default goes by the device: 0.87 on one of 80 GiB, somewhat less on small ones.
            share=given.get("--mem-fraction-static", 0.85),
            option="--mem-fraction-static",
            reserve_bytes=0,  # that share is for weights and KV cache alone
            kv_bytes=kv_bytes(given.get("--kv-cache-dtype", None), size),
            float_bytes=size,
            pipeline=max(1, given.get("--pp-size", 1)),
        )

    def command(self, model: ModelConfig, deploy: DeployConfig, address: Address, env: Environment) -> Command:
        assert model.path is not None
        argv = [
            *key_launcher(env, "api-key", PROGRAM),
            "--model-path", model.path, "--served-model-name", model.name,
            "--host", address.host, "--port", str(address.port),
            # Sampling defaults from the checkpoint's folder would change results behind the user's back.
            "--sampling-defaults", "openai",
            "--max-running-requests", str(self.max_num_seqs(deploy)),
            "--enable-metrics",  # by which a hang is seen
        ]  # fmt: skip
        if deploy.max_model_len:
            argv += ["--context-length", str(deploy.max_model_len)]
        tensor_parallel, replicas = parallel(deploy)
        if tensor_parallel > 1:
            argv += ["--tp-size", str(tensor_parallel)]
        if replicas > 1:
            argv += ["--dp-size", str(replicas)]
        if deploy.chat_template:
            argv += ["--chat-template", deploy.chat_template]
        env_vars = {KEY_VARIABLE: address.api_key} if address.api_key else {}
        return Command([*argv, *deploy.extra_args], env_vars, secrets=(KEY_VARIABLE,))


def _check_template(template: str | None) -> Iterable[Problem]:
    """A Jinja file, a JSON file, or the name of one of SGLang's own, which SGLang alone knows."""
    if not template:
        return
    where = "deploy.chat_template"
    shown = shown_template(template)
    todo = "SGLang takes a .jinja file, a JSON file, or the name of a template of its own, such as chatml."
    path = user_path(template)
    if os.path.isdir(path):
        yield Problem(where, f"{shown} is a folder", todo)
    elif not os.path.isfile(path):
        # Names have points, too, such as vicuna_v1.1.
        if os.sep in template or "{" in template or not (path.suffix[1:] or "0").isdigit():
            yield Problem(where, f"{shown} does not exist", todo)
    elif path.name.endswith(".jinja"):
        if holds_json(str(path)):
            yield Problem(where, f"{shown} is a JSON file", "Give it a name that ends in .json.")
    elif not holds_json(str(path)):
        yield Problem(where, f"{shown} is not a JSON object", "A Jinja file has to have a name that ends in .jinja.")
