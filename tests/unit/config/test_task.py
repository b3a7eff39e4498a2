import json

import pytest
import yaml

from evalscope_evalflow.config.catalog import DEFAULT_VLM_DATASETS
from evalscope_evalflow.config.task import Task, read_section, safe_name
from evalscope_evalflow.errors import ConfigError

KEY = "sk-never-to-be-seen"
ONE = {"datasets": ["general_qa"], "work_dir": "/tmp/w", "evalflow": {"models": [{"name": "m", "path": "/m"}]}}


def refused(data, section=None):
    with pytest.raises(ConfigError) as caught:
        Task.parse(data, section)
    return str(caught.value)


def test_both_places_of_the_section_at_once_are_refused():
    assert "both `evalflow` and `eval_config` are given" in refused({**ONE, "eval_config": "flow.yaml"})


@pytest.mark.parametrize(
    ("field", "instead"), [({"use_cache": "/old"}, "`reuse`"), ({"rerun_review": True}, "remove `reviews`")]
)
def test_stock_ways_of_resuming_are_refused_with_ours_named(field, instead):
    message = refused({**ONE, **field})
    assert f"{next(iter(field))}: has no place beside `evalflow`" in message
    assert instead in message


def test_stock_ways_of_resuming_may_be_there_and_off():
    assert Task.parse({**ONE, "use_cache": None, "rerun_review": False}).models[0].name == "m"


def test_problems_of_section_and_task_are_reported_together():
    message = refused({"use_cache": "/old", "evalflow": {"modles": []}})
    assert "use_cache" in message
    assert "evalflow.modles" in message
    message = refused({"rerun_review": True, "evalflow": {}})
    assert all(word in message for word in ("rerun_review", "model: none is given", "datasets: none is given"))


def test_one_dataset_may_be_written_without_a_list():
    assert Task.parse({**ONE, "datasets": "general_qa"}).datasets == ["general_qa"]


@pytest.mark.parametrize("written", ["arc, gsm8k,arc", ["arc", "gsm8k", "arc"]])
def test_datasets_with_commas_or_named_twice_are_each_one(written):
    assert Task.parse({**ONE, "datasets": written}).datasets == ["arc", "gsm8k"]


def test_a_misspelt_list_of_datasets_is_told():
    data = {"dataset": ["general_qa"], "evalflow": ONE["evalflow"]}
    assert "datasets: none is given\n    Name at least one benchmark (--datasets). Did you mean it by 'dataset'?" in (
        refused(data)
    )


def test_a_model_may_be_its_path_alone():
    (model,) = Task.parse({**ONE, "evalflow": {"models": ["/models/tuned"]}}).models
    assert (model.name, model.path) == ("tuned", "/models/tuned")


def test_model_and_models_at_once_are_refused():
    assert "both `model` and `evalflow.models` are given" in refused({**ONE, "model": "/m"})


def test_a_name_given_twice_is_refused():
    models = [{"name": "m", "path": "/a"}, {"name": "m", "path": "/b"}]
    assert "the name m is given more than once" in refused({**ONE, "evalflow": {"models": models}})


def test_names_that_share_a_folder_are_refused():
    """Else the second model would go on from the first one's answers."""
    models = [{"name": "org/m", "path": "/a"}, {"name": "org_m", "path": "/b"}]
    assert "org/m" in refused({**ONE, "evalflow": {"models": models}})


def test_a_model_object_is_refused():
    assert "is an object (list)" in refused({"datasets": ["arc"], "model": ["/m"]})


@pytest.mark.parametrize(
    ("stock", "name"),
    [({"model": "/models/base/"}, "base"), ({"model": "/models/base", "model_id": "mine"}, "mine")],
)
def test_the_stock_model_is_deployed_from_its_path(stock, name):
    task = Task.parse({"datasets": ["arc"], **stock})
    assert (task.models[0].name, task.models[0].path.rstrip("/")) == (name, "/models/base")


@pytest.mark.parametrize("stock", [{"model": "/"}, {"model": "/m", "model_id": 7}])
def test_a_stock_model_without_a_usable_name_is_a_configuration_error(stock):
    assert "name" in refused({"datasets": ["arc"], **stock})


def test_a_stock_model_with_a_url_is_asked_by_its_own_name():
    stock = {"datasets": ["arc"], "model": "gpt-x", "model_id": "label", "api_url": "http://x/v1", "api_key": KEY}
    model = Task.parse(stock).models[0]
    assert (model.name, model.api_url, model.path) == ("gpt-x", "http://x/v1", None)
    assert model.api_key.get_secret_value() == KEY


def test_a_model_that_is_here_is_deployed_whatever_url_is_sent_along(checkpoint_folder):
    task = Task.parse({"datasets": ["arc"], "model": str(checkpoint_folder), "api_url": "http://x/v1"})
    assert task.models[0].path == str(checkpoint_folder)
    assert "http://x/v1 is not used" in task.notes[0]


def test_an_api_without_a_key_may_say_so_as_evalscope_does():
    stock = {"datasets": ["arc"], "model": "gpt-x", "api_url": "http://x/v1", "api_key": "EMPTY"}
    assert Task.parse(stock).models[0].api_key is None


def test_results_of_one_stock_model_lie_in_work_dir_itself(tmp_path):
    task = Task.parse({"datasets": ["arc"], "model": "/m", "work_dir": str(tmp_path)})
    assert task.folder(task.models[0]) == tmp_path


def test_results_of_listed_models_lie_in_folders_of_their_own(tmp_path):
    task = Task.parse({**ONE, "work_dir": str(tmp_path)})
    assert task.folder(task.models[0]) == tmp_path / "m"


def test_work_dir_is_absolute_and_knows_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Task.parse({**ONE, "work_dir": "~/results"}).work_dir == tmp_path / "results"
    assert Task.parse({**ONE, "work_dir": "results"}).work_dir == tmp_path / "results"


@pytest.mark.parametrize("name", ["..", ".", "../../etc", "a/../../b", "/abs", ""])
def test_no_name_leads_out_of_work_dir(name, tmp_path):
    folder = (tmp_path / safe_name(name)).resolve()
    assert folder.parent == tmp_path


def test_the_workers_task_keeps_stock_fields_and_loses_ours():
    task = Task.parse({**ONE, "limit": 5, "seed": None, "eval_backend": "evalflow", "resolved_benchmarks": {}})
    assert task.stock == {"datasets": ["general_qa"], "limit": 5}


@pytest.mark.parametrize("name", ["judge", "dataset_args"])
def test_a_list_in_place_of_a_mapping_is_told_with_how_to_write_it(name):
    message = refused({**ONE, name: ["x"]})
    assert f"{name}: is no mapping" in message
    assert f"Write it as {name}: {{" in message


@pytest.mark.parametrize("written", ["Native", "native"])
def test_the_stock_field_names_the_backend_where_the_section_does_not(written):
    assert Task.parse({**ONE, "eval_backend": written}).flow.backend == "Native"
    agreed = {**ONE["evalflow"], "backend": "native"}
    assert Task.parse({**ONE, "eval_backend": written, "evalflow": agreed}).flow.backend == "Native"


@pytest.mark.parametrize("written", ["evalflow", "EvalFlow", None])
def test_the_stock_field_may_name_evalflow(written):
    assert Task.parse({**ONE, "eval_backend": written}).flow.backend == "Native"  # which has general_qa
    six = {**ONE, "datasets": list(DEFAULT_VLM_DATASETS)}
    assert Task.parse({**six, "eval_backend": written}).flow.backend == "VLMEvalKit"


@pytest.mark.parametrize(
    ("written", "section", "says"),
    [
        ("Native", {"backend": "VLMEvalKit"}, "is 'Native', but the section's backend is 'VLMEvalKit'"),
        ("VLMEvalkt", {}, "EvalFlow does not run 'VLMEvalkt'\n    Did you mean 'VLMEvalKit'?"),
        ("OpenCompass", {}, "EvalFlow does not run 'OpenCompass'\n    Known: evalflow, Native, VLMEvalKit"),
    ],
)
def test_a_stock_backend_that_cannot_be_meant_is_refused(written, section, says):
    message = refused({**ONE, "eval_backend": written, "evalflow": {**ONE["evalflow"], **section}})
    assert message.startswith(f"eval_backend: {says}")


def test_a_command_that_ends_with_its_run_says_that_it_keeps_no_engine():
    kept = Task.parse({**ONE, "evalflow": {**ONE["evalflow"], "deploy": {"keep_alive_s": 60}}})
    command = kept.without_keep_alive()
    assert command.flow.deploy.keep_alive_s == 0
    assert "keep_alive_s: without effect" in command.notes[-1]
    assert Task.parse(ONE).without_keep_alive().notes == ()


def test_a_task_never_shows_keys():
    data = {**ONE, "judge": {"models": [{"model_id": "j", "api_url": "http://j/v1", "api_key": KEY}]}}
    data["evalflow"] = {"models": [{"name": "m", "api_url": "http://x/v1", "api_key": KEY}]}
    assert KEY not in repr(Task.parse(data))


def test_yaml_and_json_files_say_the_same(tmp_path):
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(ONE))
    (tmp_path / "t.json").write_text(json.dumps(ONE))
    assert Task.load(tmp_path / "t.yaml") == Task.load(tmp_path / "t.json") == Task.parse(ONE)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read: No such file"), ("a: [", "is neither YAML nor JSON"), ("- a", "does not hold a mapping")],
)
def test_a_file_that_is_no_task_is_told_by_name(tmp_path, text, message):
    path = tmp_path / "task.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Task.load(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_file_with_a_torn_line_does_not_show_the_key_in_it(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text(f'datasets: [a]\napi_key: "{KEY}\n')
    with pytest.raises(ConfigError, match="line 2") as caught:
        Task.load(path)
    assert KEY not in str(caught.value)


def test_a_section_is_read_from_any_of_its_forms(tmp_path):
    section = {"backend": "Native"}
    alone, whole = tmp_path / "section.yaml", tmp_path / "task.json"
    alone.write_text("backend: Native\n")
    whole.write_text(json.dumps({"datasets": ["arc"], "evalflow": section}))
    for form in (section, json.dumps(section), json.dumps({"evalflow": section}), str(alone), str(whole)):
        assert read_section(form) == section
    assert read_section(None) == {}


def test_a_section_that_is_broken_json_is_told():
    with pytest.raises(ConfigError, match="is not valid JSON"):
        read_section('{"backend": ')


@pytest.mark.parametrize("name", ["evalfow", "eval_flow"])
def test_a_misspelt_section_is_named(name):
    assert refused({"datasets": ["general_qa"], name: {}}) == f"{name}: unknown key\n    Did you mean 'evalflow'?"


def test_a_model_is_named_by_its_path_where_nothing_is_said():
    models = [{"path": "/ckpts/one/"}, {"path": "/ckpts/two.gguf"}]
    task = Task.parse({"datasets": ["general_qa"], "evalflow": {"models": models}})
    assert [model.name for model in task.models] == ["one", "two"]
