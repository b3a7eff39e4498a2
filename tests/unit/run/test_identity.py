"""When saved answers are the task's: every setting, every door, what is accepted and what nobody knows."""

import json
import os
import re

import pytest
import yaml

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_worker import MODEL_DEFAULTS
from evalscope_evalflow.config.setting_effects import ACCEPTABLE
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.run import fingerprints, preflight
from evalscope_evalflow.run.fact_values import endpoint
from evalscope_evalflow.run.resume import remaining
from evalscope_evalflow.run.saved_identity import identities, notes, refusals, settle
from evalscope_evalflow.state import cells, failures, keyed_hashes

JUDGE = {"models": [{"model_id": "j", "api_url": "http://127.0.0.1:1/v1", "api_key": "sk-1"}]}


@pytest.fixture(autouse=True)
def state_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("MODELSCOPE_CACHE", raising=False)
    for name in list(os.environ):
        if name.startswith("VLLM_"):
            monkeypatch.delenv(name)
    return tmp_path / "state"


@pytest.fixture
def make(tmp_path):
    """Makes a task for a checkpoint, or for an API where `url` is given; `flow` are settings of the section."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))
    (folder / "model.safetensors").write_bytes(b"0" * 64)

    def task(flow=(), deploy=(), url=None, **stock):
        where = {"model": "m", "api_url": url} if url else {"model": str(folder), "model_id": "m"}
        section = {"backend": "Native", "deploy": {"engine": "remote" if url else "vllm", **dict(deploy)}, **dict(flow)}
        stock = {"datasets": ["general_qa"], "work_dir": str(tmp_path / "out"), **where, **stock}
        return Task.parse({**stock, "evalflow": section})

    return task


def answered(task, facts=None, dataset="general_qa"):
    """Leave a folder with four answers and a task's facts, or with these."""
    folder = task.folder(task.models[0])
    path = folder / "predictions" / "m" / f"{dataset}_s.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"index": index}) + "\n" for index in range(4)))
    (folder / "evalflow").mkdir(exist_ok=True)
    made = fingerprints.predictions(task, task.models[0], dataset) if facts is None else facts
    cause = failures.cause(task, task.models[0])
    cells.update(folder, dataset, predictions=made, requested=4, answered=4, cause=cause)


def look(task):
    from evalscope_evalflow.backends import load_backend

    saved = load_backend(task.flow.backend).look(task, task.models[0])
    return saved, identities(task, task.models[0], saved)


def refused(task):
    """The texts of what is refused."""
    return [difference.text for item in look(task)[1] for difference in item.refused]


def engine(**deploy):
    return {"deploy": deploy}


# What counts.


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ({}, engine(extra_args=["--quantization", "fp8"]), 'extra_args.--quantization was not set and is ["fp8"]'),
        (
            engine(extra_args=["--hf-overrides.rms_norm_eps", "1e-5"]),
            engine(extra_args=["--hf-overrides.rms_norm_eps", "10"]),
            'extra_args.--hf-overrides.rms_norm_eps was ["1e-05"] and is ["10"]',
        ),
        (
            {},
            engine(extra_args=["--default-chat-template-kwargs", '{"enable_thinking": false}']),
            "extra_args.--default-chat-template-kwargs was not set",
        ),
        (
            {},
            engine(env_vars={"VLLM_ATTENTION_BACKEND": "X"}),
            'env_vars.VLLM_ATTENTION_BACKEND was not set and is "X"',
        ),
        ({}, engine(max_model_len=2048), "max_model_len was 4096 and is 2048"),
        ({}, engine(engine="lmdeploy"), 'engine was "vllm" and is "lmdeploy"'),
        ({}, {"sandbox": {"enabled": True}}, "sandbox.enabled was not set and is true"),
        ({}, {"dataset_args": {"general_qa": {"few_shot_num": 3}}}, "dataset_args.few_shot_num was not set and is 3"),
        (
            {"url": "https://a.example/v1"},
            {"url": "https://b.example/v1"},
            'api_url was "https://a.example/v1" and is "https://b.example/v1"',
        ),
    ],
)
def test_what_changes_answers_is_refused_and_named(make, before, after, says):
    answered(make(**before))
    assert refused(make(**before)) == []
    (text,) = refused(make(**after)) if "engine" not in after.get("deploy", {}) else refused(make(**after))[:1]
    assert text.startswith(says) or says in refused(make(**after))


def test_an_adapter_and_a_file_in_extra_args_count_by_their_content(make, tmp_path, monkeypatch):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    answered(make(deploy={"extra_args": ["--enable-lora", "--lora-modules", f"m={adapter}"]}))
    monkeypatch.chdir(tmp_path)
    assert refused(make(deploy={"extra_args": ["--lora-modules=m=./adapter", "--enable_lora"]})) == []
    (adapter / "adapter_config.json").write_text('{"r": 16}')
    assert (
        "extra_args.--lora-modules"
        in refused(make(deploy={"extra_args": ["--enable-lora", "--lora-modules", f"m={adapter}"]}))[0]
    )


# What does not.


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, engine(max_model_len=4096)),
        ({}, engine(tensor_parallel=2, max_num_seqs=7, devices="0,1", port=9000, stall_timeout_s=5)),
        ({}, engine(extra_args=["--gpu-memory-utilization", "0.5", "--uvicorn-log-level=debug", "--block-size", "32"])),
        ({}, engine(env_vars={"VLLM_LOGGING_LEVEL": "DEBUG", "HF_HOME": "/x", "CUDA_VISIBLE_DEVICES": "1"})),
        ({}, {"seed": 42, "repeats": 1, "model_task": "text_generation", "dataset_hub": "modelscope"}),
        ({}, {"generation_config": {"temperature": 0.0}}),
        ({}, {"dataset_dir": "~/.cache/modelscope/hub/datasets"}),
        (
            {"generation_config": {"top_p": 1}},
            {"generation_config": {"top_p": 1.0, "n": 1, "timeout": 5, "retries": 9}},
        ),
        ({"repeats": 3}, {"generation_config": {"temperature": 0, "n": 3}}),
        ({}, {"dataset_args": {"general_qa": {"few_shot_num": 0, "eval_split": "test", "shuffle": False}}}),
        ({}, {"sandbox": {"enabled": False, "engine": "docker", "pool_size": 4}}),
        ({"use_sandbox": True}, {"sandbox": {"enabled": True}}),
        (engine(extra_args=["--dtype", "half", "--seed=01"]), engine(extra_args=["--seed", "1.0", "--dtype=half"])),
        (
            engine(extra_args=["--hf-overrides", '{"a": 1, "b": 2}']),
            engine(extra_args=['--hf_overrides={"b":2,"a":1}']),
        ),
        (
            {"url": "https://user:pass@A.example:443/v1/?tenant=1"},
            {"url": "https://a.example/v1/chat/completions", "api_key": "sk-2"},
        ),
        (
            {"url": "http://a.example/v1"},
            {"url": "http://a.example/v1", **engine(max_model_len=9, engine="remote", chat_template="{{ x }}")},
        ),
        ({}, {"debug": True, "analysis_report": True, "collect_perf": False, "timeout": 3, "eval_batch_size": 9}),
    ],
)
def test_what_does_not_change_answers_is_no_difference(make, before, after):
    answered(make(**before))
    assert refused(make(**after)) == []
    assert [item.unknown for item in look(make(**after))[1]] == [[]]


def test_a_variable_of_the_engine_counts_whether_the_shell_or_the_task_sets_it(make, monkeypatch):
    answered(make(deploy={"env_vars": {"VLLM_USE_TRITON_AWQ": "1"}}))
    assert refused(make()) == ['env_vars.VLLM_USE_TRITON_AWQ was "1" and is not set']
    monkeypatch.setenv("VLLM_USE_TRITON_AWQ", "1")
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    assert refused(make()) == []
    monkeypatch.delenv("VLLM_USE_TRITON_AWQ")
    assert refused(make({"mode": "judge"})) == [], "a shell that starts no engine tells nothing"


def test_paths_are_the_same_relative_and_absolute_and_what_no_engine_reads_is_none(make, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    answered(make(dataset_args={"general_qa": {"local_path": "data"}}, dataset_dir="data"))
    assert (
        refused(make(dataset_args={"general_qa": {"local_path": str(tmp_path / "data")}}, dataset_dir="./data")) == []
    )
    (tmp_path / "checkpoint" / "README.md").write_text("new")
    (tmp_path / "checkpoint" / "trainer_state.json").write_text("{}")
    assert (
        refused(make(model="checkpoint", dataset_args={"general_qa": {"local_path": "data/"}}, dataset_dir="data"))
        == []
    )


def test_a_checkpoint_that_is_gone_is_unknown_and_not_another(make, tmp_path):
    answered(make())
    (tmp_path / "checkpoint").rename(tmp_path / "archived")
    (item,) = look(make())[1]
    assert (item.refused, item.unknown) == ([], ["checkpoint", "max_model_len"])


def test_other_weights_of_the_same_size_and_time_are_others(make, tmp_path):
    """As from an archive, or on a mount of an object store, whose files all have one time."""
    weights = tmp_path / "checkpoint" / "model.safetensors"
    answered(make())
    time = weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(time.st_atime_ns, time.st_mtime_ns))
    (said,) = refused(make())
    assert said.startswith("checkpoint.model.safetensors was ")


def test_weights_that_an_earlier_version_wrote_down_by_size_and_time_are_the_same(make, tmp_path):
    task = make()
    answered(task)
    facts = cells.read(task.work_dir)["general_qa"].predictions
    size_and_time, _, _ = facts["checkpoint"]["model.safetensors"].partition(", samples ")
    facts = {**facts, "checkpoint": {**facts["checkpoint"], "model.safetensors": size_and_time}}
    cells.update(task.work_dir, "general_qa", predictions=facts)
    assert refused(make()) == []
    os.utime(tmp_path / "checkpoint" / "model.safetensors")
    assert len(refused(make())) == 1


# Scoring.


def test_how_scores_are_made_scores_anew_and_asks_nothing(make):
    task = make()
    answered(task)
    cells.update(task.work_dir, "general_qa", verdicts=fingerprints.verdicts(task, "general_qa"))
    other = make(dataset_args={"general_qa": {"metric_list": ["Rouge"]}})
    assert refused(other) == []
    left = remaining(other, other.models[0])
    assert (left.infer, left.rejudge) == ([], ["general_qa"])
    default = make(dataset_args={"general_qa": {"metric_list": ["BLEU", "Rouge"], "aggregation": "mean"}})
    assert remaining(default, default.models[0]).rejudge == []


def test_a_judges_defaults_and_address_are_no_other_judge(make, monkeypatch):
    facts = fingerprints.verdicts(make(judge=JUDGE))
    written_out = {
        "strategy": "auto", "repeats": 1, "position_swap": "auto", "aggregation": "mean", "min_valid_judges": 1,
        "contract": {"score_type": "pattern", "system_prompt": None},
        "models": {
            "model_id": "j", "judge_id": "j", "api_url": "https://elsewhere.example/v1", "api_key": "sk-2",
            "eval_type": "openai_api", "model_args": {},
            "generation_config": {"temperature": 0.0, "max_tokens": 4096, "timeout": 9},
        },
    }  # fmt: skip
    assert fingerprints.verdicts(make(judge=written_out)) == facts
    assert fingerprints.same_verdicts({"models": [{"judge_id": "j", "model_id": "j"}]}, facts), "as 0.1 wrote it"
    for change in ({"strategy": "llm"}, {"repeats": 2}, {"contract": {"system_prompt": "Be strict."}}):
        assert fingerprints.verdicts(make(judge={**JUDGE, **change})) != facts
    monkeypatch.setenv("JUDGE_SYSTEM_PROMPT", "Be strict.")
    by_variable = fingerprints.verdicts(make(judge=JUDGE))
    assert by_variable == fingerprints.verdicts(make(judge={**JUDGE, "contract": {"system_prompt": "Be strict."}}))


def test_what_vlmevalkit_takes_by_itself_may_be_written_out(make):
    assert fingerprints._VLMEVALKIT_DEFAULTS == MODEL_DEFAULTS
    section, judge = (
        {"backend": "VLMEvalKit"},
        {"models": [{"model_id": "j", "generation_config": {"temperature": 0.0}}]},
    )
    written = make(section, generation_config={"temperature": 0.0, "max_tokens": 2048}, judge=judge)
    silent = make(section, judge={"models": [{"model_id": "j"}]})
    assert fingerprints.predictions(written, written.models[0], "x") == fingerprints.predictions(
        silent, silent.models[0], "x"
    )
    assert fingerprints.verdicts(written) == fingerprints.verdicts(silent)
    other = make(section, generation_config={"temperature": 0.0, "max_tokens": 9})
    assert "generation_config.max_tokens" in fingerprints.predictions(other, other.models[0], "x")


# Doors.


@pytest.mark.parametrize(
    "stock",
    [
        {"judge": JUDGE, "dataset_args": {"general_qa": {"local_path": "data"}}},
        {"generation_config": {"max_tokens": 16, "temperature": 0.5}, "limit": 3, "repeats": 2, "seed": 7},
        {"sandbox": {"enabled": False}, "judge": {**JUDGE, "strategy": "llm", "contract": {"score_mapping": {"A": 1}}}},
        {"agent_config": {"mode": "native", "max_steps": 3}},
    ],
)
def test_the_notebook_and_the_command_are_the_same_door(tmp_path, stock):
    from evalscope.config import TaskConfig

    from evalscope_evalflow.plugin.evalflow_backend import to_task

    task = {
        "eval_backend": "evalflow", "model": "m", "api_url": "http://127.0.0.1:1/v1", "datasets": ["general_qa"],
        "work_dir": str(tmp_path), **stock, "evalflow": {"backend": "Native"},
    }  # fmt: skip
    file = Task.parse(yaml.safe_load(yaml.safe_dump(task)))
    objects = to_task(TaskConfig(**task))
    facts = [fingerprints.predictions(item, item.models[0], "general_qa") for item in (file, objects)]
    assert facts[0] == facts[1]
    assert fingerprints.verdicts(file, "general_qa") == fingerprints.verdicts(objects, "general_qa")


def test_what_evalscopes_own_command_writes_out_is_no_difference(tmp_path):
    import argparse

    from evalscope.arguments import add_argument
    from evalscope.config import parse_task_config

    from evalscope_evalflow.plugin.evalflow_backend import to_task

    task = {
        "model": "m", "api_url": "http://127.0.0.1:1/v1", "api_key": "sk", "datasets": ["general_qa"],
        "work_dir": str(tmp_path), "evalflow": {"backend": "Native"},
    }  # fmt: skip
    parser = argparse.ArgumentParser()
    add_argument(parser)
    words = f"--model m --api-url {task['api_url']} --api-key sk --datasets general_qa --work-dir {tmp_path}"
    words += ' --eval-backend evalflow --evalflow {"backend":"Native"}'
    other, file = to_task(parse_task_config(parser.parse_args(words.split()))), Task.parse(task)
    assert fingerprints.predictions(file, file.models[0], "general_qa") == fingerprints.predictions(
        other, other.models[0], "general_qa"
    )
    assert fingerprints.verdicts(file, "general_qa") == fingerprints.verdicts(other, "general_qa")


# Secrets.


def test_secrets_are_kept_as_keyed_hashes_and_nowhere_else(make, monkeypatch, state_folder):
    monkeypatch.setenv("A_SECRET", "hunter2")
    secret = {"env_vars": {"MY_TOKEN": "hunter2", "FROM_SHELL": "${A_SECRET}"}}
    body = {"generation_config": {"extra_body": {"password": "hunter2"}, "extra_headers": {"Authorization": "hunter2"}}}
    answered(make(deploy=secret, **body))
    text = cells.path_in(make().work_dir).read_text()
    assert "hunter2" not in text
    assert len(re.findall(r'"hmac:[0-9a-f]{12}:[0-9a-f]{32}"', text)) == 3
    key = state_folder / "evalflow" / keyed_hashes.FILE
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.stat().st_size == 32
    body["generation_config"]["extra_headers"] = {"Authorization": "a new key"}
    assert refused(make(deploy=secret, **body)) == []
    monkeypatch.setenv("A_SECRET", "other")
    assert refused(make(deploy=secret, **body)) == ["env_vars.FROM_SHELL is another secret"]
    monkeypatch.delenv("A_SECRET")
    (item,) = look(make(deploy=secret, **body))[1]
    assert (item.refused, item.unknown) == ([], ["env_vars.FROM_SHELL"])


def test_without_the_key_secrets_are_unknown_and_said_once(make, state_folder):
    secret = {"env_vars": {"MY_TOKEN": "hunter2"}}
    answered(make(deploy=secret))
    (state_folder / "evalflow" / keyed_hashes.FILE).unlink()
    keyed_hashes._key.cache_clear()
    saved, found = look(make(deploy={"env_vars": {"MY_TOKEN": "another"}}))
    assert list(refusals(saved, found)) == []
    (note,) = notes(saved, found)
    assert "env_vars.MY_TOKEN" in note
    assert "cannot be compared here" in note


def test_a_state_folder_that_cannot_be_written_is_no_obstacle(make, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    task = make(deploy={"env_vars": {"MY_TOKEN": "hunter2"}})
    answered(task)
    assert refused(task) == []


def test_endpoints():
    assert endpoint("HTTP://u:p@Host.example:80/v1/chat/completions/?a=b#c") == "http://host.example/v1"
    assert endpoint("http://[::1]:8000/v1") == "http://[::1]:8000/v1"
    assert endpoint("http://x:port/v1") == "unknown"


# Going on.


def test_every_fact_has_a_name_that_can_be_accepted_but_for_the_backend(make):
    everything = {
        "sandbox": {"enabled": True}, "agent_config": {"mode": "native"}, "seed": 1, "repeats": 2, "limit": 1,
        "model_args": {"a": 1}, "model_task": "x", "dataset_hub": "huggingface", "dataset_dir": "/x",
        "generation_config": {"top_k": 1}, "dataset_args": {"general_qa": {"few_shot_num": 1}},
    }  # fmt: skip
    local = {"deploy": {"chat_template": "{{ x }}", "extra_args": ["--x"], "env_vars": {"X": "1"}}}
    names = set()
    for task in (make(**local, **everything), make(url="http://a.example/v1")):
        model = task.models[0].model_copy(update={"adapter": None if task.models[0].api_url else "someone/lora"})
        facts = fingerprints.predictions(task, model, "general_qa")
        names |= {name.removeprefix("deploy.").partition(".")[0] for name in facts}
    assert names - {"backend", "facts"} == set(ACCEPTABLE)


def test_a_refusal_says_how_to_go_on_and_what_is_accepted_is_told(make):
    answered(make())
    change = {"deploy": {"extra_args": ["--dtype", "half"], "max_model_len": 9}, "generation_config": {"top_k": 1}}
    (problem,) = refusals(*look(make(**change)))
    names = re.search(r"reuse: \{accept: \[(.*)\]\}", problem.todo)[1]
    assert names == "extra_args, max_model_len, generation_config.temperature, generation_config.top_k"
    accepting = make({"reuse": yaml.safe_load(f"[{names}]") and {"accept": names.split(", ")}}, **change)
    assert refused(accepting) == []
    (note,) = notes(*look(accepting))
    assert "extra_args.--dtype was not set" in note
    assert refused(make({"reuse": {"accept": ["extra_args", "generation_config"]}}, **change)) == [
        "max_model_len was 4096 and is 9"
    ]


@pytest.mark.parametrize(
    ("reuse", "says"),
    [
        ({"accept": ["extra_arg"]}, "Did you mean 'extra_args'?"),
        ({"accept": "colour"}, "there is no 'colour' to accept"),
        ({"acept": []}, "is neither true, nor false, nor {accept: [NAME, …]}"),
        ("perhaps", "is neither true"),
        (3, "is neither true"),
        (None, "is neither true"),
    ],
)
def test_what_cannot_be_accepted_is_said(make, reuse, says):
    with pytest.raises(ConfigError, match=re.escape(says)) as error:
        make({"reuse": reuse})
    assert [problem.where for problem in error.value.problems] == ["evalflow.reuse"]


def test_reuse_is_a_switch_as_before(make):
    assert make({"reuse": "no"}).flow.reuse is False
    assert make({"reuse": True}).flow.accepted == ()
    accepting = make({"reuse": {"accept": ["deploy.extra_args"]}})
    assert accepting.flow.reuse
    assert Task.parse({**accepting.stock, "model": "m", "api_url": "http://a.example/v1",
                       "evalflow": accepting.flow.to_section()}).flow.accepted == ("deploy.extra_args",)  # fmt: skip


def settled(task):
    """The cell after a run has begun."""
    saved, _ = look(task)
    return cells.update_all(task.work_dir, settle(task, task.models[0], saved))["general_qa"]


def test_what_is_accepted_stands_beside_the_score_until_the_task_is_as_it_was(make):
    answered(make())
    accepting = make({"reuse": {"accept": ["max_model_len"]}}, {"max_model_len": 9})
    assert settled(accepting).accepted == ["max_model_len was 4096 and is 9"]
    assert settled(make()).accepted is None
    settled(accepting)
    cells.update(accepting.work_dir, "general_qa", mixed=True)
    assert settled(make()).accepted == ["max_model_len was 4096 and is 9"]


# Folders of 0.1.


def test_what_0_1_did_not_record_is_unknown_and_does_not_block(make, monkeypatch, tmp_path):
    facts = {
        "backend": "Native", "engine": "vllm", "model": "m", "generation_config.temperature": 0.0, "seed": 42,
        "checkpoint": fingerprints.predictions(make(), make().models[0], "general_qa")["checkpoint"],
        "dataset_args": {"local_path": "data", "few_shot_num": 0, "metric_list": ["Rouge"]},
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    now = {
        "deploy": {"extra_args": ["--dtype", "half"], "env_vars": {"X": "1"}},
        "dataset_args": {"general_qa": {"local_path": str(tmp_path / "data")}},
    }
    answered(make(**now), facts)
    saved, found = look(make(**now))
    assert list(refusals(saved, found)) == []
    assert found[0].unknown == ["env_vars", "extra_args", "max_model_len"]
    now["dataset_args"]["general_qa"]["metric_list"] = ["Rouge"]
    cells.update(saved.folder, "general_qa", verdicts={})
    assert settled(make(**now)).assumed == ["env_vars", "extra_args", "max_model_len"]
    assert remaining(make(**now), make().models[0]).rejudge == []
    assert [item.unknown for item in look(make(**now))[1]] == [[]], "it is told once"
    assert refused(make(deploy={**now["deploy"], "extra_args": []}, dataset_args=now["dataset_args"]))
    assert refused(make(**now, seed=7)) == ["seed was not set and is 7"]


def test_preflight_tells_what_is_unknown(make, monkeypatch):
    answered(make(url="http://a.example/v1"), {"backend": "Native", "engine": "remote", "model": "m"})
    monkeypatch.setattr(preflight, "check_api", lambda *_: None)
    task = make({"mode": "infer"}, url="http://a.example/v1", generation_config={"top_k": None})
    said = preflight.preflight(task)
    assert any("with which api_url m's answers on general_qa were made was not written down" in note for note in said)
