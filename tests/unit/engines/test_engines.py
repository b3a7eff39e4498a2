from pathlib import Path

import pytest

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines import (
    KEY_VARIABLE,
    Address,
    check_engine,
    command_of,
    known_engines,
    load_engine,
    resolve_engine,
)
from evalscope_evalflow.errors import ConfigError

ADDRESS = Address("127.0.0.1", 8000, "sk-secret")


def command(engine, path, env=None, **deploy):
    model = ModelConfig(name="served", path=str(path))
    return command_of(load_engine(engine), model, DeployConfig(**deploy), ADDRESS, Environment.find(env))


def check(engine, path=None, url=None, **deploy):
    model = ModelConfig(name="served", path=path and str(path), api_url=url)
    return [str(problem) for problem in load_engine(engine).check(model, DeployConfig(**deploy))]


@pytest.mark.parametrize(
    ("engine", "settings", "refused"),
    [
        (
            "llamacpp",
            {"tensor_parallel": 2, "data_parallel": 2, "max_model_len": 64},
            ["tensor_parallel", "data_parallel"],
        ),
        ("lmdeploy", {"data_parallel": 2, "tensor_parallel": 2, "devices": "0,1"}, ["data_parallel"]),
        ("llamacpp", {"tensor_parallel": 1, "data_parallel": "auto"}, []),
        ("vllm", {"tensor_parallel": 2, "data_parallel": 2, "chat_template": "x", "max_model_len": 5}, []),
    ],
)
def test_a_setting_that_the_engine_does_not_honour_is_refused(engine, settings, refused):
    found = list(load_engine(engine).check_settings(DeployConfig(**settings)))
    assert [problem.where for problem in found] == [f"deploy.{name}" for name in refused]
    assert all(f"{engine} has no " in problem.what for problem in found)


def test_the_check_of_an_engine_includes_the_settings_that_it_honours(gguf_file):
    model = ModelConfig(name="m", path=str(gguf_file))
    found = list(check_engine(load_engine("llamacpp"), model, DeployConfig(engine="llamacpp", tensor_parallel=2)))
    assert "deploy.tensor_parallel" in [problem.where for problem in found]


def follows(argv, option):
    return argv[argv.index(option) + 1]


@pytest.mark.parametrize(
    ("engine", "path", "url", "name"),
    [
        ("auto", "/models/m", None, "vllm"),
        ("auto", "/models/m.gguf", None, "llamacpp"),
        ("auto", None, "http://x/v1", "remote"),
        ("llamacpp", "/models/m", None, "llamacpp"),
        ("vllm", "/models/m.gguf", None, "vllm"),
    ],
)
def test_the_engine_is_the_named_one_or_the_one_that_fits(engine, path, url, name):
    model = ModelConfig(name="m", path=path, api_url=url)
    assert resolve_engine(model, DeployConfig(engine=engine)).name == name


def test_an_unknown_engine_names_the_nearest_and_all():
    with pytest.raises(ConfigError) as caught:
        load_engine("lamacpp")
    message = str(caught.value)
    assert "unknown engine 'lamacpp'" in message
    assert "Did you mean 'llamacpp'? Known: " in message
    assert all(name in message for name in known_engines())


def test_an_unknown_engine_that_is_like_nothing_lists_what_is_known():
    with pytest.raises(ConfigError) as caught:
        load_engine("xyzzy")
    assert "Did you mean" not in str(caught.value)
    assert "llamacpp" in str(caught.value)


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """An installed package with one engine that works and two that do not."""
    (tmp_path / "fake_engines.py").write_text(
        "from evalscope_evalflow.engines import Engine\n"
        "class Fake(Engine):\n"
        "    name = 'fake'\n"
        "    def check(self, model, deploy):\n"
        "        return []\n"
    )
    (tmp_path / "torn_engine.py").write_text("import no_such_module_at_all\n")
    info = tmp_path / "fake_engines-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-engines\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[evalflow.engines]\nfake = fake_engines:Fake\ntorn = torn_engine:Torn\ngone = fake_engines:Gone\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("plugins")
def test_an_engine_of_another_package_is_known_by_its_entry_point():
    assert load_engine("fake").name == "fake"
    assert {"fake", "vllm", "llamacpp", "remote"} <= set(known_engines())


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(("name", "why"), [("torn", "no_such_module_at_all"), ("gone", "Gone")])
def test_a_broken_engine_is_told_when_it_is_asked_for_and_hurts_no_other(name, why):
    with pytest.raises(ConfigError) as caught:
        load_engine(name)
    message = str(caught.value)
    assert f"engine {name!r} cannot be loaded from " in message
    assert why in message
    assert load_engine("vllm").name == "vllm"


def test_vllm_is_run_by_the_environments_own_interpreter(make_env, checkpoint_folder):
    prefix = make_env()
    argv = command("vllm", checkpoint_folder, env=str(prefix)).argv
    assert argv[0] == str(prefix / "bin" / "python")
    assert Path(argv[1]).name == "key_launcher.py"
    assert argv[2:5] == ["api-key+", "vllm.entrypoints.cli.main:main", "serve"]
    assert argv[5] == str(checkpoint_folder)


def test_no_variable_of_vllms_own_differs_from_start_to_start(checkpoint_folder):
    """Up to 0.27 it counts all that it knows among what compiled code depends on, but for a list of its own.

    By `compile_factors` of 0.22.1, 0.26.0 and 0.27.1: VLLM_API_KEY is not in that list, VLLM_RPC_BASE_PATH is. 0.29 and
    later have both in it. tests/real/engines/test_engine_options.py asks the vLLM that is installed.
    """
    model, env = ModelConfig(name="served", path=str(checkpoint_folder)), Environment.find(None)
    one, other = (
        command_of(load_engine("vllm"), model, DeployConfig(), Address("127.0.0.1", port, f"sk-{port}"), env).env
        for port in (8001, 8002)
    )
    assert {name for name in {*one, *other} if one.get(name) != other.get(name)} == {KEY_VARIABLE}
    assert not KEY_VARIABLE.startswith("VLLM")


@pytest.mark.parametrize(("value", "refused"), [("1", True), ("0", False)])
def test_vllms_front_end_in_rust_is_refused(checkpoint_folder, value, refused):
    """It answers some paths without the key, and our launcher has no hold on it."""
    found = check("vllm", checkpoint_folder, env_vars={"VLLM_USE_RUST_FRONTEND": value})
    assert bool(found) == refused


def test_vllm_takes_no_sampling_defaults_from_the_checkpoint(checkpoint_folder):
    assert follows(command("vllm", checkpoint_folder).argv, "--generation-config") == "vllm"


def test_vllm_is_told_only_what_was_said(checkpoint_folder):
    argv = command("vllm", checkpoint_folder).argv
    left_out = ("--max-model-len", "--tensor-parallel-size", "--data-parallel-size", "--chat-template")
    assert not set(left_out) & set(argv)


@pytest.mark.parametrize(
    ("deploy", "size"),
    [
        ({"devices": "0,1,2,3"}, "4"),
        ({"devices": "0,1,2,3", "tensor_parallel": 2}, "2"),
        ({"tensor_parallel": 8}, "8"),
    ],
)
def test_tensor_parallel_is_what_is_said_or_all_devices(checkpoint_folder, deploy, size):
    assert follows(command("vllm", checkpoint_folder, **deploy).argv, "--tensor-parallel-size") == size


@pytest.mark.parametrize("deploy", [{"devices": "0"}, {"devices": "0,1", "tensor_parallel": 1}, {"devices": ""}])
def test_one_device_needs_no_tensor_parallel(checkpoint_folder, deploy):
    assert "--tensor-parallel-size" not in command("vllm", checkpoint_folder, **deploy).argv


def test_data_parallel_reaches_vllm(checkpoint_folder):
    argv = command("vllm", checkpoint_folder, data_parallel=2).argv
    assert follows(argv, "--data-parallel-size") == "2"


def test_sglang_is_told_all_that_was_said(checkpoint_folder):
    full = command("sglang", checkpoint_folder, tensor_parallel=2, data_parallel=4, max_model_len=512, max_num_seqs=3)
    assert [follows(full.argv, name) for name in ("--tp-size", "--dp-size", "--context-length")] == ["2", "4", "512"]
    assert follows(full.argv, "--max-running-requests") == "3"
    least = command("sglang", checkpoint_folder).argv
    assert not {"--tp-size", "--dp-size", "--context-length", "--chat-template"} & set(least)
    assert follows(least, "--sampling-defaults") == "openai"
    assert follows(least, "--host") == "127.0.0.1"


def test_sglang_refuses_what_it_cannot_serve(checkpoint_folder, tmp_path):
    assert check("sglang", checkpoint_folder, max_model_len=4096, chat_template="chatml") == []
    assert "made for 4096" in check("sglang", checkpoint_folder, max_model_len=5000)[0]
    overridden = {"SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1"}
    assert check("sglang", checkpoint_folder, max_model_len=5000, env_vars=overridden) == []
    assert "none.jinja does not exist" in check("sglang", checkpoint_folder, chat_template="none.jinja")[0]
    assert "none/chatml does not exist" in check("sglang", checkpoint_folder, chat_template="none/chatml")[0]
    (tmp_path / "mine.json").write_text("{}")
    assert check("sglang", checkpoint_folder, chat_template=str(tmp_path / "mine.json")) == []
    model = ModelConfig(name="qwen:7b", path=str(checkpoint_folder))
    (problem,) = load_engine("sglang").check(model, DeployConfig())
    assert "without a colon" in problem.todo


def test_extra_args_come_last_so_that_they_win(checkpoint_folder, gguf_file):
    extra = ["--max-num-seqs", "7"]
    assert command("vllm", checkpoint_folder, extra_args=extra).argv[-2:] == extra
    assert command("llamacpp", gguf_file, extra_args=["--threads", "2"]).argv[-2:] == ["--threads", "2"]


@pytest.mark.parametrize("engine", ["vllm", "llamacpp", "lmdeploy", "sglang"])
def test_the_key_is_in_the_environment_and_marked_as_a_secret(engine, checkpoint_folder, gguf_file):
    found = command(engine, gguf_file if engine == "llamacpp" else checkpoint_folder)
    assert "sk-secret" not in " ".join(found.argv)
    assert {found.env[name] for name in found.secrets} == {"sk-secret"}


def test_vllm_reports_to_nobody(checkpoint_folder):
    assert command("vllm", checkpoint_folder).env["VLLM_NO_USAGE_STATS"] == "1"


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_relative_paths_are_made_absolute_as_the_engine_runs_in_a_folder_of_its_own(
    engine, checkpoint_folder, gguf_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.jinja").touch()
    path = gguf_file if engine == "llamacpp" else checkpoint_folder
    for form in (path.name, f"~/{path.name}"):
        argv = command(engine, form, chat_template="t.jinja").argv
        assert str(path) in argv
        assert str(tmp_path / "t.jinja") in argv


def test_a_hub_id_reaches_vllm_as_it_is():
    assert "org/model" in command("vllm", "org/model").argv


def test_llama_cpp_needs_evalflow_only_here_and_not_in_its_environment(make_env, gguf_file):
    prefix = make_env()
    argv = command("llamacpp", gguf_file, env=str(prefix)).argv
    assert argv[0] == str(prefix / "bin" / "python")
    assert argv[1].endswith("llamacpp_launcher.py")


@pytest.mark.parametrize(("own", "context"), [(2048, "2048"), (131072, "8192"), (None, "8192")])
def test_llama_cpps_default_context_is_the_models_own_up_to_8192(make_gguf, own, context):
    metadata = {"general.architecture": "llama", **({"llama.context_length": own} if own else {})}
    assert follows(command("llamacpp", make_gguf(metadata=metadata)).argv, "--context") == context


@pytest.mark.parametrize(("engine", "count"), [("vllm", 200), ("llamacpp", 4), ("remote", 8)])
def test_concurrency_has_a_default_for_each_engine(engine, count):
    assert load_engine(engine).max_num_seqs(DeployConfig()) == count
    assert load_engine(engine).max_num_seqs(DeployConfig(max_num_seqs=3)) == 3


def test_llama_cpp_refuses_what_it_cannot_serve(tmp_path, gguf_file, make_gguf):
    assert "none.gguf does not exist" in check("llamacpp", tmp_path / "none.gguf")[0]
    (tmp_path / "empty").mkdir()
    assert "is a folder; llamacpp serves a .gguf file" in check("llamacpp", tmp_path / "empty")[0]
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\x03\x04 and more of a zip file")
    assert "is no GGUF file: it does not start with GGUF's magic bytes" in check("llamacpp", other)[0]
    assert check("llamacpp", gguf_file, tensor_parallel=1, data_parallel="auto", max_model_len=2048) == []


@pytest.mark.parametrize("extra", [["--hf-overrides", '{"a": 1}'], ['--hf-overrides={"a": 1}']])
def test_a_longer_context_is_allowed_where_the_config_is_overridden(checkpoint_folder, extra):
    assert check("vllm", checkpoint_folder, max_model_len=9999) != []
    assert check("vllm", checkpoint_folder, max_model_len=9999, extra_args=extra) == []


def test_remote_takes_no_path():
    assert "takes no path" in check("remote", path="/m", url="http://x/v1")[0]
    assert check("remote", url="https://x/v1") == []


@pytest.mark.parametrize(
    ("host", "root"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("host.example", "http://host.example:8000"),
    ],
)
def test_an_engine_is_asked_where_it_can_be_reached(host, root):
    assert Address(host, 8000, None).root == root
