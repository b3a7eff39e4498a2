"""Start failures of real engines, provoked for real: what their logs become in our words.

Preflight would catch most of these; here it is passed by, as an engine may change, and files may go, after it.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import environments
import pytest

from evalscope_evalflow import EngineError, deploy
from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines import load_engine
from evalscope_evalflow.engines.lmdeploy import template_names
from evalscope_evalflow.engines.vllm import VLLM as Engine
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.serving import Deployment
from evalscope_evalflow.serving.diagnosis import diagnose

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent
VARIABLES = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
RAN = "ran"  # a file that a checkpoint's own code writes
TEMPLATES = {"chat.jinja": "{{ messages }}"}

# Name: (model, arguments, cause, hint). {name} is a checkpoint of `models`.
VLLM = {
    "flag": ("{good}", ["--enforce-eagre"], "unrecognized arguments: --enforce-eagre", "vllm serve --help"),
    "value": ("{good}", ["--max-model-len", "long"], "argument --max-model-len: invalid", "vllm serve --help"),
    "path": ("{tmp}/none", [], "the path '{tmp}/none' does not exist", "checkpoint's folder"),
    "hub": ("org/none", [], "the model is not on this machine, and the hub cannot be asked", "Download it first"),
    "no config": ("{empty}", [], "'{empty}' is not a checkpoint: it has no config.json", "config.json"),
    "type": ("{type}", [], "this engine cannot run the model: model type `newmodel`", "Upgrade"),
    "architecture": ("{architecture}", [], "Model architectures ['NewForCausalLM'] are not supported", "Upgrade"),
    "code": (
        "{code}",
        [],
        "the checkpoint {code} brings code of its own, which the engine runs only",
        "If you trust it",
    ),
    "trusted code": ("{trusted}", ["--trust-remote-code"], "the checkpoint's code runs", ""),
    "port": ("{good}", ["--port", "{taken}"], "the port is taken", "another port"),
    "context": ("{good}", ["--max-model-len", "99999"], "User-specified max_model_len (99999)", "Lower max_model_len"),
    "template": ("{good}", ["--chat-template", "/no/x.jinja"], "the chat template /no/x.jinja does not", "Jinja"),
    "heads": ("{good}", ["--tensor-parallel-size", "2"], "attention heads (9) must be divisible", "tensor_parallel"),
    "weights": ("{torn}", [], "a file of the checkpoint is not whole: Expecting ',' delimiter", "again"),
    "worker": ("{shapes}", [], "RuntimeError: start (0) + length (1600) exceeds", ""),
    "memory": (
        "{good}",
        ["--gpu-memory-utilization", "1.0"],
        "the machine's memory is in use by other",
        "Free memory",
    ),
    "kv cache": ("{long}", ["--max-model-len", "300000"], "not enough memory for the KV cache: To serve", "Lower"),
}
NO_CUDA = "LMDeploy needs a GPU and a CUDA build of PyTorch: Torch not compiled with CUDA enabled"
# With a size of its own for the KV cache, vLLM does not look at the machine's memory.
WITHOUT: dict[str, dict[str, None]] = {"memory": {"VLLM_CPU_KVCACHE_SPACE": None}}
# Name: (model, settings, cause, hint).
LMDEPLOY: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "flag": ("{good}", {"extra_args": ["--session-lenn=3"]}, "unrecognized arguments: --session-lenn", "--help"),
    "value": ("{good}", {"extra_args": ["--tp", "two"]}, "argument --tp: invalid int value: 'two'", "--help"),
    "path": ("{tmp}/none", {}, "the path '{tmp}/none' does not exist", "checkpoint's folder"),
    "hub": ("org/none", {}, "the model is not on this machine, and the hub cannot be asked", "Download it first"),
    "no config": (
        "{empty}",
        {},
        "this is not a checkpoint: its config.json is missing",
        "config.json",
    ),
    "jinja": ("{good}", {"chat_template": "{tmp}/chat.jinja"}, "template is not JSON", "no Jinja"),
    "template": ("{good}", {"chat_template": "chatmll"}, "no chat template named chatmll", "JSON"),
    "cuda, turbomind": ("{good}", {"extra_args": ["--backend", "turbomind"]}, NO_CUDA, "vllm's CPU build"),
    "cuda, pytorch": ("{good}", {"extra_args": ["--backend", "pytorch"]}, NO_CUDA, "vllm's CPU build"),
}


@pytest.fixture(scope="module")
def models(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints that something is wrong with, by name."""
    tmp = tmp_path_factory.mktemp("models")
    for name, text in TEMPLATES.items():
        (tmp / name).write_text(text)
    found = {"good": str(checkpoint), "tmp": str(tmp)}
    config = json.loads((checkpoint / "config.json").read_text())
    for name, change in {
        "type": {"model_type": "newmodel", "architectures": ["NewForCausalLM"]},
        "architecture": {"architectures": ["NewForCausalLM"]},
        "torn": {},
        "shapes": {"intermediate_size": config["intermediate_size"] + 64},
        "long": {"max_position_embeddings": 400000},
        "code": {"model_type": "brought", "auto_map": {"AutoConfig": "brought.Config"}},
        "trusted": {"model_type": "brought", "auto_map": {"AutoConfig": "brought.Config"}},
    }.items():
        folder = tmp / name
        folder.mkdir()
        for file in checkpoint.iterdir():
            (folder / file.name).symlink_to(file)
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        found[name] = str(folder)
    weights = tmp / "torn" / "model.safetensors"
    data = weights.read_bytes()[:1000]
    weights.unlink()
    weights.write_bytes(data)
    for name in ("code", "trusted"):
        ran = str(tmp / name / RAN)
        code = f"open({ran!r}, 'w').close()\nraise RuntimeError('the checkpoint\\'s code runs')\n"
        (tmp / name / "brought.py").write_text(code)
    (tmp / "empty").mkdir()
    found["empty"] = str(tmp / "empty")
    return found


@pytest.fixture(scope="module")
def vllm_logs(
    models: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, Path], dict[str, int]]]:
    """Each case's log and exit code, from one process that imports vLLM once and forks for each."""
    folder = tmp_path_factory.mktemp("vllm-failures")
    common = ["--enforce-eager", "--dtype", "bfloat16", "--max-num-seqs", "4", "--host", "127.0.0.1"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        places = {**models, "taken": str(taken.getsockname()[1])}
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        cases, logs = [], {}
        for name, (model, arguments, _, _) in VLLM.items():
            logs[name] = folder / f"{name}.log"
            argv = ["serve", model, *common, "--port", str(port), *arguments]
            cases.append(
                {"argv": [word.format(**places) for word in argv], "env": WITHOUT.get(name, {}), "log": str(logs[name])}
            )
        done = subprocess.run(
            [environments.vllm_env() / "bin" / "python", Path(__file__).parents[1] / "vllm_failures.py"],
            input=json.dumps(cases),
            env={**os.environ, **VARIABLES, "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1", "TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    yield logs, dict(zip(VLLM, json.loads(done.stdout.splitlines()[-1]), strict=True))
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", VLLM)
def test_vllms_start_failures(
    name: str, vllm_logs: tuple[dict[str, Path], dict[str, int]], models: dict[str, str]
) -> None:
    logs, codes = vllm_logs
    _, _, cause, hint = VLLM[name]
    found = diagnose(logs[name], Engine.log_patterns, prefix=Engine.log_prefix)
    assert codes[name] == (2 if name in ("flag", "value") else 1), found
    assert cause.format(**models) in found.cause
    assert "initialization failed" not in found.cause
    assert hint in found.hint
    assert found.tail


def test_code_of_a_checkpoint_runs_only_if_the_user_says_so(
    vllm_logs: tuple[dict[str, Path], dict[str, int]], models: dict[str, str]
) -> None:
    assert not Path(models["code"], RAN).exists()
    assert Path(models["trusted"], RAN).exists()


@pytest.fixture(scope="module")
def lmdeploy_failures(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    """The message of each case, and how many seconds after the engine's exit it came; two at a time."""
    tmp, env = tmp_path_factory.mktemp("lmdeploy-failures"), str(environments.lmdeploy_env())

    def provoke(name: str) -> tuple[str, float]:
        path, settings, _, _ = LMDEPLOY[name]
        settings = {key: value.format(**models) if isinstance(value, str) else value for key, value in settings.items()}
        config = DeployConfig(env=env, env_vars={"HF_HUB_OFFLINE": "1"}, **settings)
        model = ModelConfig(name="smol", path=path.format(**models))
        for attempt in range(5):  # on a busy machine, two of its processes may miss each other
            log = tmp / f"{name}-{attempt}" / "engine.log"
            run_id = f"failure-{name}-{attempt}"
            said, seconds = failure(Deployment(load_engine("lmdeploy"), model, config, log=log, run_id=run_id))
            if "Run the same command again." not in said:
                break
        return said, seconds

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(LMDEPLOY, pool.map(provoke, LMDEPLOY), strict=True))


@pytest.mark.parametrize("name", LMDEPLOY)
def test_lmdeploys_start_failures(
    name: str, lmdeploy_failures: dict[str, tuple[str, float]], models: dict[str, str]
) -> None:
    _, _, cause, hint = LMDEPLOY[name]
    said, seconds = lmdeploy_failures[name]
    first, second = said.splitlines()[:2]
    assert cause.format(**models) in first
    assert f"exit code {2 if name in ('flag', 'value') else 1}" in first
    assert hint in second
    assert "key_launcher.py api-keys+ lmdeploy.cli:run serve api_server" in said.splitlines()[-1]
    assert "--api-key" not in said.splitlines()[-1]
    assert seconds < 30, "what stopped is told when it stops, not at the deadline of a start"


def test_the_names_of_lmdeploys_templates_are_those_that_it_has(
    lmdeploy_failures: dict[str, tuple[str, float]],
) -> None:
    """They are read from its source, without importing it; here it has listed them itself."""
    names = template_names(Environment.find(str(environments.lmdeploy_env())))
    said, _ = lmdeploy_failures["template"]
    listed = re.search(r"dict_keys\(\[(.*?)\]\)", said)
    assert listed is not None, said
    assert sorted(names) == sorted(name.strip("' ") for name in listed[1].split(","))


def test_a_torn_template_is_llamacpps_failure_in_words(gguf: Path, tmp_path: Path) -> None:
    template = tmp_path / "torn.jinja"
    template.write_text("{% for message in messages %}{{ message.content ")
    settings = {"chat_template": str(template), "max_model_len": 256, "log_dir": tmp_path}
    said, _ = failure(deploy(str(gguf), **settings))
    assert "the chat template cannot be used: parser: Parser Error: Expected }}" in said
    assert "Mend the Jinja file of deploy.chat_template" in said


def failure(deployment: Deployment) -> tuple[str, float]:
    """The message of a start that fails, and how many seconds after the engine's exit it came.

    Where the engine was started again (two processes of LMDeploy's may miss each other on a busy machine), the seconds
    are those since its last word.
    """
    exits: list[float] = []

    def watch(engine: int) -> None:
        select.select([engine], [], [])
        exits.append(time.monotonic())

    try:
        deployment.start()
        assert deployment.process is not None
        first = deployment.process
        leader = first.wait_started()
        assert leader is not None
        engine = os.pidfd_open(leader)
        watcher = threading.Thread(target=watch, args=(engine,))
        watcher.start()
        with pytest.raises(EngineError) as caught:
            deployment.wait_ready()
        told, silent_s = time.monotonic(), time.time() - deployment.log.stat().st_mtime
        started_again = deployment.process is not first
        watcher.join()
        os.close(engine)
    finally:
        deployment.release()
    return str(caught.value), silent_s if started_again else told - exits[0]


@pytest.mark.parametrize(
    ("engine", "arguments", "says"),
    [
        ("vllm", ["--enforce-eagre"], "vllm has no option --enforce-eagre\n    Did you mean --enforce-eager?"),
        ("vllm", ["--max_model_len=9"], "--max-model-len is set by EvalFlow\n    Set deploy.max_model_len"),
        ("lmdeploy", ["--cache-max-entry-count=half"], "argument --cache-max-entry-count: invalid float value: 'half'"),
        ("sglang", ["--mem-fraction", "x"], "argument --mem-fraction-static: invalid float value: 'x'"),
        ("sglang", ["--tp", "2"], "--tp-size is set by EvalFlow\n    Set deploy.tensor_parallel"),
        ("lmdeploy", ["--session-lenn", "3"], "lmdeploy has no option --session-lenn\n    Did you mean --session-len?"),
        ("lmdeploy", ["--tp", "2"], "--tp is set by EvalFlow\n    Set deploy.tensor_parallel"),
        ("lmdeploy", ["--backend", "torch"], "argument --backend: invalid choice: 'torch'"),
    ],
)
def test_preflight_knows_the_options_of_the_real_engines(
    engine: str, arguments: list[str], says: str, checkpoint: Path
) -> None:
    """The first of each engine reads its parser, which takes its time; the others are told from the cache."""
    env = {"vllm": environments.vllm_env, "sglang": environments.sglang_env}.get(engine, environments.lmdeploy_env)()
    with pytest.raises(ConfigError) as caught:
        deploy(str(checkpoint), engine=engine, env=str(env), extra_args=arguments)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("engine", "arguments"),
    [
        ("vllm", ["--enforce-eager", "--dtype", "bfloat16", "--limit-mm-per-prompt", '{"image": 8}', "-O0"]),
        ("vllm", ["--no-enable-prefix-caching", "--gpu-memory-util=0.5", "--compilation-config.mode", "3"]),
        ("lmdeploy", ["--backend", "pytorch", "--quant-policy", "8", "--eager-mode"]),
    ],
)
def test_preflight_takes_what_the_real_engines_take(engine: str, arguments: list[str], checkpoint: Path) -> None:
    env = environments.vllm_env() if engine == "vllm" else environments.lmdeploy_env()
    deploy(str(checkpoint), engine=engine, env=str(env), extra_args=arguments)


def test_check_is_quick_once_the_options_are_known_and_tells_all_at_once(
    checkpoint: Path, vllm_deploy: dict[str, Any], stock_task: dict[str, Any], tmp_path: Path
) -> None:
    """The whole command, with a real vLLM behind it."""
    deploy(str(checkpoint), **vllm_deploy)  # reads vLLM's options, if nobody has
    file = tmp_path / "task.json"
    section: dict[str, Any] = {"backend": "Native", "deploy": vllm_deploy}
    file.write_text(json.dumps({**stock_task, "model": str(checkpoint), "evalflow": section}))
    began = time.monotonic()
    done = subprocess.run([BIN / "evalflow", "check", file], capture_output=True, text=True, timeout=60, check=False)
    assert time.monotonic() - began < 20  # 2 on an idle machine
    assert "reading the options" not in done.stderr + done.stdout
    assert done.returncode == 0, done.stderr
    assert "general_mcq: to do" in done.stdout
    section["deploy"] = {
        **vllm_deploy, "max_model_len": 99999, "extra_args": ["--enforce-eagre", "--port=1"], "host": "192.0.2.1"
    }  # fmt: skip
    stock_task["generation_config"]["top_k_"] = 1
    stock_task.update(limit=-1, work_dir="/proc/results")
    file.write_text(json.dumps({**stock_task, "model": str(checkpoint), "evalflow": section}))
    began = time.monotonic()
    done = subprocess.run([BIN / "evalflow", "check", file], capture_output=True, text=True, timeout=60, check=False)
    assert time.monotonic() - began < 20  # 2 on an idle machine
    assert "reading the options" not in done.stderr + done.stdout
    assert done.returncode == 2
    assert done.stderr.startswith("evalflow: 7 problems:"), done.stderr
