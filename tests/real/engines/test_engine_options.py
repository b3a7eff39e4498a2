"""Every option that EvalFlow gives to an engine, parsed by that engine's own parser, with the types that it has."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import environments
import pytest
from lora import peft_adapter

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines import Address, command_of, load_engine
from evalscope_evalflow.engines.options.extra_args import read_table
from evalscope_evalflow.errors import EngineError
from evalscope_evalflow.serving import Deployment
from evalscope_evalflow.serving.engine_caches import cache_variables

pytestmark = pytest.mark.real

HERE = Path(__file__).parents[1]
KEY = "sk-of-the-engine"
ENVIRONMENTS: dict[str, Callable[[], Path]] = {
    "vllm": environments.vllm_env,
    "lmdeploy": environments.lmdeploy_env,
    "sglang": environments.sglang_env,
}
PRELOAD = {"vllm": ["vllm.entrypoints.cli.serve"], "lmdeploy": ["lmdeploy.cli"], "sglang": ["sglang.srt.server_args"]}
FULL: dict[str, Any] = {
    "devices": "0,1,2,3", "tensor_parallel": 2, "max_model_len": 4096, "max_num_seqs": 7, "port": 8123,
    "host": "127.0.0.2",
}  # fmt: skip
# What each engine finds of the smallest and of the fullest configuration; {model} and {template} are paths.
EXPECTED: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]] = {
    ("vllm", "smallest"): (
        {},
        {
            "model_tag": "{model}", "served_model_name": ["mine"], "host": "127.0.0.1", "port": 8000,
            "generation_config": "vllm", "max_num_seqs": 200, "max_model_len": None, "tensor_parallel_size": 1,
            "data_parallel_size": 1, "api_key": [KEY],
        },
    ),
    ("vllm", "fullest"): (
        {
            **FULL, "data_parallel": 2, "chat_template": "{template}",
            "extra_args": [
                "--gpu-memory-utilization", "0.8", "--limit-mm-per-prompt", '{"image": 8}', "--enforce-eager"
            ],
        },
        {
            "model_tag": "{model}", "served_model_name": ["mine"], "host": "127.0.0.2", "port": 8123,
            "generation_config": "vllm", "max_num_seqs": 7, "max_model_len": 4096,
            "tensor_parallel_size": 2, "data_parallel_size": 2, "chat_template": "{template}",
            "gpu_memory_utilization": 0.8, "limit_mm_per_prompt": {"image": 8}, "enforce_eager": True, "api_key": [KEY],
        },
    ),
    ("lmdeploy", "smallest"): (
        {},
        {
            "model_path": "{model}", "model_name": "mine", "server_name": "127.0.0.1", "server_port": 8000,
            "generation_config": "lmdeploy", "session_len": None, "tp": 1, "dp": 1, "api_keys": [KEY],
            "backend": "turbomind", "chat_template": None, "max_batch_size": 200,
        },
    ),
    ("lmdeploy", "fullest"): (
        {
            **FULL, "chat_template": "{template}.json",
            "extra_args": ["--backend", "turbomind", "--cache-max-entry-count", "0.5", "--quant-policy", "8"],
        },
        {
            "model_path": "{model}", "model_name": "mine", "server_name": "127.0.0.2", "server_port": 8123,
            "generation_config": "lmdeploy", "session_len": 4096, "max_batch_size": 7, "tp": 2,
            "chat_template": "{template}.json", "api_keys": [KEY],
            "cache_max_entry_count": 0.5, "quant_policy": 8, "backend": "turbomind",
        },
    ),
    ("lmdeploy", "pytorch"): (
        {**FULL, "chat_template": "internvl-zh", "extra_args": ["--backend", "pytorch", "--eager-mode"]},
        {
            "model_path": "{model}", "model_name": "mine", "server_name": "127.0.0.2", "server_port": 8123,
            "generation_config": "lmdeploy", "session_len": 4096, "max_batch_size": 7, "tp": 2,
            "chat_template": "internvl-zh", "api_keys": [KEY], "backend": "pytorch", "eager_mode": True,
        },
    ),
    ("vllm", "adapters"): (
        {},
        {
            "model_tag": "{model}", "served_model_name": ["base"], "host": "127.0.0.1", "port": 8000,
            "generation_config": "vllm", "max_num_seqs": 200, "enable_lora": True, "max_loras": 1, "max_cpu_loras": 2,
            "max_lora_rank": 8,
            "lora_modules": [
                f"LoRAModulePath(name='{name}', path='{{adapter}}', base_model_name=None, is_3d_lora_weight=False)"
                for name in ("a=b", "mine")
            ],
        },
    ),
    ("lmdeploy", "adapters"): (
        {"extra_args": ["--backend", "pytorch"]},
        {
            "model_path": "{model}", "model_name": "base", "server_name": "127.0.0.1", "server_port": 8000,
            "generation_config": "lmdeploy", "max_batch_size": 200, "backend": "pytorch",
            "adapters": ["mine={adapter}", "other={adapter}"],
        },
    ),
    ("sglang", "smallest"): (
        {},
        {
            "model_path": "{model}", "served_model_name": "mine", "host": "127.0.0.1", "port": 8000,
            "sampling_defaults": "openai", "max_running_requests": 200, "context_length": None, "tp_size": 1,
            "dp_size": 1, "api_key": KEY, "enable_metrics": True,
        },
    ),
    ("sglang", "fullest"): (
        {
            **FULL, "data_parallel": 2, "chat_template": "{template}",
            "extra_args": ["--mem-fraction-static", "0.8", "--kv-cache-dtype", "fp8_e5m2"],
        },
        {
            "model_path": "{model}", "served_model_name": "mine", "host": "127.0.0.2", "port": 8123,
            "sampling_defaults": "openai", "enable_metrics": True, "max_running_requests": 7,
            "context_length": 4096, "tp_size": 2, "dp_size": 2, "chat_template": "{template}", "api_key": KEY,
            "mem_fraction_static": 0.8, "kv_cache_dtype": "fp8_e5m2",
        },
    ),
}  # fmt: skip
# Options in extra_args that we understand: the arithmetic of placement reads them, or they lengthen the context.
UNDERSTOOD = {
    "vllm": [
        "--gpu-memory-utilization", "--kv-cache-dtype", "--dtype", "--pipeline-parallel-size", "--cpu-offload-gb",
        "--hf-overrides",
    ],
    "lmdeploy": [
        "--cache-max-entry-count", "--quant-policy", "--dtype", "--hf-overrides", "--rope-scaling-factor"
    ],
    "sglang": [
        "--mem-fraction-static", "--kv-cache-dtype", "--dtype", "--pp-size", "--json-model-override-args"
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def places(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    template = tmp_path_factory.mktemp("templates") / "chat.jinja"
    template.write_text("{{ messages }}")
    Path(f"{template}.json").write_text("{}")
    adapter = peft_adapter(tmp_path_factory.mktemp("adapters") / "one", checkpoint, 0.02)
    return {"model": str(checkpoint), "template": str(template), "adapter": str(adapter)}


@pytest.fixture(scope="module")
def parsed(
    places: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, tuple[list[str], Any]]]:
    """(argv, what the engine's parser made of it) for each case of an engine; its modules are imported once."""
    found: dict[str, dict[str, tuple[list[str], Any]]] = {}

    def of(name: str) -> dict[str, tuple[list[str], Any]]:
        if name in found:
            return found[name]
        folder, prefix, engine = tmp_path_factory.mktemp(name), ENVIRONMENTS[name](), load_engine(name)
        env = Environment.find(str(prefix))
        cases = {}
        for (engine_name, case), (deploy, _) in EXPECTED.items():
            if engine_name != name:
                continue
            settings = DeployConfig(**_filled(deploy, places))
            address = Address(settings.host, settings.port or 8000, KEY)
            model = ModelConfig(name="mine", path=places["model"])
            if case == "adapters":
                other = "a=b" if name == "vllm" else "other"
                both = dict.fromkeys(("mine", other), places["adapter"])
                more = {"adapter": places["adapter"], "adapters": both, "base_name": "base"}
                model = model.model_copy(update=more)
            command = engine.command(model, settings, address, env)
            cases[case] = {"argv": command.argv[1:], "env": command.env, "out": str(folder / case)}
        done = subprocess.run(
            [env.python, HERE / "parse_only.py"],
            input=json.dumps({"preload": PRELOAD[name], "cases": list(cases.values())}),
            env={**env.variables(os.environ), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found[name] = {}
        for (case, item), code in zip(cases.items(), json.loads(done.stdout.splitlines()[-1]), strict=True):
            assert code == 0, Path(f"{item['out']}.err").read_text()
            found[name][case] = item["argv"], json.loads(Path(item["out"]).read_text())
        return found[name]

    return of


def _filled(value: Any, places: dict[str, str]) -> Any:
    """With paths in their places."""
    if isinstance(value, dict):
        return {name: _filled(item, places) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, places) for item in value]
    if isinstance(value, str) and any(f"{{{name}}}" in value for name in places):
        return value.format(**places)
    return value


@pytest.mark.parametrize(("engine", "case"), list(EXPECTED))
def test_what_we_emit_is_what_the_engine_understands(
    engine: str, case: str, parsed: Callable[[str], dict[str, tuple[list[str], Any]]], places: dict[str, str]
) -> None:
    argv, found = parsed(engine)[case]
    expected = _filled(EXPECTED[engine, case][1], places)
    assert {name: found.get(name, "missing") for name in expected} == expected
    assert KEY not in " ".join(argv)
    emitted = {word.lstrip("-").split("=")[0].replace("-", "_") for word in argv if word.startswith("--")}
    assert emitted <= set(expected), "every option that is given has to be among those that are looked at"


@pytest.mark.parametrize("name", list(ENVIRONMENTS))
def test_options_that_have_a_setting_or_that_we_understand_exist(name: str) -> None:
    engine = load_engine(name)
    assert engine.parser is not None
    table = read_table(engine, Environment.find(str(ENVIRONMENTS[name]())))
    assert table is not None
    known = {option for item in table["options"] for option in item["names"]}
    positional = {"--model"} if name == "vllm" else set()
    assert set(engine.reserved_options) - positional <= known
    assert set(UNDERSTOOD[name]) <= known


COMPILE_FACTORS = """
import json, os, sys
from vllm import envs
found = []
for variables in json.loads(sys.argv[1]):
    os.environ.clear()
    os.environ.update(variables)
    found.append({name: repr(value) for name, value in envs.compile_factors().items()})
first, second = found
print(json.dumps([len(first), [name for name in first if first[name] != second.get(name)]]))
"""


def test_another_start_of_vllm_finds_what_the_first_has_compiled(checkpoint: Path) -> None:
    """What vLLM takes its compiled code to depend on is the same with another key, port and temporary folder.

    By the files of 0.22.1, 0.26.0, 0.27.1 and 0.33.0 it is so, too; up to 0.27, VLLM_API_KEY would be one of these.
    """
    env, starts = Environment.find(str(environments.vllm_env())), []
    for number in (1, 2):
        address = Address("127.0.0.1", 8000 + number, f"{KEY}-{number}")
        model = ModelConfig(name="mine", path=str(checkpoint))
        command = command_of(load_engine("vllm"), model, DeployConfig(env=str(env.prefix)), address, env)
        own = {"TMPDIR": f"/tmp/{number}", "EVALFLOW_RUN_ID": f"run-{number}"}
        variables = {**env.variables(os.environ), **command.env, **own}
        starts.append({**cache_variables(variables), **variables})
    done = subprocess.run(
        [env.python, "-c", COMPILE_FACTORS, json.dumps(starts)], capture_output=True, text=True, timeout=300, check=True
    )
    count, different = json.loads(done.stdout.splitlines()[-1])
    assert count > 100
    assert different == []


def test_the_start_of_sglang_without_what_it_needs_is_told(checkpoint: Path, tmp_path: Path) -> None:
    """Its parser takes our options; then it misses torchvision, as its CPU build here does not load."""
    settings = DeployConfig(env=str(environments.sglang_env()), api_key=KEY)
    model = ModelConfig(name="smol", path=str(checkpoint))
    deployment = Deployment(load_engine("sglang"), model, settings, log=tmp_path / "engine.log", run_id="sglang-start")
    with pytest.raises(EngineError) as caught, deployment:
        pytest.fail("it cannot start here")
    said = str(caught.value)
    assert said.splitlines()[0].startswith("sglang stopped while it was starting (exit code 1")
    assert "the engine's environment is broken: ModuleNotFoundError: No module named 'torchvision'" in said
    assert "key_launcher.py api-key sglang.launch_server --model-path" in said
    assert KEY not in said + (tmp_path / "engine.log").read_text()
