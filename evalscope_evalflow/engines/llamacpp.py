"""llama.cpp's own server, through the bindings of xllamacpp, for GGUF files: no GPU, no compiler."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines.base import (
    KEY_VARIABLE,
    Address,
    Command,
    Counters,
    Engine,
    LogPattern,
    ParserSource,
    check_template,
)
from evalscope_evalflow.engines.checkpoints import gguf
from evalscope_evalflow.engines.checkpoints.checkpoint_location import gguf_files, locate
from evalscope_evalflow.engines.checkpoints.memory import GIB, Demand, Memory, demand
from evalscope_evalflow.engines.log_patterns import PORT_TAKEN
from evalscope_evalflow.engines.options import text_effects
from evalscope_evalflow.errors import Problem

LAUNCHER = Path(__file__).with_name("llamacpp_launcher.py")
DEFAULT_CONTEXT = 8192  # tokens a sequence where nothing is said: every one of them costs memory at once


class LlamaCpp(Engine):
    """llama.cpp's server, as xllamacpp builds it."""

    name = "llamacpp"
    modules = ("xllamacpp",)
    distribution = "xllamacpp"
    extra = "llamacpp"
    honours = frozenset({"devices", "max_model_len", "chat_template"})
    default_max_num_seqs = 4
    needs_idle_devices = False
    reserves_context = True
    spreads = "layers"
    # Its totals of tokens move only when an answer is finished; decode calls, with every token.
    counters = Counters(
        in_flight=("llamacpp:requests_processing", "llamacpp:requests_deferred"),
        progress=("llamacpp:n_decode_total", "llamacpp:prompt_tokens_total", "llamacpp:tokens_predicted_total"),
    )
    # Its server chooses adapters by their numbers, not by names. So each has an engine, which starts in a second.
    most_adapter_rank = 1 << 30
    parser = ParserSource(str(LAUNCHER))
    reserved_options: ClassVar[Mapping[str, str]] = {
        "--model": "the model's `path`",
        "--lora": "the model's `adapter`",
        "--alias": "the model's `name`",
        "--host": "deploy.host",
        "--port": "deploy.port",
        "--context": "deploy.max_model_len",
        "--parallel": "deploy.max_num_seqs",
        "--chat-template-file": "deploy.chat_template",
    }
    reserved_variables: ClassVar[Mapping[str, str]] = {KEY_VARIABLE: "deploy.api_key"}
    neutral_options = text_effects.LLAMACPP_OPTIONS
    neutral_variables = text_effects.LLAMACPP_VARIABLES
    variable_prefixes = ("LLAMA_*", "GGML_*")
    log_patterns = (
        LogPattern(
            r"error: (unrecognized arguments: .+|argument --\S+: .+|the following arguments are required: .+)",
            "an argument is not understood: {0}",
            f"extra_args for llamacpp are those of `python {LAUNCHER} --help`.",
        ),
        PORT_TAKEN,
        LogPattern(
            r"common_chat_templates_init: error: (.+)",
            "the chat template cannot be used: {0}",
            "Mend the Jinja file of deploy.chat_template; without it, the model's own template is used.",
        ),
        LogPattern(
            r"(?:unknown model architecture: )('.+?')",
            "this llama.cpp does not know the architecture {0}",
            "Upgrade xllamacpp.",
        ),
        LogPattern(
            r"(failed to allocate.*|unable to allocate.*|std::bad_alloc)",
            "there is not enough memory: {0}",
            "Lower max_model_len or max_num_seqs.",
        ),
        LogPattern(
            r"error loading model: (.+)",
            "llama.cpp cannot load the file: {0}",
            "Check that the file is complete.",
        ),
        LogPattern(r"failed to load model", "llama.cpp cannot load the file", "Check that the file is complete."),
    )

    def check(self, model: ModelConfig, deploy: DeployConfig) -> Iterable[Problem]:
        where = f"model {model.name}"
        if not model.path:
            yield Problem(where, "no file is given", "Set the .gguf file.")
            return
        path = locate(model.path)
        if not os.path.exists(path):
            yield Problem(where, f"{model.path} does not exist", "Give the .gguf file.")
        elif len(files := gguf_files(path)) > 1:
            listed = ", ".join(file.name for file in files[:5])
            yield Problem(
                where, f"{model.path} holds {len(files)} GGUF models: {listed}", "Give the path of one of them."
            )
        elif not os.path.isfile(path):
            yield Problem(where, f"{model.path} is a folder; llamacpp serves a .gguf file", "For a folder, use vllm.")
        else:
            try:
                longest = gguf.context_length(gguf.read_metadata(path))
                lacks = gguf.why_not_whole(path)
            except ValueError as error:
                yield Problem(where, f"{model.path} is no GGUF file: {error}")
                return
            if lacks:
                yield Problem(where, f"{model.path} is cut short: {lacks}", "Download it again, or copy it again.")
            if longest and deploy.max_model_len and deploy.max_model_len > longest:
                yield Problem(
                    "deploy.max_model_len",
                    f"{deploy.max_model_len} tokens, but {model.name} was made for {longest} (its GGUF header)",
                    f"Lower it to {longest} (--eval_max_model_length).",
                )
        yield from _check_adapter(model)
        yield from check_template(deploy)

    def context_length(self, model: ModelConfig, deploy: DeployConfig) -> int | None:
        if deploy.max_model_len or not model.path:
            return deploy.max_model_len
        try:
            return _default_context(locate(model.path))
        except (OSError, ValueError):  # the check of the file reports that
            return None

    def memory(self, deploy: DeployConfig) -> Memory:
        # It makes room for every sequence at its start, and needs little beside.
        return Memory(share=0.95, reserve_bytes=GIB, sequences=self.max_num_seqs(deploy), windows=False)

    def demand(self, model: ModelConfig, deploy: DeployConfig) -> Demand:
        tokens = self.context_length(model, deploy) or DEFAULT_CONTEXT
        return demand(model.path, tokens, self.memory(deploy))

    def command(self, model: ModelConfig, deploy: DeployConfig, address: Address, env: Environment) -> Command:
        assert model.path is not None
        # By its file, as the environment that has xllamacpp need not have EvalFlow.
        argv = [
            str(env.python), str(LAUNCHER),
            "--model", model.path, "--alias", model.name,
            "--host", address.host, "--port", str(address.port),
            "--context", str(deploy.max_model_len or _default_context(locate(model.path))),
            "--parallel", str(self.max_num_seqs(deploy)),
        ]  # fmt: skip
        if deploy.chat_template:
            argv += ["--chat-template-file", deploy.chat_template]
        if model.adapter:
            argv += ["--lora", model.adapter]
        env_vars = {KEY_VARIABLE: address.api_key} if address.api_key else {}
        return Command([*argv, *deploy.extra_args], env_vars, secrets=(KEY_VARIABLE,))


def _check_adapter(model: ModelConfig) -> Iterable[Problem]:
    """Whether a model's adapter is a GGUF file of an adapter, and of the same architecture as the base."""
    if not model.adapter or not model.path:
        return
    where, todo = f"model {model.name}", "llama.cpp's convert_lora_to_gguf.py makes one of an adapter's folder."
    path = locate(model.adapter)
    if not os.path.isfile(path):
        there = os.path.exists(path)
        what = "is a folder; llamacpp takes an adapter as a .gguf file" if there else "does not exist"
        yield Problem(where, f"{model.adapter} {what}", todo)
        return
    try:
        header, lacks = gguf.read_metadata(path), gguf.why_not_whole(path)
        base = gguf.read_metadata(locate(model.path))
    except (OSError, ValueError) as error:
        yield Problem(where, f"{model.adapter} is no GGUF file: {error}", todo)
        return
    theirs, ours = (str(found.get("general.architecture")) for found in (header, base))
    if lacks:
        yield Problem(where, f"{model.adapter} is cut short: {lacks}", "Download it again, or copy it again.")
    elif header.get("general.type") != "adapter":
        yield Problem(where, f"{model.adapter} is no adapter, but a {header.get('general.type', 'model')}", todo)
    elif theirs != ours:
        what = f"{model.adapter} is an adapter of a model of the architecture {theirs}, and {model.path} is {ours}"
        yield Problem(where, what, "Give the base that it was trained on as `path`.")


def _default_context(path: Path) -> int:
    return min(gguf.context_length(gguf.read_metadata(path)) or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
