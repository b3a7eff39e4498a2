"""The conformance suite of executors on a real Ray cluster, with a scripted engine, which is there in a moment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ray_cluster import CPUS, TwoNodes

from evalscope_evalflow.testing.executor_suite import ExecutorSuite

pytestmark = pytest.mark.cluster
SCRIPTED = Path(__file__).parents[2] / "scripted"


class TestRay(ExecutorSuite):
    choice: ClassVar[str | Mapping[str, Any]] = "ray"
    model: ClassVar[dict[str, Any]] = {"path": "any", "deploy": {"engine": "scripted"}}
    broken: ClassVar[dict[str, Any]] = {"extra_args": ["--exit-after-start", "7"]}
    slow: ClassVar[dict[str, Any]] = {"extra_args": ["--answer-seconds", "0.5"]}
    machines: ClassVar[int] = 2

    @pytest.fixture(autouse=True)
    def _on_the_cluster(self, ray_nodes: TwoNodes, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nodes know the scripted engine, and register runs where the test looks."""
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(SCRIPTED), os.environ.get("PYTHONPATH")])))
        options: dict[str, Any] = {"name": "ray", "address": ray_nodes.address}
        options["pass_env"] = ["PYTHONPATH", "EVALFLOW_RUNTIME_DIR"]
        options["resources"] = {"CPU": CPUS}  # one job on each node
        options["max_requeues"] = 0  # a job that dies has failed
        monkeypatch.setattr(TestRay, "choice", options)
