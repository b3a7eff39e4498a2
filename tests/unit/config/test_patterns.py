"""`models` entries whose path is a pattern, and `--eval_model_path` with one."""

import argparse

import pytest

from evalscope_evalflow.cli import flags
from evalscope_evalflow.config import patterns
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.plugin.evalflow_backend import prepare


@pytest.fixture
def ckpts(tmp_path, make_checkpoint):
    """Checkpoints step-2, step-10 and step-100."""
    for number in (100, 2, 10):
        make_checkpoint(f"ckpts/step-{number}")
    return tmp_path / "ckpts"


def models(*entries, **section):
    task = Task.parse({"datasets": ["gsm8k"], "evalflow": {"models": list(entries), **section}})
    return [(model.name, model.path) for model in task.models]


def names(*entries):
    return [name for name, _ in models(*entries)]


def refused(*entries):
    with pytest.raises(ConfigError) as caught:
        models(*entries)
    return str(caught.value)


def test_one_model_for_each_match_in_natural_order(ckpts):
    assert models({"path": f"{ckpts}/step-*"}) == [(f"step-{n}", f"{ckpts}/step-{n}") for n in (2, 10, 100)]
    assert names({"path": f"{ckpts}/step-*/"}) == ["step-2", "step-10", "step-100"]
    assert names({"path": f"{ckpts}/step-?"}) == ["step-2"]
    assert names({"path": f"{ckpts}/step-1[0-9]"}) == ["step-10"]


def test_a_name_has_the_match_at_its_end_or_where_it_says(ckpts):
    assert names({"path": f"{ckpts}/step-*", "name": "sft"}) == ["sft-2", "sft-10", "sft-100"]
    assert names({"path": f"{ckpts}/step-*", "name": "sft@{}"}) == ["sft@2", "sft@10", "sft@100"]
    assert names({"path": f"{ckpts}/s*p-1*", "name": "a"}) == ["a-te-0", "a-te-00"]


def test_matches_of_one_name_are_told_apart_by_what_the_stars_stand_for(tmp_path, make_checkpoint):
    for run in ("a", "b"):
        make_checkpoint(f"runs/{run}/hf")
    assert names({"path": f"{tmp_path}/runs/*/hf"}) == ["a", "b"]


def test_other_settings_are_those_of_every_match_and_other_entries_stay(ckpts):
    task = Task.parse(
        {
            "datasets": ["gsm8k"],
            "evalflow": {
                "models": [
                    {"name": "base", "path": "/models/base"},
                    {"path": f"{ckpts}/step-1*", "deploy": {"max_model_len": 99}},
                ]
            },
        }
    )
    assert [model.name for model in task.models] == ["base", "step-10", "step-100"]
    assert [task.flow.deploy_for(model).max_model_len for model in task.models] == [None, 99, 99]


def test_gguf_files_match_too(tmp_path, make_gguf):
    for number in (10, 9):
        make_gguf(f"q{number}.gguf")
    assert names({"path": f"{tmp_path}/q*.gguf"}) == ["q9", "q10"]


def test_a_path_that_is_there_is_no_pattern(make_checkpoint):
    folder = make_checkpoint("odd[1]*")
    assert models({"name": "m", "path": str(folder)}) == [("m", str(folder))]


def test_a_home_folder_is_understood(ckpts, monkeypatch):
    monkeypatch.setenv("HOME", str(ckpts))
    assert models({"path": "~/step-?"}) == [("step-2", f"{ckpts}/step-2")]


def test_a_pattern_without_a_match_is_refused_with_what_is_there(ckpts):
    said = refused({"path": f"{ckpts}/stop-*"})
    assert f"evalflow.models.0.path: nothing matches {ckpts}/stop-*" in said
    assert f"{ckpts} holds step-2, step-10, step-100." in said
    assert "holds ckpts" in refused({"path": f"{ckpts.parent}/no/such/*/folder"})


def test_files_beside_the_checkpoints_are_no_models(ckpts):
    (ckpts / "step-4.txt").write_text("")
    assert names({"path": f"{ckpts}/step-*"}) == ["step-2", "step-10", "step-100"]
    assert "all 1 matches" in refused({"path": f"{ckpts}/step-4*"})


def test_every_bad_pattern_is_told_at_once(ckpts):
    said = refused({"path": f"{ckpts}/x*"}, {"path": f"{ckpts}/y*"})
    assert "models.0.path" in said
    assert "models.1.path" in said


def test_two_patterns_with_a_match_in_common_are_refused(ckpts):
    assert "step-2 is given more than once" in refused({"path": f"{ckpts}/step-*"}, {"path": f"{ckpts}/*-2"})


def test_a_stock_model_is_one_model(ckpts):
    with pytest.raises(ConfigError, match=r"model: is a pattern.*\n.*models: \[\{path: "):
        Task.parse({"datasets": ["gsm8k"], "model": f"{ckpts}/step-*", "evalflow": {}})


def test_it_is_the_same_through_evalscope(ckpts):
    values = prepare({"datasets": ["gsm8k"], "evalflow": {"models": [{"path": f"{ckpts}/step-*"}]}})
    assert [model["name"] for model in values["eval_config"]["models"]] == ["step-2", "step-10", "step-100"]


def by_flags(*argv):
    parser = argparse.ArgumentParser()
    flags.add_flags(parser)
    task = flags.mapping_from_flags(parser.parse_args(["--work_dir", "w", *argv]))
    return [(model["name"], model["path"]) for model in task["evalflow"]["models"]]


def test_on_the_command_line_names_may_be_left_out_or_be_as_many(ckpts):
    pattern, paths = f"{ckpts}/step-*", [f"{ckpts}/step-{n}" for n in (2, 10, 100)]
    every = ["--eval_model_path", pattern]
    assert by_flags(*every) == list(zip(["step-2", "step-10", "step-100"], paths, strict=True))
    assert by_flags(*every, "--eval_model_name", "sft") == [(f"sft-{n}", f"{ckpts}/step-{n}") for n in (2, 10, 100)]
    assert by_flags(*every, "--eval_model_name", "a", "b", "c") == list(zip("abc", paths, strict=True))
    mixed = ["--eval_model_path", "/models/base", pattern, "--eval_model_name", "base", "sft-{}"]
    assert [name for name, _ in by_flags(*mixed)] == ["base", "sft-2", "sft-10", "sft-100"]
    with pytest.raises(ConfigError, match="--eval_model_name: 2 given for 3 models"):
        by_flags(*every, "--eval_model_name", "a", "b")
    with pytest.raises(ConfigError, match="--eval_model_path: nothing matches"):
        by_flags("--eval_model_path", f"{ckpts}/no-*")


@pytest.mark.parametrize(
    ("pattern", "path", "given", "name", "step"),
    [
        ("/c/step-*", "/c/step-10", None, "step-10", 10),
        ("/c/step-*/", "/c/step-10", None, "step-10", 10),
        ("/c/*.gguf", "/c/m-7.gguf", None, "m-7", 7),
        ("/runs/*/step-*", "/runs/a/step-10", None, "a-step-10", 10),
        ("/runs/*/hf", "/runs/step_20/hf", None, "step_20", 20),
        ("/c/step-*", "/c/step-10", "sft-{}", "sft-10", 10),
        ("/c/*", "/c/final", None, "final", None),
    ],
)
def test_a_name_that_stays_whatever_else_matches_and_its_step(pattern, path, given, name, step):
    assert patterns.steady_name(pattern, path, given) == name
    assert patterns.step_of_match(pattern, path) == step
