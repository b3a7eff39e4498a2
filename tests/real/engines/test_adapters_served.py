"""Adapters on llama.cpp's own server: each changes its own model's answers, and no other's."""

import environments
import lora
import pytest

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines import load_engine
from evalscope_evalflow.serving import Deployment

pytestmark = pytest.mark.real

SETTINGS = DeployConfig(engine="llamacpp", max_model_len=512, max_num_seqs=1)


def answer(folder, name, **model):
    config = ModelConfig(name=name, path=str(environments.gguf()), **model)
    deployment = Deployment(load_engine("llamacpp"), config, SETTINGS, log=folder / f"{name}.log", run_id=name)
    with deployment as endpoint:
        reply = endpoint.client().chat.completions.create(
            model=endpoint.model, messages=[{"role": "user", "content": "What is 2+2?"}], max_tokens=12,
            temperature=0.0, extra_body={"cache_prompt": False},
        )  # fmt: skip
    assert reply.model == name
    return reply.choices[0].message.content


def test_llamacpp(tmp_path):
    plain = answer(tmp_path, "plain")
    assert answer(tmp_path, "nothing", adapter=str(lora.gguf_adapter(tmp_path / "nothing.gguf", 0.0))) == plain
    assert answer(tmp_path, "loud", adapter=str(lora.gguf_adapter(tmp_path / "loud.gguf", 1.0))) != plain


def test_an_adapter_of_another_architecture_is_refused_before_a_start(tmp_path):
    other = lora.gguf_adapter(tmp_path / "other.gguf", 0.0, architecture="qwen2")
    model = ModelConfig(name="m", path=str(environments.gguf()), adapter=str(other))
    (problem,) = load_engine("llamacpp").check(model, SETTINGS)
    assert "is an adapter of a model of the architecture qwen2" in problem.what
    model = model.model_copy(update={"adapter": str(environments.gguf())})
    (problem,) = load_engine("llamacpp").check(model, SETTINGS)
    assert "is no adapter, but a model" in problem.what
