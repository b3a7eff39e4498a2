"""LMDeploy's API server, from any environment that has it."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Mapping
from typing import ClassVar

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.python_source import parse
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.engines.adapters import check_adapter, check_adapters, named_paths
from evalscope_evalflow.engines.base import (
    KEY_VARIABLE,
    Address,
    Command,
    Engine,
    LogPattern,
    ParserSource,
    holds_json,
    parallel,
    shown_template,
)
from evalscope_evalflow.engines.checkpoints import checkpoint_folder as checkpoint
from evalscope_evalflow.engines.checkpoints.memory import Memory, Options, float_bytes
from evalscope_evalflow.engines.checkpoints.tokenizer_check import check_tokenizer
from evalscope_evalflow.engines.launchers import ImportsAhead, key_launcher
from evalscope_evalflow.engines.log_patterns import NO_DEVICE, PORT_TAKEN, REJECTED, WHERE_IS_IT
from evalscope_evalflow.engines.options import text_effects
from evalscope_evalflow.errors import Problem, nearest

PROGRAM = "lmdeploy.cli:run"


class LMDeploy(Engine):
    """`lmdeploy serve api_server`, measured with 0.18; `--backend pytorch` or `turbomind` goes into extra_args."""

    name = "lmdeploy"
    imports_ahead = ImportsAhead(("lmdeploy.cli", "lmdeploy.serve.openai.api_server", "lmdeploy.turbomind"))
    modules = ("lmdeploy",)
    distribution = "lmdeploy"
    checked_versions = ("0.18", "0.18")  # served on an H100
    extra = "lmdeploy"
    # No data_parallel: it would serve replicas at ports and at an address of its own choosing.
    honours = frozenset({"devices", "tensor_parallel", "max_model_len", "chat_template"})
    needs_gpu = True
    most_adapter_rank = 512
    shares_adapters = True
    parser = ParserSource(PROGRAM, ("serve", "api_server"))
    reserved_options: ClassVar[Mapping[str, str]] = {
        "--model-name": "the model's `name`",
        "--server-name": "deploy.host",
        "--server-port": "deploy.port",
        "--session-len": "deploy.max_model_len",
        "--max-batch-size": "deploy.max_num_seqs",
        "--tp": "deploy.tensor_parallel",
        "--dp": "deploy.data_parallel",
        "--chat-template": "deploy.chat_template",
        "--api-keys": "deploy.api_key",
    }
    reserved_variables: ClassVar[Mapping[str, str]] = {KEY_VARIABLE: "deploy.api_key"}
    neutral_options = text_effects.LMDEPLOY_OPTIONS
    parallel_options = text_effects.LMDEPLOY_PARALLEL
    neutral_variables = text_effects.LMDEPLOY_VARIABLES
    variable_prefixes = ("LMDEPLOY_*", "TM_*")
    log_routine = r"\S+ \S+ - lmdeploy - (?:DEBUG|INFO|WARNING) - |\[TM\]\[(?:DEBUG|INFO|WARN\w*)\]|INFO:"
    log_patterns = (
        LogPattern(
            REJECTED, "LMDeploy rejects an argument: {0}", "Compare it with `lmdeploy serve api_server --help`."
        ),
        LogPattern(
            r"chat template '(.+?)' is not registered",
            "LMDeploy has no chat template named {0}",
            "Give a JSON file, or one of those that its log names.",
        ),
        LogPattern(
            r"(?s:from_json.*?)((?:json\.decoder\.)?JSONDecodeError: [^\n]+)",
            "the chat template is not JSON: {0}",
            "LMDeploy takes a JSON file or the name of a template of its own, no Jinja file.",
        ),
        *WHERE_IS_IT,
        LogPattern(
            r"Could not find model architecture from config",
            "this is not a checkpoint: its config.json is missing, or names no architecture",
            "Give the folder that holds config.json and the weights.",
        ),
        PORT_TAKEN,
        LogPattern(
            r"(assert .*num_(?:attention|key_value)_heads %.*|assert tp % .*num_key_value_heads.*"
            r"|TP split: .+ not divisible by tp=\d+)",
            "tensor_parallel does not fit: {0}",
            "Choose a tensor_parallel that divides the attention heads.",
        ),
        LogPattern(
            r"(No enough gpu memory for kv cache|No enough free memory blocks)",
            "there is not enough memory for the KV cache: {0}",
            "Raise --cache-max-entry-count (extra_args), lower max_model_len, or raise tensor_parallel.",
            device_memory=True,
        ),
        LogPattern(
            r"(Can not found rewrite for (?:architectures|auto_map): .+)",
            "this LMDeploy cannot run the model: {0}",
            "Upgrade LMDeploy in its environment.",
        ),
        LogPattern(
            r"(Torch not compiled with CUDA enabled)",
            "LMDeploy needs a GPU and a CUDA build of PyTorch: {0}",
            "Install PyTorch's CUDA build in that environment; without a GPU, use vllm's CPU build or llamacpp.",
        ),
        NO_DEVICE,
        LogPattern(
            r"OutOfMemoryError: (.+)|(\[TM\].*out of memory.*)",
            "the device ran out of memory: {0}",
            "Lower --cache-max-entry-count (extra_args) or max_model_len, or raise tensor_parallel.",
            device_memory=True,
        ),
        LogPattern(
            r"((?:ModuleNotFoundError|ImportError): .+)",
            "the engine's environment is broken: {0}",
            "Repair that environment.",
        ),
        # The last: a process that dies of one of the above at a bad moment leaves this in the log as well.
        LogPattern(
            r"(?s:in _mp_proc\n    with condition:.{1,4000}?^EOFError$)",
            "two of LMDeploy's processes missed each other at its start, as may happen on a busy machine",
            "Run the same command again.",
            retryable=True,
        ),
    )

    def check(self, model: ModelConfig, deploy: DeployConfig) -> Iterable[Problem]:
        yield from checkpoint.check(model.path, f"model {model.name}")
        yield from check_tokenizer(model, deploy)
        yield from check_adapters(model, deploy, "--adapters")
        yield from check_adapter(model, self.most_adapter_rank)
        backend = Options(deploy.extra_args, {"--backend": str}).get("--backend", "turbomind")
        if model.adapter and backend != "pytorch":  # turbomind would leave it out
            what = f"LMDeploy serves adapters with its backend pytorch alone, and model {model.name} has one"
            yield Problem("deploy.extra_args", what, "Add `--backend pytorch`.")
        if model.adapter and "=" in model.name:
            what = "LMDeploy takes what stands before an equals sign for an adapter's name"
            yield Problem(f"model {model.name}", what, "Give it a name without one.")
        yield from checkpoint.check_context(model, deploy, unless=("--hf-overrides", "--rope-scaling-factor"))
        yield from _check_template(deploy)

    def why_answers_differ(self, deploy: DeployConfig) -> str:
        backend = Options(deploy.extra_args, {"--backend": str}).get("--backend", "turbomind")
        if backend != "turbomind":
            return ""
        # Measured with 0.18 on an H100: 0.5417, 0.5833 and 0.6250 with one checkpoint, without EvalFlow as well.
        return "turbomind's answers differ from run to run, even at temperature 0 (--backend pytorch is the other one)"

    def memory(self, deploy: DeployConfig) -> Memory:
        given = Options(deploy.extra_args, {"--cache-max-entry-count": float, "--quant-policy": int, "--dtype": str})
        size = float_bytes(given.get("--dtype", None))
        return Memory(
            share=1.0,
            option="--cache-max-entry-count",
            of_rest=given.get("--cache-max-entry-count", 0.8),
            kv_bytes={4: 0.5, 8: 1.0}.get(given.get("--quant-policy", 0), float(size)),
            float_bytes=size,
            windows=False,
        )

    def command(self, model: ModelConfig, deploy: DeployConfig, address: Address, env: Environment) -> Command:
        assert model.path is not None
        argv = [
            *key_launcher(env, "api-keys+", PROGRAM), "serve", "api_server", model.path,
            "--model-name", model.engine_name,
            "--server-name", address.host, "--server-port", str(address.port),  # its default is every address
            # Sampling defaults from the checkpoint's folder would change results behind the user's back.
            "--generation-config", "lmdeploy",
            "--max-batch-size", str(self.max_num_seqs(deploy)),  # its default goes by the device
        ]  # fmt: skip
        if deploy.max_model_len:
            argv += ["--session-len", str(deploy.max_model_len)]
        tensor_parallel, _ = parallel(deploy)
        if tensor_parallel > 1:
            argv += ["--tp", str(tensor_parallel)]
        if deploy.chat_template:
            argv += ["--chat-template", deploy.chat_template]
        if adapters := named_paths(model):
            argv += ["--adapters", *adapters]
        env_vars = {KEY_VARIABLE: address.api_key} if address.api_key else {}
        return Command([*argv, *deploy.extra_args], env_vars, secrets=(KEY_VARIABLE,))


def template_names(env: Environment) -> list[str]:
    """The chat templates that the LMDeploy of an environment has by name, read from its source; empty if that is not
    there. Importing it would take 5 s."""
    file = env.file_of("lmdeploy", "model.py")
    try:
        tree = parse(file.read_text(encoding="utf-8")) if file else ast.Module([], [])
    except (OSError, SyntaxError, ValueError):
        return []
    found: list[str] = []
    for node in tree.body:
        for call in node.decorator_list if isinstance(node, ast.ClassDef) else []:
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "MODELS.register_module":
                values = [word.value for word in call.keywords if word.arg == "name"]
                found += [
                    item.value
                    for value in values
                    for item in ast.walk(value)
                    if isinstance(item, ast.Constant) and isinstance(item.value, str)
                ]
    return found


def _check_template(deploy: DeployConfig) -> Iterable[Problem]:
    """A JSON file, or the name of one of LMDeploy's own."""
    template = deploy.chat_template
    if not template:
        return
    todo = "LMDeploy takes a JSON file or the name of a template of its own, such as internvl-zh."
    path = user_path(template)
    where = "deploy.chat_template"
    if path.suffix in (".jinja", ".jinja2", ".j2") or "{" in template:
        yield Problem(where, f"{shown_template(template)} is a Jinja template", todo)
    elif os.path.isfile(path):
        if not holds_json(str(path)):
            yield Problem(where, f"{template} is not a JSON object", todo)
    elif os.path.isdir(path):
        yield Problem(where, f"{template} is a folder", todo)
    else:
        try:
            names = template_names(Environment.find(deploy.env))
        except FileNotFoundError:  # another check reports that
            names = []
        if template in names:
            return
        if os.sep in template or path.suffix == ".json":
            yield Problem(where, f"{template} does not exist", todo)
        elif names:
            listed = f"{nearest(template, names)} It has: {', '.join(names)}; or give a JSON file."
            yield Problem(where, f"LMDeploy has no chat template named {template}", listed.strip())
