import subprocess
import sys
import venv
from pathlib import Path

import pytest

from evalscope_evalflow.config.environment import Environment


@pytest.fixture(scope="module")
def real_venv(tmp_path_factory):
    folder = tmp_path_factory.mktemp("venv") / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    (site / "only_there.py").touch()
    return folder


def run(env, argv, base=None):
    variables = env.variables({"PATH": "/usr/bin:/bin", **(base or {})})
    return subprocess.run(env.wrap(argv), env=variables, capture_output=True, text=True, check=True).stdout.strip()


def test_without_a_name_it_is_this_interpreters():
    env = Environment.find(None)
    assert env.own
    assert (str(env.prefix), str(env.python)) == (sys.prefix, sys.executable)
    assert env.has_module("pytest")
    assert not env.has_module("no_such_module_at_all")


def test_a_venv_is_entered_without_activation(real_venv):
    env = Environment.find(str(real_venv))
    assert not env.own
    assert run(env, [str(env.python), "-c", "import sys; print(sys.prefix)"]) == str(real_venv)
    assert run(env, ["python", "-c", "import only_there; print('found')"]) == "found"


def test_a_venv_may_be_named_by_its_interpreter(real_venv):
    env = Environment.find(str(real_venv / "bin" / "python"))
    assert env.prefix == real_venv  # the link is not followed: behind it is the base interpreter
    assert env.has_module("only_there")


def test_modules_are_looked_for_in_the_other_environment(real_venv):
    env = Environment.find(str(real_venv))
    assert env.has_module("only_there")
    assert not env.has_module("pytest")


def test_a_module_in_the_working_folder_is_not_taken_for_an_installed_one(real_venv, tmp_path, monkeypatch):
    (tmp_path / "vllm.py").touch()
    monkeypatch.chdir(tmp_path)
    assert not Environment.find(str(real_venv)).has_module("vllm")


def test_an_interpreter_that_cannot_run_has_no_modules(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("#!/no/such/interpreter\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    env = Environment.find(str(tmp_path))
    assert not env.has_module("sys")
    assert env.why_no_module("sys") == f"its interpreter {env.python} cannot be run: No such file or directory"


def test_an_interpreter_that_fails_is_told_in_its_own_words(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\necho 'no libc here' >&2\nexit 127\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    assert Environment.find(str(tmp_path)).why_no_module("sys").endswith("fails (127): no libc here")


def test_another_environments_variables_do_not_come_along(real_venv):
    foreign = {"PYTHONPATH": "/elsewhere", "PYTHONHOME": "/elsewhere", "CONDA_PREFIX": "/elsewhere", "KEPT": "yes"}
    variables = Environment.find(str(real_venv)).variables({"PATH": "/bin", **foreign})
    assert "/elsewhere" not in variables.values()
    assert variables["KEPT"] == "yes"
    assert variables["VIRTUAL_ENV"] == str(real_venv)
    assert variables["PATH"] == f"{real_venv}/bin:/bin"


def test_this_environments_variables_are_left_as_they_are():
    variables = Environment.find(None).variables({"PATH": "/bin", "PYTHONPATH": "/mine"})
    assert variables == {"PATH": f"{Path(sys.executable).parent}:/bin", "PYTHONPATH": "/mine"}


@pytest.fixture
def conda(make_env):
    prefix = make_env("conda env", conda=True)
    scripts = prefix / "etc" / "conda" / "activate.d"
    scripts.mkdir(parents=True)
    (scripts / "a.sh").write_text('export FROM_A="in $CONDA_PREFIX"\n')
    (scripts / "b.sh").write_text('export FROM_B="$FROM_A, then b"\n')
    return prefix


def test_a_conda_environments_activation_scripts_are_sourced_first(conda):
    env = Environment.find(str(conda))
    assert env.is_conda
    assert run(env, ["/bin/sh", "-c", 'echo "$FROM_B"']) == f"in {conda}, then b"


def test_the_command_takes_the_place_of_the_activating_shell(conda):
    """Else signals would reach the shell, and leave the engine alive."""
    env = Environment.find(str(conda))
    process = subprocess.Popen(
        env.wrap(["/bin/sh", "-c", "echo $$"]), env=env.variables({"PATH": "/usr/bin:/bin"}), stdout=subprocess.PIPE
    )
    output, _ = process.communicate()
    assert int(output) == process.pid


def test_arguments_survive_activation_as_they_are(conda):
    env = Environment.find(str(conda))
    words = ["two words", "$HOME", '{"image": 8}', "", "*"]
    code = "import sys; print(sys.argv[1:])"
    assert run(env, [sys.executable, "-c", code, *words]) == repr(words)


def test_a_conda_prefix_without_scripts_needs_no_shell(make_env):
    env = Environment.find(str(make_env(conda=True)))
    assert env.wrap(["program", "argument"]) == ["program", "argument"]
    assert env.variables({})["CONDA_PREFIX"] == str(env.prefix)


def test_a_folder_may_be_given_from_home(make_env, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    prefix = make_env("mine")
    assert Environment.find("~/mine").prefix == prefix


@pytest.mark.parametrize(
    ("name", "why"),
    [("none", "there is no such folder"), ("empty", "it has no bin/python"), ("notes.txt", "that file is no program")],
)
def test_what_is_no_environment_says_why(tmp_path, name, why):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=f"no environment .*{name}: {why}"):
        Environment.find(str(tmp_path / name))


def test_a_projects_folder_is_told_from_its_environment(tmp_path, make_env):
    make_env(".venv")
    with pytest.raises(FileNotFoundError, match=r"it has no bin/python; did you mean its \.venv\?"):
        Environment.find(str(tmp_path))


def test_a_systems_prefix_may_have_python3_alone(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    assert Environment.find(str(tmp_path)).python == tmp_path / "bin" / "python3"


def test_a_plain_interpreter_is_no_virtual_environment():
    env = Environment.find(str(Path(sys.base_prefix) / "bin" / "python3"))
    assert env.prefix == Path(sys.base_prefix)
    variables = env.variables({"VIRTUAL_ENV": sys.prefix, "PATH": "/bin"})
    assert not {"VIRTUAL_ENV", "CONDA_PREFIX"} & set(variables)
    assert run(env, [str(env.python), "-c", "import sys; print(sys.prefix)"]) == sys.base_prefix


@pytest.mark.parametrize("how", ["environments.txt", "CONDA_ENVS_PATH", "CONDA_PREFIX", "CONDA_EXE"])
def test_conda_environments_are_known_by_name(make_env, monkeypatch, tmp_path, how):
    for name in ("CONDA_ENVS_PATH", "CONDA_PREFIX", "CONDA_EXE", "MAMBA_EXE", "MAMBA_ROOT_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    prefix = make_env("conda/envs/engines", conda=True)
    with pytest.raises(FileNotFoundError, match="nor does conda know an environment of that name"):
        Environment.find("engines")
    if how == "environments.txt":
        (tmp_path / "home" / ".conda").mkdir(parents=True)
        (tmp_path / "home" / ".conda" / "environments.txt").write_text(f"/gone\n{prefix}\n")
    else:
        values = {"CONDA_ENVS_PATH": prefix.parent, "CONDA_PREFIX": prefix.parent.parent, "CONDA_EXE": ""}
        values["CONDA_EXE"] = prefix.parent.parent / "bin" / "conda"
        monkeypatch.setenv(how, str(values[how]))
    assert Environment.find("engines").prefix == prefix


def test_a_folder_is_taken_before_condas_name_for_another(make_env, monkeypatch, tmp_path):
    monkeypatch.setenv("CONDA_ENVS_PATH", str(make_env("conda/engines", conda=True).parent))
    here = make_env("engines")
    monkeypatch.chdir(tmp_path)
    assert Environment.find("engines").prefix == here
