"""What `evalscope_evalflow` offers: what users call, typed, and nothing else."""

import inspect
import subprocess
import sys
import typing

import pytest

import evalscope_evalflow
from evalscope_evalflow import DeployConfig, FlowConfig, ModelConfig, deploy
from evalscope_evalflow.config.task import Task, read_section
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.plugin.evalflow_backend import prepare

PARAMETERS = inspect.signature(deploy).parameters
OWN = {"model", "name", "api_url", "log_dir"}  # of `deploy`, beside the keys of the section's `deploy`


def test_completion_offers_the_public_names_alone():
    assert dir(evalscope_evalflow) == sorted(evalscope_evalflow.__all__)
    assert {"Stopped", "demo_task", "deploy", "FlowConfig"} <= set(dir(evalscope_evalflow))


@pytest.mark.parametrize("name", evalscope_evalflow.__all__)
def test_every_public_name_is_there(name):
    assert getattr(evalscope_evalflow, name) is not None


def test_the_names_are_loaded_when_they_are_used():
    code = (
        "import sys, evalscope_evalflow as e\n"
        "names = lambda: {name for name in sys.modules if name.startswith(e.__name__)}\n"
        "before = names(); dir(e); assert names() == before; e.Stopped; assert e.__name__ + '.config' not in names()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", DeployConfig.model_fields)
def test_deploy_has_every_key_of_the_section_as_a_typed_parameter(name):
    parameter = PARAMETERS[name]
    default = DeployConfig.model_fields[name].get_default(call_default_factory=True)
    assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
    assert (parameter.default or None) == (default or None)
    assert typing.get_type_hints(deploy)[name] is not typing.Any
    assert f"\n        {name}: " in deploy.__doc__


def test_deploy_has_no_other_parameters():
    assert set(PARAMETERS) - OWN == set(DeployConfig.model_fields)


def test_what_deploy_is_given_is_what_the_engine_gets(tmp_path):
    set_by_hand = deploy("/any/m", engine="scripted", max_num_seqs=3, env_vars={"A": "1"}, log_dir=tmp_path)
    assert set_by_hand.deploy.to_section() == {"engine": "scripted", "max_num_seqs": 3, "env_vars": {"A": "1"}}
    model = ModelConfig(name="x", path="/any/m", deploy=DeployConfig(engine="scripted", max_num_seqs=5))
    assert deploy(model, log_dir=tmp_path).model.name == "x"
    assert deploy(model, log_dir=tmp_path).deploy.max_num_seqs == 5
    assert deploy(model, max_num_seqs=7, log_dir=tmp_path).deploy.max_num_seqs == 7


FLOW = FlowConfig(models=[ModelConfig(path="/m", api_key=None)], deploy=DeployConfig(max_num_seqs=3, api_key="sk-a"))
SECTION = {"models": [{"path": "/m"}], "deploy": {"max_num_seqs": 3, "api_key": "sk-a"}}


@pytest.mark.parametrize(
    "section",
    [
        FLOW,
        {"models": [ModelConfig(path="/m")], "deploy": DeployConfig(max_num_seqs=3, api_key="sk-a")},
        {"models": [{"path": "/m", "deploy": DeployConfig(max_num_seqs=3, api_key="sk-a")}]},
    ],
)
def test_objects_mean_what_mappings_mean(section, tmp_path):
    data = {"datasets": ["gsm8k"], "work_dir": str(tmp_path)}
    written = Task.parse({**data, "evalflow": SECTION})
    for task in (Task.parse({**data, "evalflow": section}), Task.parse(data, section)):
        assert task.models[0].name == "m"
        assert task.flow.deploy_for(task.models[0]) == written.flow.deploy_for(written.models[0])
    folded = prepare({"datasets": ["gsm8k"], "evalflow": section})["eval_config"]
    assert FlowConfig.parse({key: folded[key] for key in folded if key != "_given"}).models[0].name == "m"


def test_a_pattern_in_an_object_is_expanded(tmp_path, make_checkpoint):
    make_checkpoint("step-1")
    make_checkpoint("step-2")
    flow = FlowConfig(models=[f"{tmp_path}/step-*"])
    task = Task.parse({"datasets": ["gsm8k"], "evalflow": flow})
    assert [model.name for model in task.models] == ["step-1", "step-2"]


def test_an_object_says_what_it_said_when_it_is_read_again():
    assert FlowConfig.parse(read_section(FLOW)) == FLOW


def test_a_task_config_takes_the_object():
    from evalscope.config import TaskConfig

    config = TaskConfig(model="/m", datasets=["gsm8k"], evalflow=FLOW)
    assert config.eval_backend == "evalflow"
    assert config.eval_config["deploy"]["max_num_seqs"] == 3
    assert "sk-a" not in repr(config)
    again = TaskConfig(model="/m", datasets=["gsm8k"], eval_backend="evalflow", eval_config=FLOW)
    assert again.eval_config["deploy"]["max_num_seqs"] == 3


def test_something_else_in_its_place_is_refused_in_words():
    with pytest.raises(ConfigError, match="evalflow: is a DeployConfig"):
        Task.parse({"datasets": ["gsm8k"], "evalflow": DeployConfig()})
