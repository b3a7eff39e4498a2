"""Code that a checkpoint, a dataset or a run folder brings is never run, and by engines only if the user says so."""

import ast
import functools
import json
import re
from pathlib import Path

import pytest

import evalscope_evalflow
from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines import command_of, load_engine
from evalscope_evalflow.engines.base import Address

PACKAGE = Path(evalscope_evalflow.__file__).parent
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
# Pickles are a job's and its result's alone, in a folder of mode 0700.
MAY_UNPICKLE = {"sweep/job_process.py", "sweep/cluster/job_folder.py", "testing/executor_suite.py"}
MAY_RENDER = {"results/html/page_rendering.py"}  # the report's own templates


@functools.cache
def calls():
    """Of each file, all calls: the full name of what is called, such as `pickle.loads`, and the names of arguments."""
    return {
        name: [
            (ast.unparse(node.func), {word.arg for word in node.keywords})
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call)
        ]
        for name, text in SOURCES.items()
    }


def who_calls(pattern):
    return {name for name, found in calls().items() if any(re.fullmatch(pattern, call) for call, _ in found)}


def test_pickles_are_read_of_jobs_alone():
    """Every library's way to read one: pickle, pandas, numpy, PyTorch, joblib, shelve, marshal."""
    pattern = (
        r"(c?[pP]ickle|dill|cloudpickle|joblib|shelve|marshal)\.(loads?|open|Unpickler)|.*\.?read_pickle|torch\.load"
    )
    assert who_calls(pattern) - MAY_UNPICKLE == set()
    assert not any("allow_pickle" in text for text in SOURCES.values())


def test_yaml_is_read_with_the_safe_loader_alone():
    loaders = r"yaml\.(load|load_all|full_load|unsafe_load|FullLoader|UnsafeLoader|Loader|CLoader)"
    assert who_calls(loaders) == set()
    named = {name for name, text in SOURCES.items() if re.search(r"yaml\.(Unsafe|Full|C?)Loader\b", text)}
    assert named == set()


def test_templates_of_checkpoints_are_the_engines_alone():
    rendering = {name for name, text in SOURCES.items() if re.search(r"^\s*(import|from) jinja2", text, re.MULTILINE)}
    assert rendering <= MAY_RENDER


def test_nothing_evaluates_text_as_python():
    found = who_calls(r"eval|exec|compile|builtins\.(eval|exec)|os\.(system|popen)")
    assert found == {"config/catalog.py"}  # annotations of the installed EvalScope, without builtins
    shells = {
        name
        for name, found in calls().items()
        if any((call.startswith("subprocess.") and "shell" in words) or "_shell" in call for call, words in found)
    }
    assert shells == set()


def test_remote_code_is_trusted_nowhere():
    """The only place that names it tells the user how to ask for it."""
    assert {name for name, text in SOURCES.items() if re.search("trust.remote.code", text)} == {
        "engines/log_patterns.py"
    }


@pytest.mark.parametrize("engine", ["vllm", "lmdeploy", "sglang"])
def test_an_engine_is_not_told_to_run_a_checkpoints_code(engine, checkpoint_folder):
    config = json.loads((checkpoint_folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_mine.Mine", "AutoConfig": "modeling_mine.Config"}
    (checkpoint_folder / "config.json").write_text(json.dumps(config))
    (checkpoint_folder / "modeling_mine.py").write_text("raise SystemExit('it was run')\n")
    model = ModelConfig(name="m", path=str(checkpoint_folder))
    chosen = load_engine(engine)
    list(chosen.check(model, DeployConfig(engine=engine)))
    for extra, asked in (([], False), (["--trust-remote-code"], True)):
        deploy = DeployConfig(engine=engine, extra_args=extra)
        found = command_of(chosen, model, deploy, Address("127.0.0.1", 1, "k"), Environment.find(None))
        words = "\0".join([*found.argv, *(f"{name}={value}" for name, value in found.env.items())])
        assert bool(re.search("trust.remote.code", words, re.IGNORECASE)) is asked
