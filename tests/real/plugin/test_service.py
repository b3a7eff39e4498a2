"""`evalscope service`: its tasks may have an `evalflow` section, and it shows every run folder of ours."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from leftovers import left_of, marked
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    """A running service over the folder `outputs`."""
    (tmp_path / "outputs").mkdir()
    with running(tmp_path / "outputs", tmp_path) as url:
        yield url


@contextmanager
def running(outputs: Path, folder: Path) -> Iterator[str]:
    """Run a service.

    Args:
        outputs: the folder that it shows.
        folder: for its log.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "service.log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "evalscope", "service", "--host", "127.0.0.1", "--port", str(port), "--outputs", outputs],
            stdout=log, stderr=log, cwd=folder, env={**marked(folder), "EVALSCOPE_OUTPUT_DIR": str(outputs)},
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        wait = Retrying(
            retry=retry_if_exception_type(OSError), stop=stop_after_delay(90), wait=wait_fixed(0.2), reraise=True
        )
        wait(ask, f"{url}/health")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def ask(url: str, body: dict[str, Any] | None = None, task_id: str = "") -> Any:
    """GET, or POST as JSON."""
    headers = {"Content-Type": "application/json", **({"EvalScope-Task-Id": task_id} if task_id else {})}
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers)
    with urllib.request.urlopen(request, timeout=300) as reply:
        return json.load(reply)


def test_a_task_with_a_section_runs_resumes_and_is_shown(
    service: str, stock_task: dict[str, Any], gguf: Path, tmp_path: Path
) -> None:
    task = {
        **stock_task,
        "model": str(gguf),
        "model_id": "smol",
        "api_url": "http://127.0.0.1:9/v1",  # the service insists on one; the model is deployed here all the same
        "evalflow": {"backend": "Native", "deploy": {"max_model_len": 1024, "max_num_seqs": 1}},
    }
    task.pop("work_dir")
    record = tmp_path / "outputs" / "first" / "evalflow" / "run.json"
    try:
        answer = ask(f"{service}/api/v1/eval/invoke", task, "first")
    except urllib.error.HTTPError as error:  # its body only says where to look
        raise AssertionError(record.read_text() + (tmp_path / "service.log").read_text()) from error
    assert answer["status"] == "completed"
    assert "general_mcq" in json.dumps(answer["result"])
    again = ask(f"{service}/api/v1/eval/resume/invoke", task, "first")
    assert again["status"] == "completed"
    log = (tmp_path / "outputs" / "first" / "evalflow" / "engine.log").read_text(errors="replace")
    # Resumed, not asked again; at a start one more is asked, unless the second run was done before that.
    assert log.count("stop processing:") in (8 + 1, 8 + 2)
    shown = ask(f"{service}/api/v1/reports?root_path={tmp_path / 'outputs'}")
    assert ("smol", "first") in {(item["model_name"], item.get("run_id") or item.get("name")) for item in items(shown)}
    assert not [process for process in left_of(tmp_path) if str(gguf) in process.cmdline()]


def items(shown: Any) -> list[dict[str, Any]]:
    """The list in the service's answer."""
    for value in shown.values():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return value
    raise AssertionError(shown)
