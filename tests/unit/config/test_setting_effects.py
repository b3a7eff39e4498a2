"""Every setting of every door is in the table of what it changes."""

import dataclasses
import json
import typing

import pytest
from pydantic_core import PydanticUndefined

from evalscope_evalflow.backends.native import benchmark_identity
from evalscope_evalflow.cli.flags import FLAGS
from evalscope_evalflow.config.benchmark_defaults import benchmark_defaults
from evalscope_evalflow.config.catalog import evalscope_folder
from evalscope_evalflow.config.flag_hints import COMMAND_ONLY, FLAG_PLACES
from evalscope_evalflow.config.section import DeployConfig, FlowConfig, ModelConfig, Reuse
from evalscope_evalflow.config.setting_effects import (
    ACCEPTABLE,
    DATASET,
    MEANINGS,
    STOCK,
    TABLE,
    Effect,
    effect_of,
    settings_with,
    without_defaults,
)
from evalscope_evalflow.config.watch_settings import WatchConfig, WatchGate
from evalscope_evalflow.engines import known_engines, load_engine
from evalscope_evalflow.engines.options.answer_options import answer_options, answer_variables, parallel_options


def stock_models():
    from evalscope import config
    from evalscope.api.benchmark.meta import BenchmarkMeta
    from evalscope.api.model import GenerateConfig

    return {
        "": config.TaskConfig,
        "generation_config": GenerateConfig,
        "dataset_args.NAME": BenchmarkMeta,
        "judge": config.JudgeConfig,
        "judge.models[]": config.JudgeModelConfig,
        "judge.contract": config.JudgeContractConfig,
        "sandbox": config.SandboxTaskConfig,
        "evalflow": FlowConfig,
        "evalflow.reuse": Reuse,
        "evalflow.models[]": ModelConfig,
        "evalflow.judge": ModelConfig,
        "evalflow.deploy": DeployConfig,
        "evalflow.watch": WatchConfig,
        "evalflow.watch.gate": WatchGate,
    }


# Names that are no field, but that EvalScope takes all the same.
ALSO = {"": {"judge_strategy", "judge_model_args"}, "dataset_args.NAME": {"local_path"}}


@pytest.mark.parametrize("place", TABLE)
def test_every_setting_is_in_the_table_and_the_table_has_no_other(place):
    home = stock_models()[place]
    fields = getattr(home, "model_fields", None) or {item.name for item in dataclasses.fields(home)}
    assert set(TABLE[place]) == set(fields) | ALSO.get(place, set())
    assert set(TABLE) == set(stock_models())


@pytest.mark.parametrize("place", [place for place in TABLE if not place.startswith(("evalflow", "dataset"))])
def test_its_defaults_are_evalscopes(place):
    fields = stock_models()[place].model_fields
    for name, line in TABLE[place].items():
        if line.default is not None and name in fields and name not in ("generation_config", "eval_type", "n"):
            default = fields[name].get_default(call_default_factory=True)
            assert default is not PydanticUndefined
            assert json.loads(json.dumps(default)) == line.default, name


def test_every_flag_stands_for_a_setting():
    for flag in FLAGS:
        if flag.name in COMMAND_ONLY:  # it says what the command prints
            continue
        places = FLAG_PLACES.get(flag.name) or (f"evalflow.{flag.name}",)
        assert all(isinstance(effect_of(place), Effect) for place in places), flag.name


def test_every_effect_has_a_meaning_and_what_can_be_accepted_changes_answers():
    assert set(MEANINGS) == set(Effect)
    answering = {name for lines in TABLE.values() for name in settings_with(Effect.ANSWERS, lines)}
    parts = {name for lines in TABLE.values() for name in settings_with(Effect.PARTS, lines)}
    assert set(ACCEPTABLE) - {"checkpoint"} <= answering | parts


def test_what_says_nothing_is_left_out():
    assert without_defaults({"seed": 42, "limit": None, "model_args": {}, "repeats": 2, "new": 1}, STOCK) == {
        "repeats": 2, "new": 1,
    }  # fmt: skip


@pytest.mark.parametrize("dataset", ["gsm8k", "general_qa", "general_mcq", "mmlu", "arc"])
def test_the_defaults_of_benchmarks_are_read_from_their_source(dataset):
    from evalscope.api.registry import get_benchmark
    from evalscope.config import TaskConfig

    task = TaskConfig(model="m", datasets=[dataset], api_url="http://127.0.0.1:1/v1")
    meta = get_benchmark(dataset, task)._benchmark_meta
    found = benchmark_defaults(evalscope_folder(), dataset)
    assert {"few_shot_num", "shuffle", "aggregation", "metric_list"} <= set(found)
    counted = [name for name, line in DATASET.items() if line.effect in (Effect.ANSWERS, Effect.SCORING)]
    for name in set(counted) & set(found) - {
        "extra_params",
        "data_adapter",
        "metric_list",
    }:  # it knows `acc` by two names
        assert found[name] == json.loads(json.dumps(getattr(meta, name), default=str)), name


def test_a_benchmark_that_is_not_evalscopes_has_no_known_defaults():
    assert benchmark_defaults(evalscope_folder(), "mine") == {}


ENGINES = sorted(set(known_engines()) & {"vllm", "lmdeploy", "sglang", "llamacpp"})


@pytest.mark.parametrize("name", ENGINES)
def test_what_an_engine_declares_to_have_no_effect_has_none(name):
    engine = load_engine(name)
    words = [word for option in engine.neutral_options for word in (option.replace("*", "x"), "1")]
    assert answer_options(engine, words) == {}
    assert parallel_options(engine, words) == {}
    shared = [word for option in engine.parallel_options for word in (option.replace("*", "x"), "1")]
    assert answer_options(engine, shared) == {}
    assert len(parallel_options(engine, shared)) == len(engine.parallel_options)
    variables = {variable.replace("*", "X"): "1" for variable in engine.neutral_variables}
    assert answer_variables(engine, variables, {}) == {}
    assert set(answer_variables(engine, {}, {variable.replace("*", "X"): "1" for variable in engine.variable_prefixes}))


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("vllm", "--dtype --quantization -q --hf-overrides --kv-cache-dtype --tokenizer --revision --seed "
                 "--load-format --lora-modules --enable-lora --default-chat-template-kwargs --reasoning-parser "
                 "--speculative-config --chat-template-content-format --generation-config --override-generation-config "
                 "--logits-processors --mm-processor-kwargs --limit-mm-per-prompt --enforce-eager --attention-backend "
                 "--compilation-config"
         ),
        ("lmdeploy", "--backend --dtype --quant-policy --model-format --adapters --hf-overrides --rope-scaling-factor "
                     "--revision --reasoning-parser --speculative-algorithm --eager-mode"),
        ("sglang", "--dtype --quantization --kv-cache-dtype --lora-paths --json-model-override-args --random-seed "
                   "--load-format --revision --attention-backend --sampling-defaults --reasoning-parser"),
        ("llamacpp", "--another"),
    ],
)  # fmt: skip
def test_what_may_change_the_text_counts(name, counts):
    words = [word for option in counts.split() for word in (option, "x")]
    assert sorted(answer_options(load_engine(name), words)) == sorted(counts.split())


def test_the_worker_leaves_out_the_settings_that_only_change_scoring():
    assert set(benchmark_identity.SCORING) == set(settings_with(Effect.SCORING, DATASET))


def test_the_table_knows_only_effects():
    assert {type(line.effect) for lines in TABLE.values() for line in lines.values()} == {Effect}
    assert typing.get_type_hints(effect_of)["return"] is Effect
