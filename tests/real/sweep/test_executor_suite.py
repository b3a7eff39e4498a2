"""The conformance suite of executors: ours, and the documentation's example."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from doc_plugin import names_of_tests, run_example

from evalscope_evalflow.testing.executor_suite import ExecutorSuite

pytestmark = pytest.mark.real
SCRIPTED = Path(__file__).parents[2] / "scripted"


class Scripted(ExecutorSuite):
    """With a scripted engine, which is there in a moment."""

    model: ClassVar[dict[str, Any]] = {"path": "any", "deploy": {"engine": "scripted"}}
    broken: ClassVar[dict[str, Any]] = {"extra_args": ["--exit-after-start", "7"]}
    slow: ClassVar[dict[str, Any]] = {"extra_args": ["--answer-seconds", "0.5"]}


class TestLocal(Scripted):
    choice = "local"


class TestInline(Scripted):
    choice = "inline"


def test_the_example_of_the_documentation_passes_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the scripted engine in place of llama.cpp, which would keep every core busy for minutes."""
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTED))
    shown = '{"path": "/models/small.gguf", "deploy": {"engine": "llamacpp", "max_model_len": 1024}}'
    scripted = {"path": "any", "deploy": {"engine": "scripted", "extra_args": ["--answer-seconds", "0.3"]}}
    ran = run_example("add-an-executor.md", tmp_path, timeout_s=550, **{shown: str(scripted)})
    assert ran == names_of_tests(ExecutorSuite)
