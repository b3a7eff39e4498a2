"""vLLM on a CPU: one engine answers with one checkpoint's weights after another's, and opens its control to nobody."""

from __future__ import annotations

import json
import math
import runpy
import shutil
import struct
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from evalscope_evalflow import deploy, release_kept
from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines import key_launcher
from evalscope_evalflow.serving import Deployment, http
from evalscope_evalflow.serving.engine_failure import RetryableStartError
from evalscope_evalflow.serving.engine_identity import identity
from evalscope_evalflow.serving.server import Server
from evalscope_evalflow.serving.weight_swap import swap_weights

pytestmark = pytest.mark.real
PROMPTS = [f"{number} + {number % 7 + 2} is" for number in range(6)] + ["The three largest cities of France are"] * 2
# The launcher is run by its path, and not imported.
GATE = SimpleNamespace(**runpy.run_path(key_launcher(Environment.find(None), "x", "y")[1], run_name="launcher"))
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@dataclass
class Seen:
    """What the one engine of these tests did.

    Attributes:
        answers: the log-probabilities of all answers' tokens, in the order of the models.
        weights: which weights it had.
        pids: its process.
        let_through: requests that got through the gate without the control key, and should not have.
        routes: how many routes were tried.
        sockets: where its processes listen: their name, address and port.
        port: its own port.
        doubt: what an impossible swap said.
        left: its processes after its end.
    """

    answers: list[list[list[float]]] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    let_through: list[str] = field(default_factory=list)
    routes: int = 0
    sockets: list[tuple[str, str, int]] = field(default_factory=list)
    port: int = 0
    doubt: str = ""
    left: list[int] = field(default_factory=list)


@pytest.fixture(scope="module")
def seen(checkpoint: Path, vllm_deploy: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A start with one checkpoint, another one's weights, the first one's again, and then what cannot be read."""
    folder = tmp_path_factory.mktemp("swap")
    first, second, torn = folder / "step-1", folder / "step-2", folder / "step-3"
    shutil.copytree(checkpoint, first)
    _trained_further(checkpoint, second)
    _trained_further(checkpoint, torn)
    hook = folder / "hook"
    hook.mkdir()
    shutil.copy(Path(__file__).with_name("routes_of_vllm.py"), hook / "sitecustomize.py")
    variables = {"PYTHONPATH": str(hook), "EVALFLOW_TEST_ROUTES": str(folder / "routes.json")}
    settings = {**vllm_deploy, "env_vars": {**vllm_deploy.get("env_vars", {}), **variables}, "keep_alive_s": 600}
    found = Seen()
    try:
        for path in (first, second, first):
            engine = deploy(str(path), log_dir=folder / "logs", **settings)
            with engine as endpoint:
                server = _server(engine)
                found.answers.append([_log_probabilities(endpoint, prompt) for prompt in PROMPTS])
                found.weights.append(engine.weights)
                found.pids.append(server.process.leader or 0)
        tree = psutil.Process(found.pids[-1])
        processes = [tree, *tree.children(recursive=True)]
        found.sockets = [
            (process.name(), item.laddr.ip, item.laddr.port)
            for process in processes
            for item in process.net_connections()
            if item.status == psutil.CONN_LISTEN
        ]
        found.port = server.address.port
        _walk(server, json.loads((folder / "routes.json").read_text()), found)
        engine = deploy(str(first), log_dir=folder / "logs", **settings)
        with engine:
            server = _server(engine)
            (weights,) = torn.glob("*.safetensors")
            with weights.open("r+b") as file:
                file.truncate(weights.stat().st_size // 2)
            model = ModelConfig(name="step-3", path=str(torn))
            with pytest.raises(RetryableStartError) as error:
                swap_weights(server, model, identity(server.engine, model, server.asked), 120)
            found.doubt = str(error.value)
            engine.release()
        found.left = [process.pid for process in processes if process.is_running()]
    finally:
        release_kept()
    return found


def test_the_engine_goes_on_with_other_weights(seen: Seen) -> None:
    first, second, again = seen.weights
    assert len(set(seen.pids)) == 1
    assert (first.took_from, second.took_from, again.took_from) == ("", "step-1", "step-2")
    assert first.fingerprint == again.fingerprint != second.fingerprint
    assert first.tensors == second.tensors == again.tensors > 100
    assert second.compared > 100


def test_its_answers_are_those_of_a_fresh_start(seen: Seen) -> None:
    first, second, again = seen.answers
    assert all(math.isfinite(value) for answer in second for value in answer)
    assert again == first
    assert all(one != other for one, other in zip(first, second, strict=True))
    assert second[-1] == second[-2]  # the cache of prefixes holds nothing of other weights


def test_no_route_but_those_of_the_model_opens_to_the_models_key(seen: Seen) -> None:
    assert seen.let_through == []
    assert seen.routes > 30


def test_it_listens_on_loopback_alone(seen: Seen) -> None:
    assert seen.sockets
    assert {address for _, address, _ in seen.sockets} == {"127.0.0.1"}
    # A CPU build's workers have Gloo, through which the workers of one model exchange tensors; nothing else listens.
    of_gloo = {name for name, _, _ in seen.sockets if "Worker" in name}
    assert {port for name, _, port in seen.sockets if name not in of_gloo} == {seen.port}


def test_weights_that_cannot_be_read_end_the_engine(seen: Seen) -> None:
    assert "could not take step-3's weights" in seen.doubt
    assert seen.doubt.endswith("a new one is started")
    assert seen.left == []


def _server(engine: Deployment) -> Server:
    assert engine.server is not None
    return engine.server


def _log_probabilities(endpoint: Any, prompt: str) -> list[float]:
    reply = endpoint.client().completions.create(
        model=endpoint.model, prompt=prompt, max_tokens=8, temperature=0, logprobs=1
    )
    assert reply.model == endpoint.model
    return list(reply.choices[0].logprobs.token_logprobs)


def _trained_further(source: Path, target: Path) -> None:
    """A copy of a checkpoint whose weights all differ a little: the lowest bits of the mantissas are others."""
    shutil.copytree(source, target)
    (file,) = target.glob("*.safetensors")
    raw = bytearray(file.read_bytes())
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    words = np.frombuffer(raw, dtype="<u2", offset=start)
    words ^= np.random.default_rng(0).integers(0, 8, len(words), dtype=np.uint16)
    file.write_bytes(raw)


def _walk(server: Server, routes: list[Any], found: Seen) -> None:
    """Try every route with every method, without a key and with the model's."""
    paths = {path.replace("{response_id}", "resp_1") for _, path, _ in routes if path}
    paths |= {"/evalflow/swap", "/evalflow/weights", "/nowhere"}
    found.routes = len(paths)
    for path in sorted(paths):
        inside = path.rstrip("/")
        for method in METHODS:
            is_open = inside in GATE.OPEN_PATHS and method in GATE.OPEN_METHODS
            of_model = inside in GATE.MODEL_PATHS or bool(GATE.MODEL_PATH.fullmatch(path))
            for key, allowed in ("", is_open), (server.address.api_key, is_open or of_model):
                status = _status(f"{server.address.root}{path}", method, key)
                if not allowed and status not in (401, 403):
                    found.let_through.append(f"{method} {path} with {'the model key' if key else 'no key'}: {status}")
    swap = http.request(f"{server.address.root}/evalflow/nothing", api_key=server.control_key, body={}, direct=True)
    assert (swap.status, "there is no 'nothing' here" in swap.message) == (500, True)


def _status(url: str, method: str, key: str | None) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url, b"{}" if method in ("POST", "PUT", "PATCH") else None, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
