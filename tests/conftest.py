"""What real tests share: one llama.cpp server and one vLLM server for each process of a run, and a small benchmark."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import environments
import psutil
import pytest

from evalscope_evalflow import Endpoint, deploy
from evalscope_evalflow.testing.engine_suite import RunningServer

sys.path.insert(0, str(Path(__file__).parent / "scripted"))  # its dist-info makes `engine: scripted` known

VLLM_DEPLOY: dict[str, Any] = {
    "engine": "vllm",
    "max_model_len": 2048,
    "max_num_seqs": 8,
    "env_vars": {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
    # torch.compile costs three times the CPU that it saves on so small a model.
    "extra_args": ["--enforce-eager", "--dtype", "bfloat16"],
}
WORDS = ["apple", "river", "stone", "cloud", "piano", "tiger", "bread", "snow"]


def pytest_configure() -> None:
    """The tests may run in a script's background or under nohup; their children would inherit what that ignores."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # Containers like to forbid byte code. VLMEvalKit's imports take 35 s of CPU without it, 14 s with it.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The fast layer first; tests that need a browser, or a cluster, only where `-m` names them."""
    for marker in ("browser", "cluster"):
        if marker not in config.option.markexpr:
            config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker(marker)])
            items[:] = [item for item in items if not item.get_closest_marker(marker)]
    items.sort(key=lambda item: item.get_closest_marker("real") is not None)


@pytest.fixture(scope="session", autouse=True)
def _runs_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests start is written down apart from what the user runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVALFLOW_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield


@pytest.fixture(scope="session")
def gguf() -> Path:
    """A model for llama.cpp."""
    return environments.gguf()


@pytest.fixture(scope="session")
def vllm_deploy() -> dict[str, Any]:
    """Settings that serve the checkpoint with vLLM on a CPU."""
    return {**VLLM_DEPLOY, "env": str(environments.vllm_env())}


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """A model for vLLM."""
    return environments.checkpoint()


@pytest.fixture(scope="session")
def vlm() -> Path:
    """A model for vLLM that takes images; without one it says what the checkpoint says."""
    return environments.vlm()


@pytest.fixture(scope="session")
def vlmeval_env() -> Path:
    """A worker's environment with VLMEvalKit."""
    return environments.vlmeval_env()


@pytest.fixture(scope="session")
def llamacpp(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """The run's llama.cpp server."""
    with deploy(str(gguf), name="smol", max_model_len=1024, log_dir=tmp_path_factory.mktemp("llamacpp")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def vllm_server(
    vlm: Path, vllm_deploy: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """The run's vLLM server."""
    deployment = deploy(str(vlm), name="smol", log_dir=tmp_path_factory.mktemp("vllm"), **vllm_deploy)
    with deployment as endpoint:
        yield RunningServer(deployment, endpoint)


@pytest.fixture(scope="session")
def vllm(vllm_server: RunningServer) -> Endpoint:
    """Where it is."""
    return vllm_server.endpoint


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a multiple-choice set of 8 items for `general_mcq`, subset `tiny`."""
    folder = tmp_path_factory.mktemp("data")
    with (folder / "tiny_val.jsonl").open("w") as file:
        for number in range(len(WORDS)):
            options = {letter: WORDS[(number + step) % len(WORDS)] for step, letter in enumerate("ABCD")}
            answer = "ABCD"[number % 4]
            question = f"Which of these words is '{options[answer]}'?"
            file.write(json.dumps({"id": str(number), "question": question, **options, "answer": answer}) + "\n")
    return folder


@pytest.fixture
def stock_task(data: Path, tmp_path: Path) -> dict[str, Any]:
    """Stock fields of a task over that set; one request at a time, so that batching cannot change answers."""
    return {
        "datasets": ["general_mcq"],
        "dataset_args": {
            "general_mcq": {
                "local_path": str(data),
                "subset_list": ["tiny"],
                "prompt_template": "{question}\n{choices}\nReply with the letter alone, as in ANSWER: A",
            }
        },
        "generation_config": {"max_tokens": 6, "temperature": 0.0},
        "eval_batch_size": 1,
        "work_dir": str(tmp_path / "work"),
    }


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each real test, no process that it started is alive: guards and what hangs off them."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    yield
    if request.node.get_closest_marker("real") is None:
        return
    shared = {"llamacpp", "vllm", "server"} & set(request.fixturenames)  # they live longer than a test
    now = psutil.Process().children(recursive=True)
    left = [process for process in now if process.pid not in before and process.status() != psutil.STATUS_ZOMBIE]
    if not shared:
        _, alive = psutil.wait_procs(left, timeout=5)
        assert not alive, [process.cmdline() for process in alive]
