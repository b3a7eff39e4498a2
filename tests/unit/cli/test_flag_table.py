"""Every flag, from the command line to the engine's argv and to the stock TaskConfig, through every door."""

import argparse
import json

import pytest

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.cli.flags import FLAGS, add_flags, mapping_from_flags
from evalscope_evalflow.cli.parser import normalise
from evalscope_evalflow.config import DeployConfig, FlowConfig, ModelConfig, keys
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.flag_hints import COMMAND_ONLY, FLAG_PLACES
from evalscope_evalflow.config.section import Reuse
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.engines import Address, resolve_engine
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.run.resume import remaining
from evalscope_evalflow.serving import Deployment
from evalscope_evalflow.worker import credentials as secrets

KEY = "sk-of-a-test"
JUDGE = "--judge_model_name j --judge_api_url https://judge.example/v1/chat/completions --judge_api_key ${A_KEY}"
URL = "--remote_api_url https://api.example/v1/"

# (flags, what they reach, the value there); CHECKPOINT, GGUF, ENV and HERE are the tests' own.
#   vllm --option: the word after the option in that engine's argv; vllm 0: that word of it; vllm $NAME: its variable
#   TaskConfig.x.y: the stock TaskConfig that the worker makes; VLMEvalKit.x.y: the one for the default backend;
#   settings.x.y: what VLMEvalKit's worker half gets beside it; worker, phases, flow.x: what EvalFlow does itself
ROWS = [
    ("--work_dir HERE/out", "TaskConfig.work_dir", "HERE/out/m"),
    ("", "vllm --served-model-name", "m"),
    ("", "lmdeploy --model-name", "m"),
    ("", "sglang --served-model-name", "m"),
    ("", "llamacpp --alias", "m"),
    ("--eval_model_name other", "vllm --served-model-name", "other"),
    ("--eval_model_name other", "TaskConfig.model", "other"),
    ("--eval_model_name other", "TaskConfig.model_id", "other"),
    ("--eval_model_path CHECKPOINT", "vllm serve", "CHECKPOINT"),
    ("--eval_model_path CHECKPOINT", "lmdeploy api_server", "CHECKPOINT"),
    ("--eval_model_path CHECKPOINT", "sglang --model-path", "CHECKPOINT"),
    ("--eval_model_path GGUF", "llamacpp --model", "GGUF"),
    ("--eval_model_path CHECKPOINT --eval_adapter_path HERE/a", "vllm --lora-modules", "m=HERE/a"),
    ("--eval_model_path CHECKPOINT --eval_adapter_path HERE/a", "lmdeploy --adapters", "m=HERE/a"),
    ("--eval_model_path GGUF --eval_adapter_path HERE/a.gguf", "llamacpp --lora", "HERE/a.gguf"),
    (URL, "endpoint.api_url", "https://api.example/v1"),
    ("--remote_api_url https://api.example/v1/chat/completions", "endpoint.api_url", "https://api.example/v1"),
    (URL, "TaskConfig.model", "m"),
    ("--conda_env ENV", "vllm 0", "ENV/bin/python"),
    ("--conda_env ENV", "lmdeploy 0", "ENV/bin/python"),
    ("--conda_env ENV", "llamacpp 0", "ENV/bin/python"),
    ("--worker_env ENV --eval_backend Native", "worker", "ENV/bin/python"),
    ("--deploy_backend lmdeploy", "lmdeploy 2", "api-keys+"),
    ("--deploy_backend sglang", "engine", "sglang"),
    ("--deploy_backend llamacpp --eval_model_path GGUF", "engine", "llamacpp"),
    (f"--deploy_backend remote {URL}", "engine", "remote"),
    ("--eval_backend Native", "TaskConfig.eval_backend", "Native"),
    ("--vlmevalkit_mode infer", "phases", ["infer"]),
    ("--vlmevalkit_mode eval", "phases", ["judge"]),
    ("--vlmevalkit_mode all", "phases", ["infer", "judge"]),
    ("--datasets arc gsm8k", "TaskConfig.datasets", ["arc", "gsm8k"]),
    ('--dataset_args {"arc":{"few_shot_num":1}}', "TaskConfig.dataset_args", {"arc": {"few_shot_num": 1}}),
    ("--limit 10", "TaskConfig.limit", 10),
    ("--limit 0.5", "TaskConfig.limit", 0.5),
    ("--limit 10", "VLMEvalKit.eval_config.limit", 10),
    ("--datasets MMStar WeMath --eval_backend VLMEvalKit", "VLMEvalKit.eval_config.data", ["MMStar", "WeMath"]),
    ("--eval_backend VLMEvalKit", "VLMEvalKit.eval_backend", "VLMEvalKit"),
    ("--work_dir HERE/out", "VLMEvalKit.work_dir", "HERE/out/m"),
    ("--eval_model_name other", "VLMEvalKit.eval_config.model.0.type", "other"),
    ("--eval_max_num_seqs 16", "VLMEvalKit.eval_config.nproc", 16),
    ("", "VLMEvalKit.eval_config.nproc", 200),
    ("--eval_max_new_tokens 64", "settings.generation_config.max_tokens", 64),
    ("--eval_temperature 0.7", "settings.generation_config.temperature", 0.7),
    ("--verify_md5 False", "settings.verify_md5", False),
    (JUDGE, "settings.judge.model_id", "j"),
    (JUDGE, "settings.judge.api_url", "https://judge.example/v1/chat/completions"),
    (JUDGE, "settings.judge.api_key", KEY),
    (f"{JUDGE} --judge_max_num_seqs 7", "judge_batch_size", 7),
    ('--budget {"tokens":5}', "flow.budget.tokens", 5),
    ("--reuse False", "flow.reuse", False),
    ("--reuse_accept extra_args max_model_len", "flow.reuse.accept", ["extra_args", "max_model_len"]),
    ("--verify_md5 False", "flow.verify_md5", False),
    (JUDGE, "TaskConfig.judge.models.0.model_id", "j"),
    ("--judge_model_path /models/boss.gguf", "flow.judge.path", "/models/boss.gguf"),
    (JUDGE, "TaskConfig.judge.models.0.api_url", "https://judge.example/v1/chat/completions"),  # which it understands
    (JUDGE, "TaskConfig.judge.models.0.api_key", KEY),
    (f"{JUDGE} --judge_max_num_seqs 7", "judge_batch_size", 7),
    (JUDGE, "judge_batch_size", 200),
    ("--eval_max_model_length 512", "vllm --max-model-len", "512"),
    ("--eval_max_model_length 512", "lmdeploy --session-len", "512"),
    ("--eval_max_model_length 512", "sglang --context-length", "512"),
    ("--eval_max_model_length 512", "llamacpp --context", "512"),
    ("--eval_max_new_tokens 64", "TaskConfig.generation_config.max_tokens", 64),
    ("--eval_max_num_seqs 16", "vllm --max-num-seqs", "16"),
    ("--eval_max_num_seqs 16", "lmdeploy --max-batch-size", "16"),
    ("", "lmdeploy --max-batch-size", "200"),
    ("--eval_max_num_seqs 16", "sglang --max-running-requests", "16"),
    ("--eval_max_num_seqs 16", "llamacpp --parallel", "16"),
    ("--eval_max_num_seqs 16", "TaskConfig.eval_batch_size", 16),
    (f"--eval_max_num_seqs 16 {URL}", "TaskConfig.eval_batch_size", 16),
    ("--eval_temperature 0.7", "TaskConfig.generation_config.temperature", 0.7),
    ("--eval_template HERE/t.jinja", "vllm --chat-template", "HERE/t.jinja"),
    ("--eval_template internvl-zh", "lmdeploy --chat-template", "internvl-zh"),
    ("--eval_template chatml", "sglang --chat-template", "chatml"),
    ("--eval_template HERE/t.jinja", "llamacpp --chat-template-file", "HERE/t.jinja"),
    ("--eval_devices 2,3", "vllm --tensor-parallel-size", "2"),
    ("--eval_devices 2,3", "lmdeploy --tp", "2"),
    ("--eval_devices 2,3", "sglang --tp-size", "2"),
    ("--eval_devices 2,3", "flow.deploy.devices", "2,3"),
    ("--eval_devices auto", "flow.deploy.devices", "auto"),
    ("--eval_devices all", "flow.deploy.devices", "all"),
    ("--eval_host 127.0.0.2", "vllm --host", "127.0.0.2"),
    ("--eval_host 127.0.0.2", "lmdeploy --server-name", "127.0.0.2"),
    ("--eval_host 127.0.0.2", "sglang --host", "127.0.0.2"),
    ("--eval_host 127.0.0.2", "llamacpp --host", "127.0.0.2"),
    ("--eval_port 9000", "vllm --port", "9000"),
    ("--eval_port 9000", "lmdeploy --server-port", "9000"),
    ("--eval_port 9000", "sglang --port", "9000"),
    ("--eval_port 9000", "llamacpp --port", "9000"),
    ("--eval_api_key ${A_KEY}", "vllm $EVALFLOW_ENGINE_API_KEY", KEY),
    ("--eval_api_key ${A_KEY}", "lmdeploy $EVALFLOW_ENGINE_API_KEY", KEY),
    ("--eval_api_key ${A_KEY}", "sglang $EVALFLOW_ENGINE_API_KEY", KEY),
    ("--eval_api_key ${A_KEY}", "llamacpp $EVALFLOW_ENGINE_API_KEY", KEY),
    (f"--eval_api_key ${{A_KEY}} {URL}", "endpoint.api_key", KEY),
    ("--extra_args=--dtype\u00a0bfloat16", "vllm --dtype", "bfloat16"),
    ("--extra_args=--tp\u00a04", "lmdeploy --tp", "4"),
    ("--extra_args=--threads\u00a03", "llamacpp --threads", "3"),
    ("--export csv parquet", "flow.exporters", ["csv", "parquet"]),
    ('--export {"name":"csv","samples":false}', "flow.exporters", [{"name": "csv", "samples": False}]),
    ('--env_vars {"A":"1"}', "flow.deploy.env_vars", {"A": "1"}),
]
DOORS = ["flags", "flags with dashes", "section", "section with dashes"]


def parsed(words):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser)
    return parser.parse_args(normalise(words, parser))


def task_by(door, words):
    """The task that the words make, as flags, or as the section's own keys."""
    if door.startswith("flags"):
        return Task.parse(mapping_from_flags(parsed(with_dashes(words) if "dashes" in door else words)))
    given = {name: value for name, value in vars(parsed(words)).items() if value is not None and value is not False}
    given |= {name: False for name in ("reuse", "verify_md5") if getattr(parsed(words), name) is False}
    task = {"evalflow": {}, "datasets": ["arc"]}  # the default datasets are the command's
    for name, value in given.items():
        of_api = "remote_api_url" in given
        place = FLAG_PLACES.get(name, (f"evalflow.{name}",))[-1 if of_api else 0]
        write(task, place, value)
    return Task.parse({"evalflow": dashed(task.pop("evalflow")) if "dashes" in door else task.pop("evalflow"), **task})


def with_dashes(words):
    split = [word.partition("=") if word.startswith("--") else (word, "", "") for word in words]
    return [(name.replace("_", "-") if name.startswith("--") else name) + is_ + value for name, is_, value in split]


def write(tree, place, value):
    """Put a value at a place of a task file; a list goes to the items of a list one by one."""
    first, _, rest = place.partition(".")
    if first.endswith("[]"):
        values = value if isinstance(value, list) else [value]
        items = tree.setdefault(first.removesuffix("[]"), [])
        items += [{} for _ in values[len(items) :]]
        for item, one in zip(items, values, strict=True):
            write(item, rest, one)
    elif rest:
        write(tree.setdefault(first, {}), rest, value)
    else:
        tree[first] = value


def dashed(tree):
    """The same with dashes in the names of keys; the engine's variables keep their names."""
    if isinstance(tree, list):
        return [dashed(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    return {key.replace("_", "-"): item if key == "env_vars" else dashed(item) for key, item in tree.items()}


@pytest.fixture
def places(tmp_path, make_checkpoint, make_gguf, make_env, monkeypatch):
    monkeypatch.setenv("A_KEY", KEY)
    (tmp_path / "t.jinja").touch()
    return {"CHECKPOINT": make_checkpoint(), "GGUF": make_gguf(), "ENV": make_env(), "HERE": tmp_path}


def filled(text, places):
    for name, place in places.items():
        text = text.replace(name, str(place))
    return text


def with_base(words, reached):
    """The words, with what a task needs beside them."""
    local = "gguf" if reached.startswith("llamacpp") else "checkpoint"
    base = {"--work_dir": "HERE/out", "--eval_model_name": "m"}
    if "--remote_api_url" not in words:
        base["--eval_model_path"] = local.upper()
    engine = reached.split()[0]
    if engine in ("vllm", "lmdeploy", "sglang", "llamacpp"):
        base["--deploy_backend"] = engine
    if reached.startswith(("TaskConfig", "judge", "phases")) and "--eval_backend" not in words:
        base["--eval_backend"] = "Native"
    return [*words, *(word for flag, value in base.items() if flag not in words for word in (flag, value))]


def reach(task, where, monkeypatch):
    """What is there."""
    model = task.models[0]
    deploy = task.flow.deploy_for(model)
    engine = resolve_engine(model, deploy)
    if where == "engine":
        return engine.name
    if where == "phases":
        return remaining(task, model).phases
    if where == "worker":
        return str(Environment.find(task.flow.worker_env).python)
    if where.startswith("flow."):
        return at(task.flow.model_dump(), where.removeprefix("flow."))
    if where.startswith("endpoint."):
        deployment = Deployment(engine, model, deploy, log=task.work_dir / "log", run_id="x")
        deployment.start()
        return getattr(deployment.wait_ready(), where.removeprefix("endpoint."))
    if where == "judge_batch_size" or where.startswith(("TaskConfig.", "VLMEvalKit.", "settings.")):
        from evalscope.config import TaskConfig

        kind, _, path = where.partition(".")
        backend = load_backend("VLMEvalKit" if kind in ("VLMEvalKit", "settings") else "Native")
        request = backend.start_task(task, model, ["infer", "judge"], engine.max_num_seqs(deploy))
        if where == "judge_batch_size":
            return request.judge_batch_size
        found = {}
        public = keys.to_environment(request.as_dict(), found, secrets.KEY_PREFIX)
        assert KEY not in json.dumps(public, default=str)
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        if kind == "settings":
            return at(secrets.resolve(public["settings"]), path)
        config = TaskConfig.from_dict({**secrets.resolve(public["stock_task"]), "api_key": None})
        return at(config.to_dict() | {"judge": config.judge, "model": config.model}, path)
    address = Address(deploy.host, deploy.port or 0, keys.reveal(deploy.api_key))
    command = engine.command(model, deploy, address, Environment.find(deploy.env))
    assert KEY not in " ".join(command.argv)
    name, place = where.split()
    assert engine.name == name
    if place.startswith("$"):
        assert place[1:] in command.secrets
        return command.env[place[1:]]
    if place.isdigit():
        return command.argv[int(place)]
    last = len(command.argv) - 1 - command.argv[::-1].index(place)  # as the engine's parser has it
    return command.argv[last + 1]


def at(tree, path):
    for step in path.split("."):
        if isinstance(tree, (list, tuple)):
            tree = tree[int(step)]
        else:
            tree = tree[step] if isinstance(tree, dict) else getattr(tree, step)
    return tree.get_secret_value() if hasattr(tree, "get_secret_value") else tree


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("line", "where", "value"), ROWS, ids=[f"{line or 'base'} -> {to}" for line, to, _ in ROWS])
def test_every_flag_reaches_what_it_is_for(line, where, value, door, places, monkeypatch):
    words = [filled(word.replace("\u00a0", " "), places) for word in with_base(line.split(" ") if line else [], where)]
    task = task_by(door, words)
    assert reach(task, where, monkeypatch) == (filled(value, places) if isinstance(value, str) else value)


def test_no_flag_is_missing_from_the_table():
    used = {word.split("=")[0] for line, _, _ in ROWS for word in line.split() if word.startswith("--")}
    assert {f"--{flag.name}" for flag in FLAGS} - used == {"--dry_run", "--json", "--verbose"}  # of the command itself


def section_refuses(section):
    with pytest.raises(ConfigError) as error:
        Task.parse({"datasets": ["arc"], "model": "m", "evalflow": section})
    [problem] = error.value.problems
    return problem


def test_every_flag_is_a_key_of_the_section_or_has_one_named():
    for flag in FLAGS:
        same = flag.name in FlowConfig.model_fields
        assert same != (flag.name in FLAG_PLACES or flag.name in COMMAND_ONLY), flag.name
        if flag.target:
            assert (flag.target,) == FLAG_PLACES.get(flag.name, (f"evalflow.{flag.name}",))
    assert {*FLAG_PLACES, *COMMAND_ONLY} <= {flag.name for flag in FLAGS}


@pytest.mark.parametrize("name", [*FLAG_PLACES, *COMMAND_ONLY])
@pytest.mark.parametrize("spelling", [str, lambda name: name.replace("_", "-")], ids=["underscores", "dashes"])
def test_a_flags_name_in_the_section_is_refused_with_the_right_key(name, spelling):
    problem = section_refuses({spelling(name): "x"})
    assert problem.where == f"evalflow.{name}"
    if name in COMMAND_ONLY:
        assert problem.todo == "Remove it here."
        return
    for place in FLAG_PLACES[name]:
        *_, last = place.split(".")
        assert f"{last}: …" in problem.todo
        assert ("beside `evalflow`" in problem.todo) == (not place.startswith("evalflow."))


@pytest.mark.parametrize("place", sorted({place for places in FLAG_PLACES.values() for place in places}))
def test_the_key_that_is_named_exists(place):
    homes = {"deploy": DeployConfig, "models[]": ModelConfig, "judge": ModelConfig, "reuse": Reuse}
    inside, _, path = place.partition("evalflow.")
    if inside:
        assert place in {flag.target for flag in FLAGS} or place.startswith("judge.models[].")  # EvalScope's own
        return
    first, _, rest = path.partition(".")
    assert (rest in homes[first].model_fields) if rest else (first in FlowConfig.model_fields)


def test_the_messages_read_as_written():
    assert str(section_refuses({"eval-max-model-length": 8192})) == (
        "evalflow.eval_max_model_length: is a flag of the command (--eval_max_model_length), not a key of the section\n"
        "    Write `deploy: {max_model_len: …}`."
    )
    assert section_refuses({"judge_model_name": "j"}).todo == (
        "Write `judge: {models: [{model_id: …}]}` beside `evalflow`, not in it."
    )
    assert section_refuses({"eval_api_key": "sk"}).todo == (
        "For a model that is deployed: Write `deploy: {api_key: …}`. For an API: Write `models: [{api_key: …}]`."
    )
    assert section_refuses({"datasets": ["arc"]}).what == "is a field of the task, not a key of the section"
    assert section_refuses({"deploy": {"eval_port": 1}}).where == "evalflow.deploy.eval_port"
    assert section_refuses({"models": [{"path": "/m", "eval_model_name": "m"}]}).todo == "Write `models: [{name: …}]`."


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.kind != "flag"], ids=lambda flag: flag.name)
def test_every_help_text_states_the_default_or_that_there_is_none(flag):
    parser = argparse.ArgumentParser()
    add_flags(parser)
    text = next(action.help for action in parser._actions if f"--{flag.name}" in action.option_strings)
    assert "(default: " in text or "(required" in text


@pytest.mark.parametrize(
    ("flag", "unit"),
    [
        ("eval_max_model_length", "tokens"),
        ("eval_max_new_tokens", "tokens"),
        ("eval_max_num_seqs", "sequences"),
        ("judge_max_num_seqs", "answers"),
        ("limit", "samples"),
    ],
)
def test_every_number_has_its_unit_in_the_help(flag, unit):
    assert unit in next(item.help for item in FLAGS if item.name == flag)


def test_several_models_with_an_api_each_are_paired_in_order(places):
    line = "--work_dir w --eval_model_name a b --remote_api_url https://a.example/v1 https://b.example/v1/"
    for door in DOORS:
        models = task_by(door, line.split()).models
        assert [(model.name, model.api_url) for model in models] == [
            ("a", "https://a.example/v1"),
            ("b", "https://b.example/v1/"),
        ]
