"""What is recorded of what answers were made with."""

import json
import sys
from types import SimpleNamespace

import pytest
from fake_nvml import Driver

from evalscope_evalflow.config import DeployConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines import load_engine
from evalscope_evalflow.serving.engine_facts import differences, engine_facts

TORCH = "__version__ = '2.11.0+cu130'\ndebug = False\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"


@pytest.fixture
def server(tmp_path):
    """Makes what there is of a server that was started in an environment with these packages."""

    def make(*packages, gpus=(), where="lib/python3.12/site-packages", **deploy):
        prefix = tmp_path / "env"
        (prefix / "bin").mkdir(parents=True)
        (prefix / "bin" / "python").symlink_to(sys.executable)
        site = prefix / where
        (site / "torch").mkdir(parents=True)
        (site / "torch" / "version.py").write_text(TORCH)
        for package in packages:
            (site / f"{package}.dist-info").mkdir()
        settings = DeployConfig(env=str(prefix), tensor_parallel=2, data_parallel=1)
        return SimpleNamespace(deploy=settings.model_copy(update=deploy), devices=SimpleNamespace(products=list(gpus)))

    return make


def test_versions_come_from_the_engines_own_environment(server):
    found = server("vllm-0.33.0", gpus=["NVIDIA H100 80GB HBM3"] * 2, devices="0,1")
    facts = engine_facts(load_engine("vllm"), found)
    assert facts | {"env": ""} == {
        "engine": "vllm",
        "version": "0.33.0",
        "env": "",
        "torch": "2.11.0+cu130",
        "cuda": "13.0",
        "gpus": ["NVIDIA H100 80GB HBM3"] * 2,
        "tensor_parallel": 2,
        "data_parallel": 1,
        "max_num_seqs": 200,
    }


def test_where_files_do_not_tell_the_interpreter_is_asked(server, monkeypatch):
    """A system's own environment has its packages elsewhere. This interpreter has pytest, and no vLLM."""
    found = server(where="elsewhere")
    engine = load_engine("vllm")
    assert "version" not in engine_facts(engine, found)
    monkeypatch.setattr(type(engine), "distribution", "pytest")
    monkeypatch.setattr(type(engine), "version", lambda self, env: None)
    own = Environment.find(None)
    monkeypatch.setattr(Environment, "find", classmethod(lambda cls, where: own))
    assert engine_facts(engine, found)["version"] == pytest.__version__


@pytest.mark.parametrize("devices", ["-1", ""])
def test_an_engine_on_the_cpu_has_no_gpu(server, devices):
    found = server("xllamacpp-1.0", gpus=["NVIDIA H100 80GB HBM3"], devices=devices)
    assert "gpus" not in engine_facts(load_engine("llamacpp"), found)


def test_the_drivers_versions(tmp_path_factory, tmp_path):
    driver = Driver(tmp_path_factory.getbasetemp() / "nvml", tmp_path)
    code = (
        "import json; from evalscope_evalflow.devices.nvml import driver_versions; print(json.dumps(driver_versions()))"
    )
    assert driver.python(code) == {"driver": "580.65.06", "driver_cuda": "13.0"}
    driver.write("init 18")
    assert driver.python(code) == {}


def test_what_differs_is_put_in_words():
    before = {"engine": "vllm", "version": "0.32.0", "torch": "2.10", "gpus": ["A100", "A100"], "tensor_parallel": 2}
    now = {"engine": "vllm", "version": "0.33.0", "torch": "2.10", "gpus": ["H100"], "tensor_parallel": 1}
    assert differences(before, now) == ["vllm 0.32.0, and now 0.33.0", "gpus A100, and now H100"]
    assert differences({}, now) == []
    assert json.dumps(now)


def test_turbomind_is_known_to_answer_differently():
    engine = load_engine("lmdeploy")
    assert engine.why_answers_differ(DeployConfig()).startswith("turbomind's answers differ from run to run")
    assert engine.why_answers_differ(DeployConfig(extra_args=["--backend", "pytorch"])) == ""
    assert engine.why_answers_differ(DeployConfig(extra_args=["--backend=turbomind"]))
    assert load_engine("vllm").why_answers_differ(DeployConfig()) == ""
