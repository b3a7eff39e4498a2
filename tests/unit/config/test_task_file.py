import json
import os

import pytest

from evalscope_evalflow.config import DeployConfig, FlowConfig, ModelConfig
from evalscope_evalflow.config.flag_hints import FLAG_PLACES
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.config.task_file import read_mapping, with_data_beside
from evalscope_evalflow.errors import ConfigError

TASK = {"model": "/x", "datasets": ["general_mcq"], "evalflow": {"backend": "Native"}}


def refused(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        read_mapping(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", "line 3, column 2"),  # the list began in line 2: that is the context
        ("a: 1\nb: x: y\n", "mapping values are not allowed here in line 2, column 5"),
        ("a:\n\tb: 1\n", "line 2, column 1"),
        ('{"a": 1,\n "b": ]', "line 2"),
        ("a: &x\nb: *y\n", "found undefined alias 'y' in line 2"),
        ("a: 1\n? [1]\n: 2\n", "unhashable key in line 2"),
        (b"a: 1\nb: \xff\n", "is not UTF-8: line 2 has a byte that is none (0xff)"),
        ("a: 1\nb: \x07\n", "line 2 has a character that YAML does not allow"),
        ("a: 2024-13-45\n", "cannot be read: month must be in 1..12"),
        ("[" * 5000, "is nested too deeply"),
        ("- a\n", "does not hold a mapping"),
        ("", "does not hold a mapping"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line(tmp_path, content, said):
    assert said in refused(tmp_path / "task.yaml", content)


def test_a_list_that_is_never_closed_is_told_with_both_places(tmp_path):
    assert "(while parsing a flow sequence, line 2)" in refused(tmp_path / "task.yaml", "a: 1\nb: [1, 2\nc: 3\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_understood(tmp_path, encoding):
    (tmp_path / "task.yaml").write_bytes("model: 模型\n".encode(encoding))
    assert read_mapping(tmp_path / "task.yaml") == {"model": "模型"}


def test_a_file_that_is_not_there_is_told_with_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"looked for at {tmp_path}/none.yaml"):
        read_mapping("none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: "):
        read_mapping("a\0b")


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A task's file with data beside it, read from another folder; gives the local_path that is taken."""
    (tmp_path / "tasks" / "数据").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def take(path):
        data = {**TASK, "dataset_args": {"general_mcq": {"local_path": path}, "other": None}}
        (tmp_path / "tasks" / "task.yaml").write_text(json.dumps(data))
        task = Task.load("../tasks/task.yaml")
        return task.stock["dataset_args"]["general_mcq"]["local_path"]

    return take


def test_data_is_looked_for_beside_the_file_as_well(beside, tmp_path):
    assert os.path.samefile(beside("数据"), tmp_path / "tasks" / "数据")
    assert os.path.isabs(beside("数据"))


def test_data_in_the_current_folder_goes_first(beside, tmp_path):
    (tmp_path / "elsewhere" / "数据").mkdir()
    assert beside("数据") == "数据"


def test_data_that_is_nowhere_stays_as_it_was_written(beside):
    assert beside("none") == "none"
    assert with_data_beside({"dataset_args": [1]}, "x.yaml") == {"dataset_args": [1]}


def test_the_home_folder_is_put_in_place_of_its_sign(beside, tmp_path, monkeypatch):
    """EvalScope would look for a folder of that name, after the engine has been started."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert beside("~/tasks") == str(tmp_path / "tasks")
    assert beside("~/nowhere") == str(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("eval_devices", "is a flag of the command (--eval_devices), not a key of a task"),
        ("deploy-backend", "Write `evalflow: {deploy: {engine: …}}`."),
        ("remote_api_url", "Write `evalflow: {models: [{api_url: …}]}`."),
        ("eval_max_new_tokens", "Write `generation_config: {max_tokens: …}`."),
        ("verbose", "Write it in `evalflow`: evalflow: {verbose: …}."),
        ("mode", "Write it in `evalflow`: evalflow: {mode: …}."),
        ("models", "is a key of the section"),
    ],
)
def test_flags_and_section_keys_at_the_top_of_a_task_say_where_they_go(key, said):
    with pytest.raises(ConfigError) as caught:
        Task.parse({**TASK, key: "x"})
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{key}: ")


def test_no_key_of_the_section_is_a_flag_of_another_place():
    elsewhere = {name for name, places in FLAG_PLACES.items() if places[0] != f"evalflow.{name}"}
    assert not elsewhere & set(FlowConfig.model_fields)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FlowConfig(bad_key=1), "FlowConfig.bad_key: unknown key"),
        (lambda: FlowConfig(deploy={"prot": 1}), "FlowConfig.deploy.prot: unknown key\n    Did you mean 'port'?"),
        (lambda: DeployConfig(port="sk-never-to-be-seen"), "DeployConfig.port: Input should be a valid integer"),
        (lambda: ModelConfig(path="/x", api_kye="sk-never-to-be-seen"), "ModelConfig.api_kye: unknown key"),
    ],
)
def test_a_section_made_in_python_fails_as_one_in_a_file(make, said):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(said)
    assert "sk-never" not in str(caught.value)


def test_paths_of_any_script_are_kept(tmp_path):
    name = os.fsdecode("ein Ordner 模型 مجلد é".encode() + b"\xff")
    task = Task.parse({**TASK, "work_dir": str(tmp_path / name)})
    assert task.work_dir == tmp_path / name


def test_files_that_name_each_other_in_a_circle_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("evalflow: a.yaml\ndatasets: [x]\n")
    with pytest.raises(ConfigError, match="evalflow: files name each other in a circle"):
        Task.load("a.yaml")


def test_json_that_is_nested_too_deeply_is_told():
    with pytest.raises(ConfigError, match="evalflow: is not valid JSON"):
        Task.parse({**TASK, "evalflow": '{"a":' * 100_000})
