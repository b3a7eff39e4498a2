"""What runs in vLLM's API server when its owner asks for other weights."""

import asyncio
import runpy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from evalscope_evalflow.engines import base

FILE = Path(base.__file__).with_name("inside") / "evalflow_vllm_control.py"
ANSWER = runpy.run_path(str(FILE))["answer"]
REQUEST = {"new": "/m/b", "old": "/m/a", "name": "b"}


@dataclass
class Served:
    name: str
    model_path: str


class App:
    """vLLM's application, as far as it is used.

    Attributes:
        calls: what its client was asked for.
        models: what is served.
    """

    def __init__(self, fails=""):
        self.calls, self.models = [], [Served("a", "/m/a")]
        models = SimpleNamespace(base_model_paths=self.models)
        self.state = SimpleNamespace(engine_client=self, openai_serving_models=models)
        self._fails = fails

    async def collective_rpc(self, method, args=()):
        self.calls.append((method, *args))
        if method == self._fails:
            raise RuntimeError("SwapError: only a part of x was filled")
        return [{"fingerprint": "f"}]

    def __getattr__(self, name):
        async def reset():
            self.calls.append((name,))
            return name != self._fails

        return reset


def test_weights_are_told_and_nothing_is_changed():
    app = App()
    found = asyncio.run(ANSWER(app, "weights", {}))
    assert (found["workers"], app.calls) == ([{"fingerprint": "f"}], [("evalflow_fingerprint",)])
    assert app.models == [Served("a", "/m/a")]


def test_a_swap_empties_the_caches_before_the_new_name_is_served():
    app = App()
    assert asyncio.run(ANSWER(app, "swap", REQUEST))["workers"] == [{"fingerprint": "f"}]
    resets = [("reset_prefix_cache",), ("reset_mm_cache",), ("reset_encoder_cache",)]
    assert app.calls == [("evalflow_swap", "/m/b", "/m/a"), *resets]
    assert app.models == [Served("b", "/m/b")]


@pytest.mark.parametrize(
    ("fails", "words"),
    [("evalflow_swap", "only a part of x"), ("reset_prefix_cache", "the cache of prefixes could not be emptied")],
)
def test_what_fails_is_raised_and_the_old_name_stays(fails, words):
    app = App(fails)
    with pytest.raises(RuntimeError, match=words):
        asyncio.run(ANSWER(app, "swap", REQUEST))
    assert app.models == [Served("a", "/m/a")]


@pytest.mark.parametrize("action", ["nothing", "", "swap/", "../sleep"])
def test_no_other_action_exists(action):
    app = App()
    with pytest.raises(ValueError, match="there is no"):
        asyncio.run(ANSWER(app, action, REQUEST))
    assert app.calls == []
