import argparse
import json

import pytest

from evalscope_evalflow.cli.flags import add_flags, mapping_from_flags
from evalscope_evalflow.cli.parser import normalise
from evalscope_evalflow.config import FlowConfig
from evalscope_evalflow.config.keys import reveal
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.engines import load_engine
from evalscope_evalflow.errors import ConfigError


def mapping(*words):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser)
    return mapping_from_flags(parser.parse_args(normalise(words, parser)))


BASE = ("--work_dir", "w", "--eval_model_name", "m", "--eval_model_path", "/models/m")
REMOTE = ("--work_dir", "w", "--eval_model_name", "m", "--remote_api_url", "http://x/v1")
JUDGE = ("--judge_model_name", "j", "--judge_api_url", "http://j/v1", "--judge_api_key", "${J_KEY}")


def test_values_keep_their_underscores_and_dashes():
    task = mapping(*BASE, "--datasets", "general_qa", "--extra-args=--max_loras 2")
    assert task["datasets"] == ["general_qa"]
    assert task["evalflow"]["deploy"]["extra_args"] == ["--max_loras", "2"]


def test_defaults_are_those_that_the_help_states():
    task = mapping(*BASE)
    assert task["datasets"] == ["LogicVista", "MathVista_MINI", "WeMath", "MathVision", "MathVerse_MINI", "DynaMath"]
    assert task["generation_config"] == {"max_tokens": 2048, "temperature": 0.0}
    flow = FlowConfig.parse(task["evalflow"])
    deploy = flow.deploy_for(flow.models[0])
    assert (flow.mode, flow.reuse) == ("all", True)
    assert Task.parse(task).flow.backend == "VLMEvalKit"  # which has the six
    assert flow.judge_max_num_seqs == 200
    assert (deploy.engine, deploy.devices, deploy.host, deploy.port) == ("vllm", "0", "127.0.0.1", 8000)
    assert (deploy.max_model_len, deploy.env, deploy.api_key) == (32768, None, None)
    assert load_engine("vllm").max_num_seqs(deploy) == 200


def test_the_default_context_is_the_models_own_where_that_is_less(checkpoint_folder):
    task = mapping("--work_dir", "w", "--eval_model_name", "m", "--eval_model_path", str(checkpoint_folder))
    assert task["evalflow"]["models"][0]["deploy"] == {"max_model_len": 4096}


@pytest.mark.parametrize(
    ("words", "engine"),
    [
        (("--eval_model_path", "/m"), "vllm"),
        (("--eval_model_path", "/m.gguf"), "llamacpp"),
        (("--remote_api_url", "http://x/v1"), "remote"),
    ],
)
def test_the_engine_follows_from_what_is_given(words, engine):
    task = mapping("--work_dir", "w", "--eval_model_name", "m", *words)
    assert task["evalflow"]["deploy"]["engine"] == engine


def test_an_api_gets_nothing_that_only_a_local_engine_has():
    task = mapping(*REMOTE)
    assert task["evalflow"]["deploy"] == {"engine": "remote"}


def test_flags_that_mean_nothing_to_an_api_are_told():
    words = (
        "--eval_devices",
        "0,1",
        "--eval-max-model-length",
        "512",
        "--eval_port",
        "9000",
        "--eval_max_num_seqs",
        "4",
    )
    assert Task.parse(mapping(*REMOTE)).notes == ()
    assert Task.parse(mapping(*REMOTE, *words)).notes == (
        "devices, max_model_len, port: without effect, as nothing is deployed here",
    )
    assert Task.parse(mapping(*BASE, *words)).notes == ()


def test_beside_a_model_that_is_deployed_they_have_one():
    models = [{"name": "m", "path": "/m"}, {"name": "api", "api_url": "http://x/v1", "deploy": {"engine": "remote"}}]
    section = {"models": models, "deploy": {"max_model_len": 512}}
    assert Task.parse({"datasets": ["arc"], "evalflow": section}).notes == ()
    section["models"] = models[1:]
    assert Task.parse({"datasets": ["arc"], "evalflow": section}).notes == (
        "max_model_len: without effect, as nothing is deployed here",
    )


def test_several_models_are_paired_in_order():
    words = ("--work_dir", "w", "--eval_model_name", "a", "b", "--eval_model_path", "/a", "/b")
    models = Task.parse(mapping(*words)).models
    assert [(model.name, model.path) for model in models] == [("a", "/a"), ("b", "/b")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--eval_model_path", "/a"), "--eval_model_path: 1 given for 2 names"),
        ((), "--eval_model_path: 0 given for 2 names"),
        (("--remote_api_url", "http://x", "http://y", "http://z"), "--remote_api_url: 3 given for 2 names"),
        (("--deploy_backend", "remote"), "--remote_api_url: 0 given for 2 names"),
        (
            ("--eval_model_path", "/a", "/b", "--deploy_backend", "vllm", "--remote_api_url", "http://x", "http://y"),
            "--remote_api_url: has no place beside vllm",
        ),
    ],
)
def test_as_many_models_as_names_are_needed(words, message):
    with pytest.raises(ConfigError) as caught:
        mapping("--work_dir", "w", "--eval_model_name", "a", "b", *words)
    assert message in str(caught.value)


def test_what_is_required_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        mapping("--datasets", "a")
    assert "--work_dir: is required" in str(caught.value)
    assert "--eval_model_name: is required" in str(caught.value)


@pytest.mark.parametrize("missing", ["judge_model_name", "judge_api_url"])
def test_half_a_judge_is_refused(missing):
    words = list(JUDGE)
    place = words.index(f"--{missing}")
    with pytest.raises(ConfigError, match=f"--{missing}: is required with the judge's other flags"):
        mapping(*BASE, *words[:place], *words[place + 2 :])


@pytest.mark.parametrize("words", [BASE, REMOTE])
def test_empty_means_that_no_key_is_given(words):
    task = Task.parse(mapping(*words, "--eval_api_key", "EMPTY"))
    deploy = task.flow.deploy_for(task.models[0])
    assert reveal(deploy.api_key) is None
    assert reveal(task.models[0].api_key) is None


@pytest.mark.parametrize(
    "words",
    [
        ("--reuse", "perhaps"),
        ("--dataset_args", "{"),
        ("--dataset_args", "[1]"),
        ("--env_vars", "5"),
        ("--eval_port", "http"),
        ("--limit", "few"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_its_flag(words, capsys):
    with pytest.raises(SystemExit) as caught:
        mapping(*BASE, *words)
    assert caught.value.code == 2
    assert f"argument {words[0]}" in capsys.readouterr().err


def test_a_task_of_flags_survives_being_written_to_a_file():
    task = mapping(*BASE, *JUDGE, "--eval_api_key", "${E_KEY}")
    assert Task.parse(json.loads(json.dumps(task))) == Task.parse(task)
