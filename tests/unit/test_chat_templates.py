"""A chat template of the wrong kind is told before anything is started, with the kind that the engine takes."""

import json

import pytest

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines import load_engine

JINJA = "{% for message in messages %}{{ message.content }}{% endfor %}"
TAKES_JINJA = "Give the path of a Jinja file."
TAKES_JSON = "LMDeploy takes a JSON file or the name of a template of its own"


@pytest.fixture
def templates(tmp_path):
    (tmp_path / "chat.jinja").write_text(JINJA)
    (tmp_path / "plain").write_text(JINJA)
    (tmp_path / "chat.json").write_text(json.dumps({"model_name": "mine", "system": "<|system|>"}))
    (tmp_path / "json.jinja").write_text(json.dumps({"model_name": "mine"}))
    (tmp_path / "torn.json").write_text('{"model_name": ')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "folder").mkdir()
    return tmp_path


def check(engine, template, request):
    path = request.getfixturevalue("gguf_file" if engine == "llamacpp" else "checkpoint_folder")
    deploy = DeployConfig(chat_template=template)
    return [str(item) for item in load_engine(engine).check(ModelConfig(name="m", path=str(path)), deploy)]


@pytest.mark.parametrize(
    ("engine", "template"),
    [
        ("vllm", "{0}/chat.jinja"),
        ("vllm", "{0}/plain"),
        ("vllm", JINJA.replace("{", "{{").replace("}", "}}")),
        ("llamacpp", "{0}/chat.jinja"),
        ("lmdeploy", "{0}/chat.json"),
        ("lmdeploy", "internvl2_5"),
    ],
)
def test_what_an_engine_takes_is_no_problem(engine, template, templates, request):
    assert check(engine, template.format(templates), request) == []


@pytest.mark.parametrize(
    ("engine", "template", "what", "todo"),
    [
        ("vllm", "{0}/chat.json", "is a JSON file", TAKES_JINJA),
        ("vllm", "{0}/json.jinja", "is a JSON file", "JSON is for lmdeploy and sglang."),
        ("vllm", "{0}/none.jinja", "does not exist", TAKES_JINJA),
        ("vllm", "{0}/folder", "is a folder", TAKES_JINJA),
        ("vllm", "chatml", "chatml does not exist", "Names of templates are for lmdeploy and sglang."),
        ("llamacpp", "{0}/chat.json", "is a JSON file", TAKES_JINJA),
        ("llamacpp", "chatml", "chatml does not exist", TAKES_JINJA),
        ("llamacpp", JINJA.replace("{", "{{").replace("}", "}}"), "does not exist", TAKES_JINJA),
        ("lmdeploy", "{0}/chat.jinja", "is a Jinja template", TAKES_JSON),
        ("lmdeploy", JINJA.replace("{", "{{").replace("}", "}}"), "is a Jinja template", TAKES_JSON),
        ("lmdeploy", "{0}/plain", "is not a JSON object", TAKES_JSON),
        ("lmdeploy", "{0}/torn.json", "is not a JSON object", TAKES_JSON),
        ("lmdeploy", "{0}/list.json", "is not a JSON object", TAKES_JSON),
        ("lmdeploy", "{0}/none.json", "does not exist", TAKES_JSON),
    ],
)
def test_the_wrong_kind_is_told_with_the_right_one(engine, template, what, todo, templates, request):
    (problem,) = check(engine, template.format(templates), request)
    assert problem.startswith("deploy.chat_template: ")
    assert what in problem
    assert todo in problem


def test_the_flag_is_told_so_as_well(templates, checkpoint_folder, tmp_path, capsys):
    from evalscope_evalflow import cli

    words = ["--work_dir", str(tmp_path / "out"), "--eval_model_name", "m", "--eval_model_path", str(checkpoint_folder)]
    words += ["--eval_backend", "Native", "--datasets", "general_qa", "--dry_run"]
    assert cli.main([*words, "--deploy_backend", "lmdeploy", "--eval-template", str(templates / "chat.jinja")]) == 2
    assert "chat.jinja is a Jinja template" in capsys.readouterr().err
