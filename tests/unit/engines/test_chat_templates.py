"""A chat template of the wrong kind is told before anything is started, with the kind that the engine takes."""

import json

import pytest

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines import load_engine

JINJA = "{% for message in messages %}{{ message.content }}{% endfor %}"
TAKES_JINJA = "Give the path of a Jinja file."
TAKES_JSON = "LMDeploy takes a JSON file or the name of a template of its own"
TAKES_ANY = "SGLang takes a .jinja file, a JSON file, or the name of a template of its own"
# Where LMDeploy has its names.
LMDEPLOY_MODEL = """
@MODELS.register_module(name='base')
class A: ...

@dataclasses.dataclass
class B: ...

@MODELS.register_module(name=['deepseek-v32', 'deepseek-v3.2'])
class C(A): ...
"""


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
        ("lmdeploy", "internvl-zh"),
        ("sglang", "{0}/chat.jinja"),
        ("sglang", "{0}/chat.json"),
        ("sglang", "vicuna_v1.1"),
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
        ("lmdeploy", "{0}/folder", "is a folder", TAKES_JSON),
        ("sglang", "{0}/none.json", "does not exist", TAKES_ANY),
        ("sglang", "none.jinja2", "does not exist", TAKES_ANY),
        ("sglang", "{0}/folder", "is a folder", TAKES_ANY),
        ("sglang", JINJA.replace("{", "{{").replace("}", "}}"), "does not exist", TAKES_ANY),
        ("sglang", "{0}/plain", "is not a JSON object", "a name that ends in .jinja"),
        ("sglang", "{0}/list.json", "is not a JSON object", "a name that ends in .jinja"),
        ("sglang", "{0}/json.jinja", "is a JSON file", "a name that ends in .json"),
    ],
)
def test_the_wrong_kind_is_told_with_the_right_one(engine, template, what, todo, templates, request):
    (problem,) = check(engine, template.format(templates), request)
    assert problem.startswith("deploy.chat_template: ")
    assert what in problem
    assert todo in problem


@pytest.fixture
def lmdeploy_env(make_env):
    """An environment that has LMDeploy, as far as this file tells."""
    env = make_env()
    package = env / "lib" / "python3.12" / "site-packages" / "lmdeploy"
    package.mkdir(parents=True)
    (package / "model.py").write_text(LMDEPLOY_MODEL)
    return env


def named(name, env, checkpoint_folder):
    model, deploy = ModelConfig(name="m", path=str(checkpoint_folder)), DeployConfig(env=str(env), chat_template=name)
    return [str(item) for item in load_engine("lmdeploy").check(model, deploy)]


def test_names_are_those_of_the_installed_lmdeploy(lmdeploy_env, checkpoint_folder):
    assert [named(name, lmdeploy_env, checkpoint_folder) for name in ("base", "deepseek-v3.2")] == [[], []]
    (problem,) = named("deepseek-v33", lmdeploy_env, checkpoint_folder)
    assert "LMDeploy has no chat template named deepseek-v33" in problem
    assert "Did you mean 'deepseek-v32'? It has: base, deepseek-v32, deepseek-v3.2; or give a JSON file." in problem


@pytest.mark.parametrize("text", [None, "class Broken(", "MODELS = {}"])
def test_where_the_names_cannot_be_read_lmdeploy_is_left_to_say_it(lmdeploy_env, checkpoint_folder, text):
    (file,) = lmdeploy_env.rglob("model.py")
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    assert named("any", lmdeploy_env, checkpoint_folder) == []


def test_the_flag_is_told_so_as_well(templates, checkpoint_folder, tmp_path, capsys):
    from evalscope_evalflow.cli import command_line as cli

    words = ["--work_dir", str(tmp_path / "out"), "--eval_model_name", "m", "--eval_model_path", str(checkpoint_folder)]
    words += ["--eval_backend", "Native", "--datasets", "general_qa", "--dry_run"]
    assert cli.main([*words, "--deploy_backend", "lmdeploy", "--eval-template", str(templates / "chat.jinja")]) == 2
    assert "chat.jinja is a Jinja template" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["vllm", "lmdeploy", "sglang"])
def test_a_path_is_shown_whole_and_of_a_template_its_beginning(engine, tmp_path, request):
    path = tmp_path / ("deep" * 30) / "chat.jinja"
    (problem,) = check(engine, str(path), request)
    assert f"{path} " in problem
    if engine == "lmdeploy":
        (problem,) = check(engine, JINJA * 9, request)
        assert len(problem.splitlines()[0]) < 140
