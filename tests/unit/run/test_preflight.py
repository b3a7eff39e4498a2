import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.config import keys
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.devices import pool
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.run import fingerprints, host_checks
from evalscope_evalflow.run.preflight import preflight
from evalscope_evalflow.state import cells

KEY = "sk-never-to-be-seen"


@pytest.fixture
def task(tmp_path, gguf_file, make_env):
    """A task that can be run, with what a test changes of it."""
    env = make_env()

    def make(model=None, deploy=None, **stock):
        section = {
            "backend": "Native",
            "models": [{"name": "m", "path": str(gguf_file), **(model or {})}],
            "deploy": {"env": str(env), **(deploy or {})},
        }
        return Task.parse({"datasets": ["general_qa"], "work_dir": str(tmp_path / "out"), **stock, "evalflow": section})

    return make


@pytest.fixture
def remote(task):
    def make(url, **more):
        return task(model={"path": None, "api_url": url, **more})

    return make


def refused(task):
    with pytest.raises(ConfigError) as caught:
        preflight(task)
    return str(caught.value)


def test_a_task_that_can_be_run_passes_and_leaves_nothing(task, tmp_path):
    before = set(tmp_path.iterdir())
    preflight(task())
    assert set(tmp_path.iterdir()) == before


def test_an_unknown_dataset_names_the_nearest(task):
    message = refused(task(datasets=["genral_qa"]))
    assert "datasets: EvalScope's Native backend has no benchmark 'genral_qa'" in message
    assert "Did you mean 'general_qa'?" in message


def test_an_unknown_stock_key_names_the_nearest(task):
    message = refused(task(dataset_arg={}))
    assert "dataset_arg: unknown key" in message
    assert "Did you mean 'dataset_args'?" in message


def test_settings_of_a_benchmark_that_is_left_out_do_no_harm(task):
    preflight(task(dataset_args={"general_mcq": {"local_path": "/nowhere"}}))


def test_settings_of_a_misspelt_benchmark_are_told(task):
    message = refused(task(dataset_args={"genral_qa": {}}))
    assert "dataset_args.genral_qa: EvalScope has no such benchmark" in message
    assert "Did you mean 'general_qa'?" in message


def test_a_misspelt_setting_of_a_benchmark_is_told(task):
    """EvalScope would ask a hub for the data, as if no folder had been given."""
    message = refused(task(dataset_args={"general_qa": {"local_pth": "/data"}}))
    assert "dataset_args.general_qa.local_pth: EvalScope would ignore it" in message
    assert "Did you mean 'local_path'?" in message


@pytest.mark.parametrize(
    ("stock", "message"),
    [
        ({"judge": {"strategy": "lm"}}, "judge.strategy: there is no 'lm'\n    Did you mean 'llm'? It is one of: auto"),
        ({"judge": {"contract": {"score_type": 5}}}, "judge.contract.score_type: there is no 5\n    It is one of"),
        ({"generation_config": {"reasoning_summary": "log"}}, "generation_config.reasoning_summary: there is no 'log'"),
    ],
)
def test_words_that_evalscope_does_not_know_are_told_with_those_it_does(task, stock, message):
    assert message in refused(task(**stock))


@pytest.mark.parametrize(
    ("stock", "where"),
    [
        ({"generation_config": {"max_tokens": "many"}}, "generation_config.max_tokens"),
        ({"generation_config": {"temperature": "hot"}}, "generation_config.temperature"),
        ({"eval_batch_size": "x"}, "eval_batch_size"),
        ({"judge": {"repeats": "often"}}, "judge.repeats"),
        ({"dataset_args": {"general_qa": {"few_shot_num": "2"}}}, "dataset_args.general_qa.few_shot_num"),
    ],
)
def test_what_is_no_number_is_told_with_its_place(task, stock, where):
    assert f"{where}: EvalScope does not take it: Input should be a valid" in refused(task(**stock))


def test_numbers_are_taken_as_evalscope_takes_them(task):
    preflight(task(generation_config={"max_tokens": "16", "temperature": 0}, eval_batch_size="3", seed=None))


NEEDS_ONE = "judge.models: simple_qa needs a judge (it is scored by a judge), and there is none"


@pytest.mark.parametrize(
    ("stock", "message"),
    [
        ({"datasets": ["simple_qa"]}, NEEDS_ONE),
        (
            {"datasets": ["general_qa"], "judge": {"strategy": "llm"}},
            "general_qa needs a judge (judge.strategy is llm)",
        ),
        (
            {"datasets": ["simple_qa"], "judge": {"strategy": "rule"}},
            "judge.strategy: simple_qa cannot be scored by rules",
        ),
    ],
)
def test_a_benchmark_that_needs_a_judge_is_told_before_an_engine_starts(task, stock, message):
    assert message in refused(task(**stock))


def test_answers_can_be_had_without_the_judge_that_they_need(task):
    later = task(datasets=["simple_qa"])
    preflight(Task.parse({**later.stock, "work_dir": str(later.work_dir), "evalflow": section_of(later, mode="infer")}))


def test_answers_can_be_had_without_the_judges_key(task):
    judge = {"models": [{"model_id": "j", "api_url": "http://127.0.0.1:9/v1", "api_key": "${NO_SUCH_KEY_HERE}"}]}
    asked = task(judge=judge)
    assert "judge.models.0.api_key: the environment variable NO_SUCH_KEY_HERE is not set" in refused(asked)
    later = Task.parse({**asked.stock, "work_dir": str(asked.work_dir), "evalflow": section_of(asked, mode="infer")})
    preflight(later)
    for phases, needed in ((["infer"], False), (["infer", "judge"], True)):
        request = load_backend("Native").start_task(later, later.models[0], phases, 1)
        assert ("NO_SUCH_KEY_HERE" in str(request.as_dict())) == needed


def section_of(task, **more):
    return {**task.flow.to_section(), **more}


def test_settings_of_a_benchmark_that_are_no_mapping_are_told(task):
    with pytest.raises(ConfigError, match=r"dataset_args\.general_qa: is no mapping"):
        task(dataset_args={"general_qa": 5})


def test_a_folder_with_answers_to_another_task_hides_no_other_problem(task, tmp_path):
    """With another folder, as the refusal asks for, the model would be asked, and could not be served."""
    before = task(limit=1)
    model = before.models[0]
    (before.folder(model) / "evalflow").mkdir(parents=True)
    cells.update(before.folder(model), "general_qa", predictions=fingerprints.predictions(before, model, "general_qa"))
    path = before.folder(model) / "predictions" / model.name / "general_qa_default.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"index": 0, "model_output": {"choices": []}}\n')
    message = refused(task(deploy={"env": str(tmp_path / "nowhere")}, generation_config={"max_tokens": 7}))
    assert "answers on general_qa to another task" in message
    assert "deploy.env" in message


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{tmp}/none", "{tmp}/none does not exist"),
        ("{tmp}/empty", "{tmp}/empty is no checkpoint: it has no config.json (it holds nothing)"),
        ("{tmp}/other", "{tmp}/other is no checkpoint: it has no config.json (it holds readme.txt)"),
        ("{tmp}/torn", "{tmp}/torn is no checkpoint: its config.json is not JSON"),
        ("{tmp}/bare", "{tmp}/bare has a config.json, but no weights"),
        ("{tmp}/model.gguf", "{tmp}/model.gguf is a GGUF file, which llamacpp serves"),
        ("org/model", "hf download org/model"),
    ],
)
def test_what_is_no_checkpoint_is_told_before_vllm_starts(task, tmp_path, path, message):
    for name, file, text in (("other", "readme.txt", ""), ("torn", "config.json", "{"), ("bare", "config.json", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    (tmp_path / "empty").mkdir()
    shown = refused(task(model={"path": path.format(tmp=tmp_path)}, deploy={"engine": "vllm"}))
    assert shown.startswith("model m: ")
    assert message.format(tmp=tmp_path) in shown


def test_a_checkpoint_is_enough_for_vllm(task, checkpoint_folder):
    preflight(task(model={"path": str(checkpoint_folder)}))


@pytest.mark.parametrize(
    ("node", "engine", "told"),
    [
        (None, "vllm", True),
        (None, "lmdeploy", True),
        ("kfd", "vllm", False),  # AMD's, of which no driver is asked here
        ("dri/renderD128", "vllm", False),
    ],
)
def test_a_machine_without_any_accelerator_is_noted(task, checkpoint_folder, tmp_path, monkeypatch, node, engine, told):
    """Not refused: there are more makers than are known here."""
    monkeypatch.setattr(pool, "DEV", tmp_path / "dev")
    if node is not None:
        (tmp_path / "dev" / node).parent.mkdir(parents=True)
        (tmp_path / "dev" / node).touch()
    notes = preflight(task(model={"path": str(checkpoint_folder)}, deploy={"engine": engine}))
    assert any("needs a GPU, and this machine shows none" in note for note in notes) == told


@pytest.mark.parametrize("build", [None, "vllm-0.32.0+cpu"])
def test_what_needs_no_accelerator_is_not_noted(task, checkpoint_folder, tmp_path, monkeypatch, build):
    """llama.cpp, and vLLM's build for CPUs."""
    monkeypatch.setattr(pool, "DEV", tmp_path / "dev")
    if build is None:
        notes = preflight(task())
    else:
        (tmp_path / "env" / "lib" / "python3.11" / "site-packages" / f"{build}.dist-info").mkdir(parents=True)
        notes = preflight(task(model={"path": str(checkpoint_folder)}, deploy={"engine": "vllm"}))
    assert not any("GPU" in note for note in notes)


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_a_local_engine_without_a_path_is_told(task, engine):
    assert "model m: no " in refused(task(model={"path": None}, deploy={"engine": engine}))


def test_remote_without_a_url_is_told(task):
    message = refused(task(model={"path": None}, deploy={"engine": "remote"}))
    assert "model m: engine remote needs the API's URL" in message
    assert "--remote_api_url" in message


@pytest.mark.parametrize("url", ["api.example/v1", "ftp://x/v1", "http://", "localhost:8000", "http://[broken/v1"])
def test_what_is_no_url_is_told(remote, url):
    assert f"model m: {url} is no URL" in refused(remote(url))


def test_an_unknown_engine_names_the_nearest_and_all(task):
    message = refused(task(deploy={"engine": "vlm"}))
    assert "unknown engine 'vlm'" in message
    assert "Did you mean 'vllm'?" in message
    assert all(name in message for name in ("llamacpp", "remote", "vllm"))


@pytest.mark.parametrize(("engine", "package"), [("vllm", "vllm"), ("llamacpp", "xllamacpp")])
def test_an_engine_that_is_not_installed_names_package_and_environment(
    task, make_env, make_checkpoint, gguf_file, engine, package
):
    prefix = make_env("bare-env", has_modules=False)
    path = gguf_file if engine == "llamacpp" else make_checkpoint()
    message = refused(task(model={"path": str(path)}, deploy={"env": str(prefix), "engine": engine}))
    assert f"{engine} is not installed in {prefix}" in message
    assert f"uv pip install --python {prefix}/bin/python {package}" in message
    assert "`deploy.env` (--conda_env)" in message


def test_an_engines_environment_that_is_not_there_is_told(task, tmp_path):
    message = refused(task(deploy={"env": str(tmp_path / "none")}))
    assert f"deploy.env: no environment {tmp_path}/none: there is no such folder" in message


def test_too_long_a_context_is_told_with_the_longest_possible(task, checkpoint_folder):
    assert "Lower it to 2048" in refused(task(deploy={"max_model_len": 4096}))
    message = refused(task(model={"path": str(checkpoint_folder)}, deploy={"max_model_len": 5000}))
    assert "Lower it to 4096" in message


def test_an_unset_key_variable_is_told_for_engine_api_and_judge(task, remote, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    judge = {"models": [{"model_id": "j", "api_url": "http://127.0.0.1:1/v1", "api_key": "${NO_SUCH_KEY}"}]}
    assert "NO_SUCH_KEY is not set" in refused(task(deploy={"api_key": "${NO_SUCH_KEY}"}))
    assert "NO_SUCH_KEY is not set" in refused(remote("http://127.0.0.1:1/v1", api_key="${NO_SUCH_KEY}"))
    assert "judge.models.0.api_key: the environment variable NO_SUCH_KEY is not set" in refused(task(judge=judge))


def test_a_run_that_only_answers_needs_no_key_of_the_judge(task, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    model = {"model_id": "j", "api_url": "http://127.0.0.1:1/v1", "api_key": "${NO_SUCH_KEY}"}
    made = task(judge={"strategy": "llm", "models": [{**model, "model_args": {"token": "${NO_SUCH_KEY}"}}]})
    section = section_of(made, mode="infer")
    made = Task.parse({**made.stock, "work_dir": str(made.work_dir), "evalflow": section})
    preflight(made)
    request = load_backend("Native").start_task(made, made.models[0], ["infer"], 8)
    assert keys.to_environment(request.as_dict(), {})["stock_task"]["judge"] == {
        "strategy": "llm",
        "models": [{"model_id": "j", "api_url": "http://127.0.0.1:1/v1", "model_args": {}}],
    }
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        keys.to_environment(load_backend("Native").start_task(made, made.models[0], ["judge"], 8).as_dict(), {})


def test_a_judge_without_a_url_is_refused(task):
    message = refused(task(judge={"models": [{"model_id": "j", "api_key": KEY}]}))
    assert "judge.models.0.api_url: none is given" in message
    assert KEY not in message


def test_a_judge_without_a_name_is_refused(task, api):
    assert "judge.models.0.model_id: none is given" in refused(task(judge={"models": [{"api_url": api.url}]}))


def test_a_masked_key_of_a_judge_is_refused(task, api):
    judge = {"models": [{"model_id": "m", "api_url": api.url, "api_key": "**********"}]}
    assert "is the mask of a key" in refused(task(judge=judge))


@pytest.mark.parametrize("form", ["{0}/v1", "{0}/v1/", "{0}/v1/chat/completions"])
def test_a_judge_that_answers_passes_with_either_form_of_url(task, api, form):
    api.key = KEY
    judge = {"models": [{"model_id": "m", "api_url": form.format(api.root), "api_key": KEY}]}
    preflight(task(judge=judge))
    assert api.paths == ["/v1/models", "/v1/chat/completions"]
    assert api.seen[-1][3]["max_tokens"] == 1


def test_a_judge_that_asks_for_no_key_may_be_written_as_evalscope_does(task, api):
    preflight(task(judge={"models": [{"model_id": "m", "api_url": api.url, "api_key": "EMPTY"}]}))


def test_a_judge_that_refuses_the_key_is_told_without_it(task, api):
    api.key = "sk-right"
    message = refused(task(judge={"models": [{"model_id": "m", "api_url": api.url, "api_key": KEY}]}))
    assert f"judge.models.0: {api.url} refuses the key (401): Unauthorized" in message
    assert KEY not in message


def test_an_api_that_answers_passes(remote, api):
    preflight(remote(api.url))


def test_an_api_without_the_model_lists_what_it_has(remote, api):
    api.models = ["mm", "other"]
    message = refused(remote(api.url))
    assert f"model m: {api.url} has no model 'm'" in message
    assert "It lists: mm, other" in message


def test_an_api_that_is_not_there_is_told(remote):
    assert "cannot be reached" in refused(remote("http://127.0.0.1:1/v1"))


def test_no_api_is_asked_while_anything_else_is_wrong(task, api):
    judge = {"models": [{"model_id": "m", "api_url": api.url}]}
    refused(task(datasets=["genral_qa"], judge=judge))
    assert api.seen == []


@pytest.mark.parametrize("work_dir", ["file", "file/below/it"])
def test_a_file_in_the_way_of_work_dir_is_told(task, tmp_path, work_dir):
    (tmp_path / "file").touch()
    assert f"work_dir: {tmp_path}/file is not a folder" in refused(task(work_dir=str(tmp_path / work_dir)))


@pytest.mark.parametrize("folder", ["/proc/results", "/sys/kernel/results"])
def test_a_work_dir_that_cannot_be_written_is_told(task, folder):
    """These refuse even root."""
    message = refused(task(work_dir=folder))
    assert f"work_dir: {Path(folder).parent} is not writable: " in message


@pytest.mark.parametrize(("free", "says"), [(63, "has 63 MiB of room left"), (65, None), (1023, None)])
def test_room_in_work_dir(task, tmp_path, monkeypatch, free, says):
    monkeypatch.setattr(host_checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=free * 1024**2))
    if says:
        assert f"work_dir: {tmp_path} {says}" in refused(task())
    else:
        assert preflight(task()) == [f"work_dir: {tmp_path} has only {free} MiB of room left"]


def test_with_room_there_is_nothing_to_note(task):
    assert preflight(task()) == []


def test_a_port_that_is_taken_is_only_noted(task):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert preflight(task(deploy={"port": port})) == [f"port {port} is taken; the next free one will be used"]


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "2001:db8::7"])
def test_a_host_that_cannot_be_bound_is_told(task, host):
    message = refused(task(deploy={"host": host}))
    assert f"deploy.host: {host} is no address to listen at here: " in message


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (-1, "-1 leaves nothing"),
        (0, "0 leaves nothing"),
        (1.5, "neither a whole"),
        ("5", "is no number"),
        (True, "no n"),
    ],
)
def test_a_limit_that_makes_no_sense_is_told(task, limit, says):
    message = refused(task(limit=limit))
    assert message.startswith("limit: ")
    assert says in message


@pytest.mark.parametrize("limit", [1, 0.5, 1.0, None])
def test_a_limit_that_makes_sense_passes(task, limit):
    preflight(task(limit=limit))


def test_a_misspelt_generation_setting_names_the_nearest(task):
    message = refused(task(generation_config={"max_token": 5, "temperature": 0.0, "extra_body": {"any": 1}}))
    assert message.startswith("generation_config.max_token: EvalScope would ignore it")
    assert "Did you mean 'max_tokens'?" in message


def test_a_generation_config_that_is_no_mapping_is_told(task):
    assert "generation_config: is no mapping" in refused(task(generation_config=[1]))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("A B", "1", "deploy.env_vars: 'A B' is no name of a variable"),
        ("", "1", "deploy.env_vars: '' is no name"),
        ("A", "1\0", "deploy.env_vars.A: its value holds a NUL"),
        ("EVALFLOW_ENGINE_API_KEY", KEY, "deploy.env_vars.EVALFLOW_ENGINE_API_KEY: llamacpp is given this by"),
    ],
)
def test_variables_that_cannot_be_set_are_told(task, name, value, says):
    message = refused(task(deploy={"env_vars": {name: value}}))
    assert says in message
    assert KEY not in message


@pytest.mark.parametrize(
    ("engine", "file", "says"),
    [
        ("vllm", "chat.json", "is a JSON file"),
        ("llamacpp", "chat.json", "is a JSON file"),
        ("lmdeploy", "chat.jinja", "is a Jinja template"),
        ("lmdeploy", "none/chat.json", "does not exist"),
        ("lmdeploy", "torn.json", "is not a JSON object"),
        ("lmdeploy", "list.json", "is not a JSON object"),
        ("vllm", "none.jinja", "does not exist"),
    ],
)
def test_a_chat_template_of_the_wrong_kind_is_told(task, tmp_path, checkpoint_folder, gguf_file, engine, file, says):
    for name, text in (("chat.json", "{}"), ("chat.jinja", "{{ x }}"), ("torn.json", "{"), ("list.json", "[]")):
        (tmp_path / name).write_text(text)
    model = {"path": str(gguf_file if engine == "llamacpp" else checkpoint_folder)}
    message = refused(task(model=model, deploy={"engine": engine, "chat_template": str(tmp_path / file)}))
    assert message.startswith("deploy.chat_template: ")
    assert says in message


@pytest.mark.parametrize(
    ("engine", "template"),
    [("vllm", "{tmp}/chat.jinja"), ("vllm", "{{% for m in messages %}}"), ("lmdeploy", "{tmp}/chat.json"),
     ("lmdeploy", "internvl-zh")],
)  # fmt: skip
def test_a_chat_template_of_the_right_kind_passes(task, tmp_path, checkpoint_folder, engine, template):
    (tmp_path / "chat.json").write_text('{"model_name": "mine"}')
    (tmp_path / "chat.jinja").write_text("{{ x }}")
    deploy = {"engine": engine, "chat_template": template.format(tmp=tmp_path)}
    preflight(task(model={"path": str(checkpoint_folder)}, deploy=deploy))


def test_every_problem_is_told_once_and_at_once(task, tmp_path):
    (tmp_path / "file").touch()
    judge = {"models": [{"model_id": "j"}]}
    found = task(
        model={"path": "/none.gguf"},
        datasets=["genral_qa", "genral_qa"],
        sede=1,
        judge=judge,
        work_dir=str(tmp_path / "file"),
    )
    with pytest.raises(ConfigError) as caught:
        preflight(found)
    places = [problem.where for problem in caught.value.problems]
    assert sorted(places) == ["datasets", "judge.models.0.api_url", "model m", "sede", "work_dir"]


def test_a_subset_without_a_file_is_told_with_what_there_is(task, tmp_path):
    (tmp_path / "demo.jsonl").write_text('{"query": "q", "response": "r"}\n')
    settings = {"general_qa": {"local_path": str(tmp_path), "subset_list": ["demoo"]}}
    said = refused(task(dataset_args=settings))
    assert "dataset_args.general_qa.subset_list" in said
    assert "has no file of the subset demoo" in said
    assert "demo.jsonl" in said
    settings["general_qa"]["subset_list"] = ["demo"]
    preflight(task(dataset_args=settings))
