"""An API that goes wrong in the middle of a run, behind TLS: each fault is told apart, and what is saved is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import vlm_data
import yaml
from tls_server import Authority, Reply, TlsServer, completion

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent
KEY = "sk-of-the-model"
CLOSE = {"Connection": "close"}  # so that the next request shakes hands anew


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def api(authority: Authority) -> Iterator[TlsServer]:
    with TlsServer(authority.context(), ["m", "other"], KEY) as server:
        yield server


def run(
    api: TlsServer, authority: Authority, task: dict[str, Any], folder: Path, **more: Any
) -> subprocess.CompletedProcess[str]:
    """`evalflow run`; `more` is for the section."""
    model = {"name": "m", "api_url": f"{api.url}/", "api_key": "${THE_KEY}"}
    generation = {**task["generation_config"], "retries": 3, "retry_interval": 0}
    section = {"backend": "Native", "models": [model], **more}
    file = folder / "task.yaml"
    file.write_text(yaml.safe_dump({**task, "generation_config": generation, "evalflow": section}))
    env = {**os.environ, "SSL_CERT_FILE": str(authority.file), "THE_KEY": KEY}
    command = [BIN / "evalflow", "run", file]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=env)


def saved(task: dict[str, Any]) -> int:
    files = Path(task["work_dir"]).rglob("predictions/**/*.jsonl")
    return sum(len(file.read_text().splitlines()) for file in files)


def answered(model: str = "m") -> Reply:
    return 200, CLOSE, completion(model, "ANSWER: A")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("key", "(401: the key is refused): Unauthorized"),
        ("model", "(404: there is no such model, or no such API): there is no model m; it lists: other"),
        ("quota", "(429: the account has no quota left): You exceeded your current quota"),
        ("trust", "cannot be asked any more: its TLS certificate is not trusted: certificate has expired"),
    ],
)
def test_what_no_sample_survives_ends_the_run_and_the_next_one_goes_on(
    fault: str, said: str, api: TlsServer, authority: Authority, stock_task: dict[str, Any], tmp_path: Path
) -> None:
    def reply(number: int) -> Reply | None:
        if number == 3:
            if fault == "key":
                return 401, CLOSE, {"error": {"message": "Unauthorized"}}
            if fault == "model":
                api.models.remove("m")
                return None
        if number >= 3 and fault == "quota":
            message = "You exceeded your current quota"
            return 429, CLOSE, {"error": {"message": message, "code": "insufficient_quota"}}
        if number == 2 and fault == "trust":
            api.context = authority.context(days=-1)
        return answered() if number else None

    api.reply = reply
    done = run(api, authority, stock_task, tmp_path)
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert KEY not in done.stderr
    asked = 2 if fault == "trust" else 3
    assert len(api.asked) == asked, "what cannot work is not tried again"
    assert saved(stock_task) == 2
    api.models, api.context, api.reply = ["m"], authority.context(), lambda number: answered() if number else None
    again = run(api, authority, stock_task, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "8/8" in again.stdout
    assert len(api.asked) == asked + 6


def test_a_busy_api_gets_the_time_that_it_asks_for(
    api: TlsServer, authority: Authority, stock_task: dict[str, Any], tmp_path: Path
) -> None:
    times: list[float] = []

    def reply(number: int) -> Reply | None:
        times.append(time.monotonic())
        if number in (3, 4, 5, 6):  # more often than the openai package itself asks again
            return 429, {"Retry-After": "1"}, {"error": {"message": "slow down"}}
        return answered() if number else None

    api.reply = reply
    done = run(api, authority, stock_task, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "8/8" in done.stdout
    assert len(api.asked) == 8 + 4
    asked = times[1:]  # the first is preflight's
    assert all(asked[number] - asked[number - 1] >= 1 for number in (3, 4, 5, 6))
    failures = Path(stock_task["work_dir"]) / "m" / "evalflow" / "failures.jsonl"
    assert not failures.exists()


def test_an_api_that_stays_busy_leaves_samples_to_be_asked_later(
    api: TlsServer, authority: Authority, stock_task: dict[str, Any], tmp_path: Path
) -> None:
    busy: Reply = (429, {"Retry-After": "86400"}, {"error": {"message": "come back tomorrow"}})
    api.reply = lambda number: busy if number > 6 else answered() if number else None
    done = run(api, authority, stock_task, tmp_path)
    assert done.returncode == 3, done.stderr
    assert "2 × rate limited (transient)" in done.stderr
    assert len(api.asked) == 7, "an API that says tomorrow is not asked again today"
    assert "was given up: it asks to wait 86400 s (429: come back tomorrow)" in done.stderr
    rows = (Path(stock_task["work_dir"]) / "m" / "evalflow" / "failures.jsonl").read_text().splitlines()
    (said,) = {json.loads(row)["message"] for row in rows}
    assert said == f"{api.url} was given up: it asks to wait 86400 s (429: come back tomorrow)"


def test_an_api_that_dies_is_reported_at_once_given_up_and_gone_on_with_later(
    api: TlsServer, authority: Authority, stock_task: dict[str, Any], tmp_path: Path
) -> None:
    """Probes and preflight's question are number 0."""
    dead = threading.Event()

    def reply(number: int) -> Reply | None:
        if number == 3:
            dead.set()
        if dead.is_set():
            return 503, CLOSE, {"error": {"message": "no capacity"}}
        return answered() if number else None

    api.reply = reply
    deploy = {"engine": "remote", "stall_timeout_s": 2}
    done = run(api, authority, stock_task, tmp_path, deploy=deploy)
    assert done.returncode == 3, done.stderr
    assert f"the API at {api.url} does not work: 503: no capacity" in done.stderr
    assert f"the API at {api.url} was given up after 2 s: 503: no capacity" in done.stderr
    assert "2 of 8 answered; 6 × api down (transient)" in done.stderr
    assert len(api.asked) == 3, "one sample met the outage, and a probe asked for the others"
    assert saved(stock_task) == 2
    folder = Path(stock_task["work_dir"]) / "m" / "evalflow"
    found = json.loads((folder / "run.json").read_text())
    assert (found["state"], found["apis"]["model"]["state"]) == ("incomplete", "given up")
    events = {
        json.loads(line)["event"]: json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()
    }
    times = [datetime.fromisoformat(events[name]["time"]) for name in ("WorkerAsking", "ApiDown", "ApiGivenUp")]
    assert (times[1] - times[0]).total_seconds() < 10
    api.reply = lambda number: answered() if number else None
    again = run(api, authority, stock_task, tmp_path, deploy=deploy)
    assert again.returncode == 0, again.stderr
    assert "8/8" in again.stdout
    assert len(api.asked) == 3 + 6


def test_vlmevalkit_waits_when_it_is_asked_to_and_ends_when_the_key_is_refused(
    api: TlsServer, authority: Authority, vlmeval_env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default backend, whose own client takes the text of every failure for an answer."""
    (tmp_path / "LMUData").mkdir()
    vlm_data.write_all(tmp_path / "LMUData")
    monkeypatch.setenv("LMUData", str(tmp_path / "LMUData"))
    rows = vlm_data.ROWS[vlm_data.CUSTOM]
    section = {"backend": "VLMEvalKit", "worker_env": str(vlmeval_env), "verify_md5": False, "mode": "infer"}
    task = {
        "datasets": [vlm_data.CUSTOM], "work_dir": str(tmp_path / "work"), "eval_batch_size": 1,
        "generation_config": {"max_tokens": 6},
    }  # fmt: skip
    times: list[float] = []

    def reply(number: int) -> Reply | None:
        times.append(time.monotonic())
        if number == 2:
            return 429, {"Retry-After": "1"}, {"error": {"message": "slow down"}}
        if number == 5:
            return 401, CLOSE, {"error": {"message": "Unauthorized"}}
        return answered() if number else None

    api.reply = reply
    done = run(api, authority, task, tmp_path, **section)
    assert done.returncode == 1, done.stderr
    assert "(401: the key is refused): Unauthorized" in done.stderr
    assert KEY not in done.stderr
    assert len(api.asked) == 5
    assert times[3] - times[2] >= 1  # the first is preflight's
    api.reply = lambda number: answered() if number else None
    again = run(api, authority, task, tmp_path, **section)
    assert again.returncode == 0, again.stderr
    assert f"{rows}/{rows}" in again.stdout
    assert len(api.asked) == 5 + rows - 3, "three were answered, and are not asked again"
