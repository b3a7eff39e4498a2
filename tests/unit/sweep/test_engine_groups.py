"""Which models of a sweep share engines, and what is said of the others."""

import checkpoints
import pytest

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines.base import Engine
from evalscope_evalflow.sweep import engine_groups
from evalscope_evalflow.sweep.engine_groups import sharing

CONFIG = checkpoints.dense(64, 2, 4, 2, 128, vocab_size=256, tie_word_embeddings=True)


class Swapping(Engine):
    name = "swapping"
    why = ""

    def check(self, model, deploy):
        return ()

    def can_swap(self, env):
        return self.why


class Fixed(Engine):
    name = "fixed"

    def check(self, model, deploy):
        return ()


@pytest.fixture(autouse=True)
def engines(monkeypatch):
    monkeypatch.setattr(Swapping, "why", "")
    known = {"swapping": Swapping(), "fixed": Fixed()}
    monkeypatch.setattr(engine_groups, "resolve_engine", lambda model, deploy: known[deploy.engine])


@pytest.fixture
def model(tmp_path):
    def make(name, engine="swapping", config=None, **deploy):
        config = {**CONFIG, **(config or {})}
        folder = checkpoints.write(tmp_path / name, config, list(checkpoints.tensors(config)))
        return ModelConfig(name=name, path=str(folder)), DeployConfig(engine=engine, **deploy)

    return make


def test_a_family_and_one_that_is_longer(model):
    models = [model(f"step-{number}") for number in range(1, 7)]
    found = sharing([*models, model("step-3-long", config={"max_position_embeddings": 65536})])
    assert set(found.groups) == {f"step-{number}" for number in range(1, 7)}
    assert len(set(found.groups.values())) == 1
    assert found.groups["step-1"].swaps
    assert found.lines == (
        "step-2, step-3 … step-6 take step-1's engine: their weights alone differ",
        "step-3-long cannot: max_position_embeddings differs",
    )


def test_other_settings_are_another_engine(model):
    found = sharing([model("a"), model("b"), model("c", max_model_len=512), model("d", max_model_len=512)])
    assert found.groups["a"] == found.groups["b"] != found.groups["c"] == found.groups["d"]
    found = sharing([model("a1"), model("b1", extra_args=["--seed", "1"])])
    assert not found.groups
    assert found.lines == ("b1 cannot take a1's engine: deploy.extra_args differs",)


def test_how_long_an_engine_is_waited_for_is_no_other_engine(model):
    assert sharing([model("a"), model("b", stall_timeout_s=10, max_restarts=0)]).groups


def test_what_cannot_be_swapped_is_told(model):
    awq = {"quantization_config": checkpoints.AWQ}
    found = sharing([model("a", config=awq), model("b", config=awq)])
    assert not found.groups
    assert found.lines == ("a and b cannot share an engine: it is quantised (awq, 4 bits)",)


def test_never_means_never(model):
    found = sharing([model("a", swap="never"), model("b", swap="never")])
    assert found == engine_groups.Sharing({})
    found = sharing([model("c"), model("d"), model("e", swap="never")])
    assert set(found.groups) == {"c", "d"}


def test_engines_that_cannot(model, monkeypatch):
    assert sharing([model("a", "fixed"), model("b", "fixed")]) == engine_groups.Sharing({})
    monkeypatch.setattr(Swapping, "why", "0.20 cannot be given another checkpoint")
    found = sharing([model("c"), model("d")])
    assert found.lines == ("swapping 0.20 cannot be given another checkpoint: every model has an engine of its own",)


def test_one_model_shares_with_nobody(model):
    assert sharing([model("a"), model("b", "fixed")]) == engine_groups.Sharing({})
