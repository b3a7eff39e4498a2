"""The conformance suite, on every engine: for real where it serves here, and as far as it goes where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import environments
import pytest

from evalscope_evalflow import Endpoint
from evalscope_evalflow.testing.engine_suite import (
    REPEATING,
    SAMPLED_TOKENS,
    EngineConformance,
    RunningServer,
    ServerConformance,
    Subject,
)
from evalscope_evalflow.testing.remote_suite import API, APIConformance

pytestmark = pytest.mark.real
NO_SUCH_OPTION = {"extra_args": ["--no-such-option-at-all"]}


class TestScripted(ServerConformance):
    """The trivial one: a script of the tests."""

    subject = Subject(
        "scripted", "/any/model", broken={"extra_args": ["--exit-after-start", "7"]},
        cause="the script says: told to end with code 7", dies=7, extra_args=("--answer", "hello"),
        samples=False,
    )  # fmt: skip


class TestLlamaCpp(ServerConformance):
    """llama.cpp, for real."""

    @pytest.fixture(scope="class")
    @classmethod
    def tested(cls, gguf: Path) -> Subject:
        return Subject(
            "llamacpp", str(gguf), {"max_model_len": 512, "max_num_seqs": 1}, NO_SUCH_OPTION,
            cause="an argument is not understood: unrecognized arguments: --no-such-option-at-all", dies=2,
            extra_args=("--threads", "1"),
        )  # fmt: skip


class TestVLLM(ServerConformance):
    """vLLM's CPU build, for real: the server that the whole run shares."""

    @pytest.fixture(scope="class")
    @classmethod
    def tested(cls, checkpoint: Path, vllm_deploy: dict[str, Any]) -> Subject:
        return Subject(
            "vllm", str(checkpoint), vllm_deploy, NO_SUCH_OPTION,
            cause="vLLM rejects an argument: unrecognized arguments: --no-such-option-at-all", dies=2,
            extra_args=("--seed", "1"),
        )  # fmt: skip

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, vllm_server: RunningServer) -> RunningServer:
        return vllm_server

    def test_the_suites_question_is_one_that_a_repetition_penalty_changes(self, server: RunningServer) -> None:
        """Else the suite's test of it would show nothing."""
        plain = server.says(REPEATING, SAMPLED_TOKENS)
        assert server.says(REPEATING, SAMPLED_TOKENS, repetition_penalty=9.0) != plain


class TestLMDeploy(EngineConformance):
    """LMDeploy, which does not start without a GPU: that is its failure here."""

    @pytest.fixture(scope="class")
    @classmethod
    def tested(cls, checkpoint: Path) -> Subject:
        return Subject(
            "lmdeploy", str(checkpoint), {"env": str(environments.lmdeploy_env()), "max_model_len": 512},
            cause="LMDeploy needs a GPU and a CUDA build of PyTorch", dies=1,
            extra_args=("--log-level", "INFO"),
        )  # fmt: skip


class TestSGLang(EngineConformance):
    """SGLang, whose own packages for GPUs are not here: that is its failure."""

    @pytest.fixture(scope="class")
    @classmethod
    def tested(cls, checkpoint: Path) -> Subject:
        return Subject(
            "sglang", str(checkpoint), {"env": str(environments.sglang_env()), "max_model_len": 512},
            cause="the engine's environment is broken", dies=1,
            extra_args=("--log-level", "info"),
        )  # fmt: skip


class TestRemote(APIConformance):
    """An API that is there already: the llama.cpp server of the run, with tests of its own"""

    @pytest.fixture(scope="class")
    @classmethod
    def tested(cls, llamacpp: Endpoint) -> API:
        return API("remote", llamacpp.api_url, llamacpp.model, llamacpp.api_key)


SUITES: dict[str, type[EngineConformance | APIConformance]] = {
    "scripted": TestScripted,
    "llamacpp": TestLlamaCpp,
    "vllm": TestVLLM,
    "lmdeploy": TestLMDeploy,
    "sglang": TestSGLang,
    "remote": TestRemote,
}
