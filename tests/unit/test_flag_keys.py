import json

import pytest

from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.flag_keys import expand
from evalscope_evalflow.task import Task

MODEL = {"eval_model_name": "m", "eval_model_path": "/models/m"}


def refused(task):
    with pytest.raises(ConfigError) as caught:
        Task.parse(task)
    return str(caught.value)


def test_a_section_without_flags_is_left_as_it_is():
    section = {"models": [{"name": "m", "path": "/m"}], "reuse": False, "worker-env": "/w"}
    assert expand(section) == ({"models": [{"name": "m", "path": "/m"}], "reuse": False, "worker_env": "/w"}, {})


def test_flags_and_keys_of_the_section_go_together():
    task = Task.parse({"datasets": ["arc"], "evalflow": {**MODEL, "eval-devices": [0, 1], "deploy": {"port": 9000}}})
    deploy = task.flow.deploy_for(task.models[0])
    assert (deploy.engine, deploy.devices, deploy.port) == ("vllm", "0,1", 9000)


def test_the_engine_of_the_section_decides_what_the_models_are():
    section = {"eval_model_name": "m", "remote_api_url": "http://x/v1", "deploy": {"engine": "remote"}}
    (model,) = Task.parse({"datasets": ["arc"], "evalflow": section}).models
    assert (model.api_url, model.path) == ("http://x/v1", None)


def test_the_engine_may_be_given_beside_the_stock_model():
    task = Task.parse({"model": "/m", "datasets": ["arc"], "evalflow": {"deploy_backend": "lmdeploy"}})
    assert task.flow.deploy.engine == "lmdeploy"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"deploy": {"port": 1}, "eval_port": 2}, "evalflow.eval_port: `deploy.port` says the same"),
        ({"deploy": {"max-model-len": 1}, "eval_max_model_length": 2}, "`deploy.max_model_len` says the same"),
        ({"models": [{"name": "m", "path": "/m"}], **MODEL}, "evalflow.eval_model_name: `models` says the same"),
        ({"backend": "Native", "eval_backend": "Native"}, "evalflow.eval_backend: `backend` says the same"),
        ({"mode": "all", "vlmevalkit_mode": "all"}, "evalflow.vlmevalkit_mode: `mode` says the same"),
        ({"limit": 5}, "evalflow.limit: is said in the section and outside of it"),
        ({"eval_model_name": ["a", "b"], "eval_model_path": "/a"}, "evalflow.eval_model_path: 1 given for 2 names"),
        ({"eval_model_path": "/a"}, "evalflow.eval_model_path: needs --eval_model_name beside it"),
        ({"judge_model_name": "j"}, "evalflow.judge_api_url: is required with the judge's other flags"),
        ({"eval_modle_name": "m"}, "evalflow.eval_modle_name: unknown key"),
    ],
)
def test_what_does_not_go_together_is_told(section, message):
    assert message in refused({"model": "/m", "limit": 3, "datasets": ["arc"], "evalflow": section})


def test_settings_of_generation_outside_and_inside_are_joined():
    task = Task.parse(
        {"datasets": ["arc"], "generation_config": {"top_p": 0.5}, "evalflow": {**MODEL, "eval_temperature": 0.2}}
    )
    assert task.stock["generation_config"] == {"top_p": 0.5, "temperature": 0.2}


def test_evalscopes_own_task_takes_them_as_well(monkeypatch):
    """`run_task` and `TaskConfig` go through the plugin, which sees the raw fields."""
    from evalscope_evalflow.plugin import backend

    section = {**MODEL, "datasets": ["arc"], "eval-max-new-tokens": 5, "eval-port": 9000, "work_dir": "w"}
    for form in (section, json.dumps(section)):
        values = backend.prepare({"eval_backend": "evalflow", "evalflow": form})
        assert (values["datasets"], values["generation_config"]) == (["arc"], {"max_tokens": 5})
        assert values["eval_config"]["deploy"] == {"port": 9000, "engine": "vllm"}
        assert {"datasets", "generation_config", "work_dir"} <= set(values["eval_config"][backend.GIVEN])
    with pytest.raises(ConfigError, match="in the section and outside of it"):
        backend.prepare({"eval_backend": "evalflow", "evalflow": section, "datasets": ["gsm8k"]})


def test_a_file_with_a_whole_task_may_name_the_stock_backend(tmp_path):
    from evalscope_evalflow.plugin import backend

    file = tmp_path / "task.yaml"
    file.write_text("eval_backend: Native\ndatasets: [arc]\nevalflow: {deploy: {port: 9000}}\n")
    values = backend.prepare({"eval_backend": "evalflow", "eval_config": str(file)})
    assert values["eval_config"]["backend"] == "Native"
    file.write_text("eval_backend: RAGEval\ndatasets: [arc]\nevalflow: {}\n")
    with pytest.raises(ConfigError, match="EvalFlow does not run 'RAGEval'"):
        backend.prepare({"eval_backend": "evalflow", "eval_config": str(file)})


def test_flags_of_evalscope_eval_win(monkeypatch):
    import sys

    from evalscope_evalflow.plugin import backend

    monkeypatch.setattr(sys, "argv", ["evalscope", "eval", "--datasets", "gsm8k"])
    section = {**MODEL, "datasets": ["arc"], "work_dir": "w"}
    values = backend.prepare({"eval_backend": "evalflow", "evalflow": section, "datasets": ["gsm8k"], "work_dir": None})
    assert (values["datasets"], values["work_dir"]) == (["gsm8k"], "w")
