import argparse
import json

import pytest

from evalscope_evalflow.config import FlowConfig
from evalscope_evalflow.engines import Address, load_engine
from evalscope_evalflow.engines.environment import Environment
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.flags import FLAGS, add_flags, mapping_from_flags, normalise
from evalscope_evalflow.keys import reveal
from evalscope_evalflow.task import Task


def mapping(*words):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser)
    return mapping_from_flags(parser.parse_args(normalise(words)))


def at(tree, path):
    for step in path.split("."):
        tree = tree[int(step)] if step.isdigit() else tree[step]
    return tree


BASE = ("--work_dir", "w", "--eval_model_name", "m", "--eval_model_path", "/models/m")
REMOTE = ("--work_dir", "w", "--eval_model_name", "m", "--remote_api_url", "http://x/v1")
JUDGE = ("--judge_model_name", "j", "--judge_api_url", "http://j/v1", "--judge_api_key", "${J_KEY}")

LANDINGS = [
    (BASE, "work_dir", "w"),
    (BASE, "evalflow.models.0.name", "m"),
    (BASE, "evalflow.models.0.path", "/models/m"),
    (REMOTE, "evalflow.models.0.api_url", "http://x/v1"),
    ((*BASE, "--conda_env", "/opt/vllm"), "evalflow.deploy.env", "/opt/vllm"),
    ((*BASE, "--worker_env", "/opt/w"), "evalflow.worker_env", "/opt/w"),
    ((*BASE, "--deploy_backend", "llamacpp"), "evalflow.deploy.engine", "llamacpp"),
    ((*BASE, "--eval_backend", "Native"), "evalflow.backend", "Native"),
    ((*BASE, "--datasets", "a", "b"), "datasets", ["a", "b"]),
    ((*BASE, "--dataset_args", '{"a": {"x": 1}}'), "dataset_args", {"a": {"x": 1}}),
    ((*BASE, "--limit", "10"), "limit", 10),
    ((*BASE, "--limit", "0.5"), "limit", 0.5),
    ((*BASE, "--reuse", "False"), "evalflow.reuse", False),
    ((*BASE, *JUDGE), "judge.models.0.model_id", "j"),
    ((*BASE, *JUDGE), "judge.models.0.api_url", "http://j/v1"),
    ((*BASE, *JUDGE), "judge.models.0.api_key", "${J_KEY}"),
    ((*BASE, "--eval_max_model_length", "512"), "evalflow.deploy.max_model_len", 512),
    ((*BASE, "--eval_max_new_tokens", "64"), "generation_config.max_tokens", 64),
    ((*BASE, "--eval_max_num_seqs", "16"), "evalflow.deploy.max_num_seqs", 16),
    ((*REMOTE, "--eval_max_num_seqs", "16"), "evalflow.deploy.max_num_seqs", 16),
    ((*BASE, "--eval_temperature", "0.7"), "generation_config.temperature", 0.7),
    ((*BASE, "--eval_template", "/t.jinja"), "evalflow.deploy.chat_template", "/t.jinja"),
    ((*BASE, "--eval_devices", "2,3"), "evalflow.deploy.devices", "2,3"),
    ((*BASE, "--eval_host", "0.0.0.0"), "evalflow.deploy.host", "0.0.0.0"),
    ((*BASE, "--eval_port", "9000"), "evalflow.deploy.port", 9000),
    ((*BASE, "--eval_api_key", "${E_KEY}"), "evalflow.deploy.api_key", "${E_KEY}"),
    ((*REMOTE, "--eval_api_key", "${E_KEY}"), "evalflow.models.0.api_key", "${E_KEY}"),
    ((*BASE, "--extra_args=--dtype bfloat16"), "evalflow.deploy.extra_args", ["--dtype", "bfloat16"]),
    ((*BASE, "--env_vars", '{"A": "1"}'), "evalflow.deploy.env_vars", {"A": "1"}),
]


@pytest.mark.parametrize(("words", "path", "value"), LANDINGS)
def test_every_flag_lands_where_a_task_file_has_it(words, path, value):
    task = mapping(*words)
    assert at(task, path) == value
    assert Task.parse(task).models[0].name == "m"


def test_no_flag_is_missing_from_the_table_above():
    used = {word.split("=")[0] for words, _, _ in LANDINGS for word in words if word.startswith("--")}
    assert {f"--{flag.name}" for flag in FLAGS} - used == {"--dry_run", "--verbose"}  # of the command itself


@pytest.mark.parametrize(("words", "path", "value"), LANDINGS)
def test_dashes_mean_underscores(words, path, value):
    dashed = [
        word.partition("=")[0].replace("_", "-") + "".join(word.partition("=")[1:]) if word.startswith("--") else word
        for word in words
    ]
    assert at(mapping(*dashed), path) == value


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
    assert (flow.backend, flow.mode, flow.reuse) == ("VLMEvalKit", "all", True)
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


def test_several_models_are_paired_in_order():
    words = ("--work_dir", "w", "--eval_model_name", "a", "b", "--eval_model_path", "/a", "/b")
    models = Task.parse(mapping(*words)).models
    assert [(model.name, model.path) for model in models] == [("a", "/a"), ("b", "/b")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--eval_model_path", "/a"), "--eval_model_path: 1 given for 2 names"),
        ((), "--eval_model_path: 0 given for 2 names"),
        (("--remote_api_url", "http://x"), "--remote_api_url: 1 given for 2 names"),
        (("--deploy_backend", "remote"), "--remote_api_url: 0 given for 2 names"),
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


def command(engine, *words, path):
    """The command that flags come to, with the process that would have been started left out."""
    task = Task.parse(mapping("--work_dir", "w", "--eval_model_name", "m", "--eval_model_path", str(path), *words))
    deploy = task.flow.deploy_for(task.models[0])
    env = Environment.find(deploy.env)
    address = Address(deploy.host, deploy.port, reveal(deploy.api_key))
    return load_engine(engine).command(task.models[0], deploy, address, env)


def follows(argv, option):
    return argv[argv.index(option) + 1]


@pytest.mark.parametrize(
    ("words", "option", "value"),
    [
        ((), "--served-model-name", "m"),
        ((), "--max-num-seqs", "200"),
        ((), "--max-model-len", "4096"),
        ((), "--port", "8000"),
        (("--eval_max_model_length", "512"), "--max-model-len", "512"),
        (("--eval_max_num_seqs", "16"), "--max-num-seqs", "16"),
        (("--eval_devices", "0,1"), "--tensor-parallel-size", "2"),
        (("--eval_host", "0.0.0.0"), "--host", "0.0.0.0"),
        (("--eval_port", "9000"), "--port", "9000"),
        (("--eval_template", "/t.jinja"), "--chat-template", "/t.jinja"),
        (("--extra_args=--dtype bfloat16",), "--dtype", "bfloat16"),
    ],
)
def test_flags_reach_vllm(words, option, value, checkpoint_folder):
    assert follows(command("vllm", *words, path=checkpoint_folder).argv, option) == value


@pytest.mark.parametrize(
    ("words", "option", "value"),
    [
        ((), "--alias", "m"),
        ((), "--parallel", "4"),
        ((), "--context", "2048"),
        (("--eval_max_model_length", "512"), "--context", "512"),
        (("--eval_max_num_seqs", "2"), "--parallel", "2"),
        (("--eval_host", "0.0.0.0"), "--host", "0.0.0.0"),
        (("--eval_port", "9000"), "--port", "9000"),
        (("--eval_template", "/t.jinja"), "--chat-template-file", "/t.jinja"),
        (("--extra_args=--threads 3",), "--threads", "3"),
    ],
)
def test_flags_reach_llama_cpp(words, option, value, gguf_file):
    assert follows(command("llamacpp", *words, path=gguf_file).argv, option) == value


def test_the_environment_flag_chooses_the_interpreter(make_env, checkpoint_folder):
    prefix = make_env()
    assert command("vllm", "--conda_env", str(prefix), path=checkpoint_folder).argv[0] == str(prefix / "bin" / "python")


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_the_engines_key_travels_by_environment_and_never_by_argument(engine, checkpoint_folder, gguf_file):
    path = gguf_file if engine == "llamacpp" else checkpoint_folder
    found = command(engine, "--eval_api_key", "sk-secret", path=path)
    assert "sk-secret" not in " ".join(found.argv)
    assert [name for name, value in found.env.items() if value == "sk-secret"] == list(found.secrets)


def test_a_task_of_flags_survives_being_written_to_a_file():
    task = mapping(*BASE, *JUDGE, "--eval_api_key", "${E_KEY}")
    assert Task.parse(json.loads(json.dumps(task))) == Task.parse(task)
