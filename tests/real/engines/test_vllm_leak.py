"""Why there is a guard: what vLLM leaves behind when its API server is killed, without us.

With us it leaves nothing: the row "SIGKILL of vLLM's API server" of the fault matrix.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import environments
import psutil
import pytest
from fault_run import orphans_come_here, wait_for

from evalscope_evalflow.processes import ports
from evalscope_evalflow.serving import http

pytestmark = pytest.mark.real
LOOK_FOR_S = 5.0  # with us everything is gone within that


def test_vllm_alone_leaves_its_engine_behind(checkpoint: Path, vllm_deploy: dict[str, Any], tmp_path: Path) -> None:
    lease = ports.lease("127.0.0.1")
    argv = [
        str(environments.vllm_env() / "bin" / "python"), "-m", "vllm.entrypoints.cli.main", "serve", str(checkpoint),
        "--host", "127.0.0.1", "--port", str(lease.port), "--max-model-len", "2048", *vllm_deploy["extra_args"],
    ]  # fmt: skip
    with orphans_come_here(), (tmp_path / "vllm.log").open("wb") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, **vllm_deploy["env_vars"]})
        started: list[psutil.Process] = []

        def is_ready() -> bool:
            assert server.poll() is None, (tmp_path / "vllm.log").read_text()
            return http.request(f"http://127.0.0.1:{lease.port}/health", direct=True).ok

        try:
            wait_for(is_ready, "vLLM is ready", 300)
            started = psutil.Process(server.pid).children(recursive=True)
            assert any("EngineCore" in process.name() for process in started)
            server.kill()
            server.wait()
            _, alive = psutil.wait_procs(started, timeout=LOOK_FOR_S)
            names = [process.name() for process in alive if process.status() != psutil.STATUS_ZOMBIE]
            assert any("EngineCore" in name for name in names), "vLLM has mended it: say so in docs/measured/faults.md"
        finally:
            server.kill()
            server.wait()
            for process in started:
                if process.is_running():
                    process.kill()
            psutil.wait_procs(started, timeout=30)
            lease.release()
