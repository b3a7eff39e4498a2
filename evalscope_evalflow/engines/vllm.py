"""vLLM's OpenAI-compatible server, from any environment that has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines.adapters import check_adapter, check_adapters, largest_rank, named_paths
from evalscope_evalflow.engines.base import (
    CONTROL_VARIABLE,
    HONOURABLE,
    KEY_VARIABLE,
    Address,
    Command,
    Counters,
    Engine,
    LogPattern,
    ParserSource,
    check_template,
    parallel,
)
from evalscope_evalflow.engines.checkpoints import checkpoint_folder as checkpoint
from evalscope_evalflow.engines.checkpoints.memory import GIB, RESERVE_BYTES, Memory, Options, float_bytes, kv_bytes
from evalscope_evalflow.engines.checkpoints.tokenizer_check import check_tokenizer
from evalscope_evalflow.engines.launchers import ImportsAhead, key_launcher
from evalscope_evalflow.engines.log_patterns import NO_DEVICE, PORT_TAKEN, REJECTED, WHERE_IS_IT
from evalscope_evalflow.engines.options import text_effects
from evalscope_evalflow.errors import Problem

PROGRAM = "vllm.entrypoints.cli.main:main"
CONTROL_MODULE, WEIGHTS_CLASS = "evalflow_vllm_control", "evalflow_vllm_weights.Weights"  # in inside/
# What a version needs for its weights to be replaced: a file of the package, and what stands in it.
_SWAP_NEEDS = (
    ("v1/worker/gpu_model_runner.py", "weights_path"),
    ("v1/worker/gpu_worker.py", "def reload_weights("),
    ("v1/engine/async_llm.py", "def reset_encoder_cache("),
    ("config/parallel.py", "worker_extension_cls"),
    ("model_executor/model_loader/reload/layerwise.py", "materialize_layer("),
)
# Options with which nobody has shown that replaced weights answer as after a fresh start; `*` is any more letters.
_NO_SWAP_WITH = (
    "--quantization*", "-q*", "--load-format", "--model-loader-extra-config", "--torchao-config", "--cpu-offload-gb",
    "--offload*", "--speculative-config", "--spec-*", "-sc*", "--enable-lora", "--lora-modules", "--enable-eplb",
    "--worker-cls", "--worker-extension-cls", "--kv-transfer-config", "--kv-offloading*", "--calculate-kv-scales",
    "--weight-transfer-config", "--enable-sleep-mode", "--runner", "--convert", "--task", "--api-server-count",
    "--data-parallel*", "-dp*", "--nnodes", "-n*", "--node-rank", "--headless", "--middleware", "--ssl-keyfile",
    "--uds", "--root-path", "--config",
)  # fmt: skip
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that --max-lora-rank takes
RUST_FRONTEND = "VLLM_USE_RUST_FRONTEND"


class VLLM(Engine):
    """`vllm serve`, measured with 0.26 (H100) and 0.32 (CPU)."""

    name = "vllm"
    imports_ahead = ImportsAhead(
        (
            "vllm.entrypoints.cli.main", "vllm.entrypoints.cli.serve", "vllm.entrypoints.cli.openai",
            "vllm.entrypoints.cli.benchmark.main", "vllm.entrypoints.cli.run_batch", "vllm.entrypoints.cli.launch",
            "vllm.v1.engine.async_llm", "vllm.model_executor.models.registry",
        ),
        (
            "vllm.v1.engine.core", "vllm.v1.engine.async_llm", "vllm.v1.executor.uniproc_executor",
            "vllm.v1.executor.multiproc_executor", "vllm.v1.worker.gpu_worker", "vllm.v1.worker.gpu_model_runner",
            "vllm.v1.worker.cpu_worker", "vllm.model_executor.model_loader.default_loader",
            "transformers.models.auto.modeling_auto",
        ),
        ("vllm/libs/libtcmalloc*.so*", "torch.libs/libgomp*.so*|torch/lib/libgomp*.so*"),
    )  # fmt: skip
    modules = ("vllm",)
    distribution = "vllm"
    checked_versions = ("0.26", "0.33")  # served: 0.26 on an H100, 0.32 on a CPU; 0.33 by its source and its parser
    extra = "vllm"
    honours = frozenset(HONOURABLE)
    needs_gpu = True
    # With several replicas, vLLM makes all their devices share one set of experts, which then have to divide by them.
    replicates = "dense"
    most_adapter_rank = _RANKS[-1]
    shares_adapters = True
    # Tokens of a prompt are counted when all of it is read; its KV cache grows with every part of it.
    counters = Counters(
        in_flight=("vllm:num_requests_running", "vllm:num_requests_waiting"),
        progress=("vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:kv_cache_usage_perc"),
    )
    parser = ParserSource(PROGRAM, ("serve",))
    reserved_options: ClassVar[Mapping[str, str]] = {
        "--model": "the model's `path`",
        "--served-model-name": "the model's `name`",
        "--host": "deploy.host",
        "--port": "deploy.port",
        "--max-model-len": "deploy.max_model_len",
        "--max-num-seqs": "deploy.max_num_seqs",
        "--tensor-parallel-size": "deploy.tensor_parallel",
        "--data-parallel-size": "deploy.data_parallel",
        "--chat-template": "deploy.chat_template",
        "--api-key": "deploy.api_key",
    }
    # The key is not passed in the first: up to 0.27, vLLM takes all its variables for something that compiled code
    # depends on, so that a random key would have it compile anew at each start (20 s on an H100).
    reserved_variables: ClassVar[Mapping[str, str]] = {
        "VLLM_API_KEY": "deploy.api_key",
        KEY_VARIABLE: "deploy.api_key",
        CONTROL_VARIABLE: "deploy.swap",
    }
    log_routine = r"(?:\(\w+ pid=\d+\) )?(?:INFO|DEBUG|WARNING)\b"
    log_prefix = r"\((?:EngineCore|APIServer|Worker|VllmWorker)\S* pid=\d+\) (?:[A-Z]+ [\d-]+ [\d:]+ \[\S+?\] )?"
    neutral_options = text_effects.VLLM_OPTIONS
    parallel_options = text_effects.VLLM_PARALLEL
    neutral_variables = text_effects.VLLM_VARIABLES
    variable_prefixes = ("VLLM_*",)
    log_patterns = (
        LogPattern(
            REJECTED, "vLLM rejects an argument: {0}", "Compare it with `vllm serve --help=all` of that environment."
        ),
        LogPattern(
            r"chat template string \((.+?)\) appears path-like, but doesn't exist",
            "the chat template {0} does not exist",
            "Give the path of a Jinja file.",
        ),
        *WHERE_IS_IT,
        LogPattern(  # the head of a weight file is JSON, as its index is
            r"Value error, (Expecting .+? delimiter: .+?)(?: \[type=|$)",
            "a file of the checkpoint is not whole: {0}",
            "Download the checkpoint again, or copy it again.",
        ),
        LogPattern(
            r"(User-specified max_model_len \(\d+\) is greater than the derived max_model_len \(.+?\))",
            "the context is too long for this model: {0}",
            "Lower max_model_len (--eval_max_model_length).",
        ),
        LogPattern(  # of a CPU
            r"(Available memory on node \d+ \(.+?\) on startup is less than .+?\))",
            "the machine's memory is in use by other processes: {0}",
            "Free memory, or lower --gpu-memory-utilization in extra_args: on a CPU, it is a share of the machine's.",
        ),
        LogPattern(
            r"(Available memory on node \d+ \(.+?\) on kv cache allocation is less than .+?\))",
            "there is not enough memory for the KV cache: {0}",
            "Free memory, or lower VLLM_CPU_KVCACHE_SPACE (env_vars) or --kv-cache-memory-bytes (extra_args).",
        ),
        LogPattern(
            r"(The worker already uses .+? GiB \(.+?\), more than the .+? GiB of CPU memory reserved)",
            "there is not enough memory for the KV cache: {0}",
            "Raise --gpu-memory-utilization in extra_args (on a CPU, it is a share of the machine's memory), or set "
            "VLLM_CPU_KVCACHE_SPACE (env_vars).",
        ),
        LogPattern(
            r"((?:To serve at least one request|No available memory for the cache blocks).+)",
            "there is not enough memory for the KV cache: {0}",
            "Lower max_model_len or max_num_seqs, or give it more devices.",
            device_memory=True,
        ),
        LogPattern(  # every good start has a line that begins so, too
            r"(Free memory on device .+ is less than desired .+)",
            "the device is in use by another process: {0}",
            "Choose an idle device, or lower --gpu-memory-utilization in extra_args.",
            device_memory=True,
        ),
        LogPattern(
            r"OutOfMemoryError: (.+)",
            "the device ran out of memory: {0}",
            "Lower max_num_seqs or max_model_len, or raise tensor_parallel.",
            device_memory=True,
        ),
        PORT_TAKEN,
        LogPattern(
            r"(Total number of attention heads \(\d+\) must be divisible by tensor parallel size \(\d+\)"
            r"|World size \(\d+\) is larger than the number of available GPUs.+)",
            "tensor_parallel does not fit: {0}",
            "Choose a tensor_parallel that divides the attention heads, and devices that exist.",
        ),
        NO_DEVICE,
        LogPattern(
            r"(Worker proc \S+ died unexpectedly \(exit code: -\d+\)|Failed core proc\(s\): \{[^}]*: -\d+[^}]*\})",
            "one of vLLM's processes was killed: {0}",
            "Was it memory? `dmesg` names what the kernel killed; then lower max_num_seqs or max_model_len.",
        ),
        LogPattern(
            r"((?:ModuleNotFoundError|ImportError): .+)",
            "the engine's environment is broken: {0}",
            "Repair that environment.",
        ),
        LogPattern(  # said by the API server; EngineCore itself may have had no time for a word
            r"(engine core exited unexpectedly|Engine core proc \S+ died unexpectedly"
            r"|Worker proc \S+ died unexpectedly)",
            "vLLM's EngineCore, the process that computes, died without a word: it was killed, or it crashed ({0})",
            "Was it memory? `dmesg` names what the kernel killed and which driver or process crashed; then lower "
            "max_num_seqs or max_model_len.",
            fallback=True,
        ),
    )

    def check(self, model: ModelConfig, deploy: DeployConfig) -> Iterable[Problem]:
        yield from checkpoint.check(model.path, f"model {model.name}")
        yield from check_tokenizer(model, deploy, unless=("--tokenizer", "--skip-tokenizer-init"))
        yield from check_adapters(model, deploy, "--lora-modules")
        yield from check_adapter(model, self.most_adapter_rank)
        yield from checkpoint.check_context(model, deploy, unless=("--hf-overrides", "--hf_overrides"))
        yield from check_template(deploy, inline=True)
        if deploy.env_vars.get(RUST_FRONTEND, "0").strip() not in ("", "0"):
            yield Problem(
                f"deploy.env_vars.{RUST_FRONTEND}",
                "vLLM's front end in Rust answers some paths without the key",
                "Leave it out: other users of this machine could use the model.",
            )

    def uses_devices(self, deploy: DeployConfig) -> bool:
        try:
            found = self.dist_info(Environment.find(deploy.env))
        except FileNotFoundError:  # another check reports that
            return True
        return found is None or not (found.name.startswith("vllm_cpu-") or "+cpu" in found.name)

    def base_beside_adapters(self, deploy: DeployConfig) -> bool:
        return not self.uses_devices(deploy)  # measured with the CPU build alone

    def dist_info(self, env: Environment) -> Path | None:
        return env.dist_info("vllm") or env.dist_info("vllm-cpu")

    def normalise_argument(self, word: str) -> str:
        """`--a_b` is `--a-b`, `--a.b.c 1` sets a part of the JSON of `--a`, and `-O3` is an optimization level."""
        if word.startswith("-O") and word != "-O":
            return f"--optimization-level={word[2:].removeprefix('=')}"
        if not word.startswith("--"):
            return word
        name, equals, value = word.partition("=")
        return name.split(".")[0].rstrip("+").replace("_", "-") + equals + value

    def memory(self, deploy: DeployConfig) -> Memory:
        given = Options(
            deploy.extra_args,
            {
                "--gpu-memory-utilization": float,
                "--kv-cache-dtype": str,
                "--dtype": str,
                "--pipeline-parallel-size": int,
                "--cpu-offload-gb": float,
            },
        )
        size = float_bytes(given.get("--dtype", None))
        return Memory(
            share=given.get("--gpu-memory-utilization", 0.9),  # 0.92 as of vLLM 0.26
            option="--gpu-memory-utilization",
            of_free=False,
            reserve_bytes=RESERVE_BYTES - int(given.get("--cpu-offload-gb", 0.0) * GIB),
            kv_bytes=kv_bytes(given.get("--kv-cache-dtype", None), size),
            float_bytes=size,
            pipeline=max(1, given.get("--pipeline-parallel-size", 1)),
        )

    def can_swap(self, env: Environment) -> str:
        package = next((home / "vllm" for home in env.package_folders if (home / "vllm").is_dir()), None)
        if package is None or not all(_has(package / file, text) for file, text in _SWAP_NEEDS):
            return f"{self.version(env) or ''} has no call that reads weights into a running engine".strip()
        return ""

    def why_no_swap(self, deploy: DeployConfig) -> str:
        for word in deploy.extra_args:
            option = self.normalise_argument(word).partition("=")[0]
            if any(_may_mean(option, pattern) for pattern in _NO_SWAP_WITH):
                return f"extra_args has {option}"
        _, replicas = parallel(deploy)
        return "it has several replicas" if replicas > 1 else ""

    def command(self, model: ModelConfig, deploy: DeployConfig, address: Address, env: Environment) -> Command:
        assert model.path is not None
        argv = [
            *key_launcher(env, "api-key+", PROGRAM), "serve", model.path,
            "--served-model-name", model.engine_name,
            "--host", address.host, "--port", str(address.port),
            # Sampling defaults from the checkpoint's folder would change results behind the user's back.
            "--generation-config", "vllm",
            "--max-num-seqs", str(self.max_num_seqs(deploy)),
        ]  # fmt: skip
        if deploy.max_model_len:
            argv += ["--max-model-len", str(deploy.max_model_len)]
        tensor_parallel, replicas = parallel(deploy)
        if tensor_parallel > 1:
            argv += ["--tensor-parallel-size", str(tensor_parallel)]
        if replicas > 1:
            argv += ["--data-parallel-size", str(replicas)]
        if deploy.chat_template:
            argv += ["--chat-template", deploy.chat_template]
        if adapters := named_paths(model):
            rank = largest_rank(model)
            # One at a time is asked; the others stay in the machine's memory.
            argv += ["--enable-lora", "--max-loras", "1", "--max-cpu-loras", str(len(adapters))]
            argv += ["--max-lora-rank", str(next((size for size in _RANKS if size >= rank), rank))]
            argv += ["--lora-modules", *adapters]
        env_vars = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        if address.api_key:
            env_vars[KEY_VARIABLE] = address.api_key  # an argument would be readable by every user
        if address.control:
            argv += ["--worker-extension-cls", WEIGHTS_CLASS]
            env_vars[CONTROL_VARIABLE] = f"{CONTROL_MODULE} {address.control}"
        return Command([*argv, *deploy.extra_args], env_vars, secrets=(KEY_VARIABLE,))


def _may_mean(option: str, pattern: str) -> bool:
    """Whether a word is one of these options, or may be short for it: vLLM takes any beginning that is unambiguous."""
    name = pattern.rstrip("*")
    if option.startswith(name) if name != pattern else option == name:
        return True
    return option.startswith("--") and len(option) > len("--") and name.startswith(option)


@lru_cache(maxsize=64)
def _has(file: Path, text: str) -> bool:
    """Whether a file has a text; nothing is imported."""
    try:
        return text in file.read_text(encoding="utf-8")
    except OSError:
        return False
