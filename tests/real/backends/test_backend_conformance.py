"""The conformance suite of backends, on EvalFlow's own two."""

from __future__ import annotations

from pathlib import Path

import pytest
import vlm_data

from evalscope_evalflow.testing.backend_suite import BackendConformance, Subject

pytestmark = pytest.mark.real


class TestNative(BackendConformance):
    """EvalScope's own backend, on two sets of one's own."""

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, data: Path) -> Subject:
        settings = {"general_mcq": {"local_path": str(data), "subset_list": ["tiny"]}}
        return Subject("Native", {"general_mcq": 8}, {"dataset_args": settings}, answer="ANSWER: A")


class TestVLMEvalKit(BackendConformance):
    """VLMEvalKit, on a multiple-choice set of one's own."""

    @pytest.fixture(scope="class")
    @classmethod
    def made(
        cls, vlmeval_env: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch_class: pytest.MonkeyPatch
    ) -> Subject:
        folder = tmp_path_factory.mktemp("LMUData")
        vlm_data.write_all(folder)
        monkeypatch_class.setenv("LMUData", str(folder))
        section = {"worker_env": str(vlmeval_env), "verify_md5": False}
        return Subject("VLMEvalKit", {vlm_data.CUSTOM: 8}, section=section, answer="A", verdict="A")

    @pytest.fixture(scope="class")
    @classmethod
    def monkeypatch_class(cls) -> pytest.MonkeyPatch:
        with pytest.MonkeyPatch.context() as patch:
            yield patch
