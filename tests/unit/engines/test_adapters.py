"""LoRA adapters: what is refused with words, what an engine is told, and which models share an engine."""

import json
import struct

import pytest

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.engines import Address, check_engine, command_of, load_engine
from evalscope_evalflow.engines.adapters import read
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.run import fingerprints
from evalscope_evalflow.serving.engine_identity import identity
from evalscope_evalflow.sweep.adapter_groups import adapter_lines, share_adapters, with_bases
from evalscope_evalflow.sweep.incomplete import without_incomplete
from evalscope_evalflow.sweep.job import Job, single_model_task
from evalscope_evalflow.sweep.size import Size
from tests import checkpoints

WIDTH, LAYERS = 576, 30


def safetensors(path, shapes):
    size, header = 0, {}
    for name, shape in shapes.items():
        end = size + 2 * shape[0] * shape[1]
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [size, end]}
        size = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)


def adapter(folder, base, rank=8, width=WIDTH, layers=LAYERS, module="self_attn.q_proj", **more):
    folder.mkdir(parents=True)
    shapes = {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.{module}"
        shapes[f"{name}.lora_A.weight"], shapes[f"{name}.lora_B.weight"] = (rank, width), (width, rank)
    safetensors(folder / "adapter_model.safetensors", shapes)
    config = {"peft_type": "LORA", "r": rank, "target_modules": ["q_proj"], "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps({**config, **more}))
    return folder


@pytest.fixture
def base(tmp_path):
    folder = checkpoints.make(tmp_path / "base", "smol")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def problems(base, folder, engine="vllm", **deploy):
    found = load_engine(engine)
    model = ModelConfig(name="m", path=str(base), adapter=str(folder))
    every = found.check(model, DeployConfig(engine=engine, **deploy))
    return [f"{problem.what} {problem.todo}" for problem in every]


def command(model, engine="vllm", **deploy):
    address, env = Address("127.0.0.1", 1, None), Environment.find(None)
    return command_of(load_engine(engine), model, DeployConfig(engine=engine, **deploy), address, env).argv


def test_one_that_fits(base, tmp_path):
    folder = adapter(tmp_path / "a", base)
    assert problems(base, folder) == []
    assert read(str(folder)).rank == 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 64}, "is for a weight of 64×64, and the base has 576×576"),
        ({"layers": 31}, "it has matrices for layer 30, which the base has not"),
        ({"module": "self_attn.qq"}, "the base has none of the weights that it changes"),
        ({"rank": 1024}, "has the rank 1024, and the engine takes 512 at most"),
        ({"use_dora": True}, "uses use_dora, which engines do not compute"),
        ({"modules_to_save": ["embed_tokens"]}, "uses modules_to_save"),
        ({"peft_type": "IA3"}, "is an adapter of the kind IA3; engines serve LORA"),
        ({"r": "x"}, "has no rank: `r` in its adapter_config.json is 'x'"),
    ],
)
def test_one_that_does_not_fit_is_refused(base, tmp_path, change, words):
    (found,) = problems(base, adapter(tmp_path / "a", base, **change))
    assert words in found


def test_another_base_is_refused_and_the_same_elsewhere_is_not(base, tmp_path):
    other = checkpoints.make(tmp_path / "other", "tiny")
    (found,) = problems(base, adapter(tmp_path / "a", other))
    assert f"is an adapter of {other} (its adapter_config.json), and `path` is {base}" in found
    (found,) = problems(base, adapter(tmp_path / "b", "someone/Llama-9"))
    assert "is an adapter of someone/Llama-9" in found
    assert problems(base, adapter(tmp_path / "c", "someone/base")) == []
    copy = checkpoints.make(tmp_path / "copy", "smol")
    assert problems(base, adapter(tmp_path / "d", copy)) == []


def test_files_that_are_missing_or_torn(base, tmp_path):
    folder = adapter(tmp_path / "a", base)
    weights = folder / "adapter_model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size - 1)
    (found,) = problems(base, folder)
    assert "is cut short" in found
    weights.unlink()
    (found,) = problems(base, folder)
    assert "has a adapter_config.json, but no weights" in found
    (found,) = problems(base, tmp_path / "nothing")
    assert "nothing does not exist" in found
    (found,) = problems(base, base)
    assert "is no adapter: it has no adapter_config.json" in found


def test_engines_that_would_leave_it_out_refuse_it(base, tmp_path):
    folder = adapter(tmp_path / "a", base)
    (found,) = problems(base, folder, "lmdeploy")
    assert "LMDeploy serves adapters with its backend pytorch alone" in found
    assert problems(base, folder, "lmdeploy", extra_args=["--backend", "pytorch"]) == []
    model = ModelConfig(name="m", path=str(base), adapter=str(folder))
    engine = load_engine("sglang")
    found = [problem.what for problem in check_engine(engine, model, DeployConfig(engine="sglang"))]
    assert any("sglang serves no adapters by their names" in what for what in found)


def test_the_command_serves_the_base_under_a_name_of_its_own(base, tmp_path):
    folder = adapter(tmp_path / "a", base, rank=9)
    argv = command(ModelConfig(name="base", path=str(base), adapter=str(folder)))
    assert argv[argv.index("--served-model-name") + 1] == "base-base"
    assert argv[argv.index("--max-lora-rank") + 1] == "16"
    assert argv[argv.index("--lora-modules") + 1] == f"base={folder}"
    argv = command(ModelConfig(name="m", path=str(base), adapter=str(folder)), "lmdeploy")
    assert argv[argv.index("--adapters") + 1] == f"m={folder}"
    assert argv[argv.index("--model-name") + 1] == "base"
    argv = command(ModelConfig(name="m", path=str(base)))
    assert "--enable-lora" not in argv


def task_of(tmp_path, *models, **deploy):
    section = {"models": list(models), "deploy": {"engine": "vllm", **deploy}, "backend": "Native"}
    return Task.parse({"datasets": ["arc"], "work_dir": str(tmp_path / "out"), "evalflow": section})


def jobs_of(task, done=()):
    return [
        Job(single_model_task(task, model), Size(answers=1), ("judge",) if model.name in done else ("infer", "judge"))
        for model in task.models
    ]


def test_adapters_of_one_base_share_an_engine(base, tmp_path, monkeypatch):
    for number in (2, 10):
        adapter(tmp_path / "runs" / f"lora-{number}", base, rank=number + 6)
    other = {"name": "longer", "path": str(base), "adapter": str(tmp_path / "runs" / "lora-2")}
    models = (
        {"name": "plain", "path": str(base)},
        {"path": str(base), "adapter": str(tmp_path / "runs" / "lora-*")},
        {**other, "deploy": {"max_model_len": 100}},
    )
    task = task_of(tmp_path, *models)
    assert [model.name for model in task.models] == ["plain", "lora-2", "lora-10", "longer"]
    jobs = share_adapters(jobs_of(task))
    assert [bool(job.group) for job in jobs] == [False, True, True, False], "a GPU's base is served apart"
    monkeypatch.setattr(type(load_engine("vllm")), "base_beside_adapters", lambda self, deploy: True)
    jobs = share_adapters(jobs_of(task))
    assert [bool(job.group) for job in jobs] == [True, True, True, False]
    engine = load_engine("vllm")
    assert len({json.dumps(identity(engine, job.model, job.deploy)) for job in jobs[:3]}) == 1
    assert len({tuple(command(job.model)) for job in jobs[:3]}) == 1
    assert [job.model.served_name for job in jobs[:3]] == ["plain", "lora-2", "lora-10"]
    (line,) = adapter_lines(jobs)
    assert line == f"plain, lora-2, lora-10: one engine serves 2 adapters and the base itself, of {base}"
    left = share_adapters(jobs_of(task, done=("plain", "lora-2", "longer")))
    assert not any(job.group for job in left), "what is answered needs no engine"
    assert left[2].model.served_adapters == {"lora-10": str(tmp_path / "runs" / "lora-10")}


def test_one_that_is_replaced_or_deleted_meanwhile(base, tmp_path):
    for name in "ab":
        adapter(tmp_path / name, base)
    models = [{"path": str(base), "adapter": str(tmp_path / name)} for name in "ab"]
    job, other = share_adapters(jobs_of(task_of(tmp_path, *models)))
    engine = load_engine("vllm")
    before = identity(engine, job.model, job.deploy)
    (tmp_path / "b" / "adapter_config.json").write_text((tmp_path / "b" / "adapter_config.json").read_text() + " ")
    changed = identity(engine, other.model, other.deploy)
    assert changed != before, "the engine that has the old one is not taken"
    (tmp_path / "b" / "adapter_model.safetensors").unlink()
    assert identity(engine, job.model, job.deploy) != changed
    assert not any(word.startswith("b=") for word in command(job.model)), "the others can start without it"
    assert any(word.startswith("b=") for word in command(other.model)), "its own start fails, and says why"


def test_answers_depend_on_the_adapter_and_not_on_its_neighbours(base, tmp_path):
    for name in "ab":
        adapter(tmp_path / name, base)
    both = [{"name": "m", "path": str(base), "adapter": str(tmp_path / "a")}, {"name": "n", "path": str(base)}]
    task = task_of(tmp_path, *both)
    facts = [fingerprints.predictions(task, model, "arc") for model in task.models]
    assert facts[0]["adapter"]
    assert "adapter" not in facts[1]
    job = share_adapters(jobs_of(task))[0]
    assert fingerprints.predictions(job.task, job.model, "arc") == facts[0]
    (tmp_path / "a" / "adapter_config.json").write_text((tmp_path / "a" / "adapter_config.json").read_text() + " ")
    assert fingerprints.predictions(task, task.models[0], "arc")["adapter"] != facts[0]["adapter"]


def test_a_folder_of_an_adapter_as_path_has_the_base_that_it_names(base, tmp_path):
    adapter(tmp_path / "a", base)
    adapter(tmp_path / "b", "someone/elsewhere")
    task = with_bases(
        task_of(tmp_path, str(tmp_path / "a"), str(tmp_path / "b"), {"adapter": str(tmp_path / "a"), "name": "c"})
    )
    assert [(model.name, model.path) for model in task.models] == [
        ("a", str(base)), ("b", str(tmp_path / "b")), ("c", str(base)),
    ]  # fmt: skip
    assert task.notes == (f"a: {tmp_path / 'a'} is an adapter; its base is {base}",
                          f"c: {tmp_path / 'a'} is an adapter; its base is {base}")  # fmt: skip
    found = list(load_engine("vllm").check(task.models[1], DeployConfig()))
    assert "is an adapter (LORA) of someone/elsewhere" in found[0].what
    assert "--eval_adapter_path" in found[0].todo


def test_a_match_that_is_being_written_is_skipped(base, tmp_path):
    adapter(tmp_path / "runs" / "lora-1", base)
    (tmp_path / "runs" / "lora-2").mkdir()
    task = task_of(tmp_path, {"path": str(base), "adapter": str(tmp_path / "runs" / "lora-*")})
    task, skipped = without_incomplete(task)
    assert [model.name for model in task.models] == ["lora-1"]
    assert list(skipped) == ["lora-2"]


def test_what_cannot_go_together(base, tmp_path):
    with pytest.raises(ConfigError, match="both `path` and `adapter` are patterns"):
        task_of(tmp_path, {"path": "/ckpts/*", "adapter": "/runs/*"})
    with pytest.raises(ConfigError, match="adapter is for a checkpoint that is deployed"):
        task_of(tmp_path, {"name": "m", "api_url": "http://a.example/v1", "adapter": "/runs/a"})
