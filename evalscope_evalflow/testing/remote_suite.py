"""Tests that every engine passes that starts nothing, as its models run elsewhere. `engine_suite.py` has the others.

    from evalscope_evalflow.testing.remote_suite import API, APIConformance

    class TestMyAPI(APIConformance):
        subject = API("mine", "https://api.example/v1", "my-model", "sk-…")

This module needs pytest; nothing in EvalFlow imports it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.config.api_url import api_base
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.keys import protect
from evalscope_evalflow.engines import Engine, load_engine
from evalscope_evalflow.errors import Problem
from evalscope_evalflow.processes.registry import new_run_id
from evalscope_evalflow.serving import Deployment, Endpoint, check_api, http
from evalscope_evalflow.serving.readiness import one_token
from evalscope_evalflow.testing.engine_subject import ADDRESS, PROPERTY, area

OTHER_KEY, OTHER_NAME = "sk-of-somebody-else", "no-such-model-here"


@dataclass(frozen=True)
class API:
    """An API that answers while the tests run.

    Attributes:
        engine: the name of the engine that uses it, as in `deploy.engine`.
        url: its base URL.
        name: a model that it serves, and lists.
        key: the key that it asks for.
    """

    engine: str
    url: str
    name: str
    key: str

    def load(self) -> Engine:
        """The engine, by its entry point."""
        return load_engine(self.engine)

    def model(self, **change: str | None) -> ModelConfig:
        """The model, with changes."""
        fields = {"name": self.name, "api_url": self.url, "api_key": protect(self.key), **change}
        return ModelConfig.model_validate(fields)

    def problem(
        self, key: str | None, name: str, url: str | None = None, note: Callable[[str], None] | None = None
    ) -> Problem | None:
        """What preflight says of it with this key and model; `note` is called with what is no obstacle."""
        return check_api(f"model {name}", url or self.url, key, name, note)

    def chat(self, endpoint: Endpoint) -> int:
        """The status of a request of one token."""
        url = f"{endpoint.api_url}/chat/completions"
        return http.request(url, api_key=endpoint.api_key, body=one_token(endpoint.model), timeout_s=120).status


class APIConformance:
    """What holds of an engine whose models run elsewhere.

    Attributes:
        subject: the API. Where only a fixture knows it, override the fixture `tested`.
    """

    subject: ClassVar[API]

    @pytest.fixture(scope="class")
    @classmethod
    def tested(cls) -> API:
        """The API."""
        return cls.subject

    @pytest.fixture(autouse=True)
    def _noted(self, request: pytest.FixtureRequest, tested: API) -> None:
        """Write down for the XML report what a test was about."""
        about = getattr(request.function, "conformance_area", None)
        request.node.user_properties.append((PROPERTY, f"{tested.engine}/{about}"))

    @pytest.fixture
    def deployment(self, tested: API, tmp_path: Path) -> Iterator[Deployment]:
        """As a run uses it."""
        settings = DeployConfig(engine=tested.engine)
        deployment = Deployment(tested.load(), tested.model(), settings, log=tmp_path / "log", run_id=new_run_id())
        deployment.start()
        yield deployment
        deployment.release()

    @area("command")
    def test_there_is_none(self, tested: API) -> None:
        engine = tested.load()
        assert not engine.local
        with pytest.raises(NotImplementedError):
            engine.command(tested.model(), DeployConfig(engine=tested.engine), ADDRESS, Environment.find(None))

    @area("command")
    @pytest.mark.parametrize("url", [None, "localhost"])
    def test_a_good_model_is_no_problem_and_one_without_a_url_is_one(self, tested: API, url: str | None) -> None:
        settings = DeployConfig(engine=tested.engine)
        assert list(tested.load().check(tested.model(), settings)) == []
        problems = list(tested.load().check(tested.model(api_url=url), settings))
        assert problems
        assert all(problem.where and problem.what for problem in problems)

    @area("environment")
    def test_none_is_needed(self, tested: API, tmp_path: Path) -> None:
        settings = DeployConfig(engine=tested.engine, env=str(tmp_path / "none"))
        assert list(tested.load().check_installed(settings)) == []

    @area("readiness")
    @pytest.mark.parametrize("end", ["", "/", "/chat/completions", "/chat/completions/"])
    def test_preflight_finds_it_well_in_every_form_of_its_url(self, tested: API, end: str) -> None:
        assert tested.problem(tested.key, tested.name, api_base(tested.url) + end) is None

    @area("readiness")
    def test_it_is_ready_at_once_and_answers(self, tested: API, deployment: Deployment) -> None:
        endpoint = deployment.wait_ready()
        assert endpoint.api_url == api_base(tested.url)
        assert tested.chat(endpoint) == 200

    @area("key")
    @pytest.mark.parametrize("key", [None, OTHER_KEY])
    def test_no_key_or_another_is_told_as_such(self, tested: API, key: str | None) -> None:
        problem = tested.problem(key, tested.name)
        assert problem is not None
        assert ("refuses the key" if key else "asks for a key") in problem.what
        assert OTHER_KEY not in str(problem)

    @area("key")
    def test_a_run_uses_the_one_that_it_was_given_and_writes_it_nowhere(
        self, tested: API, deployment: Deployment
    ) -> None:
        assert deployment.wait_ready().api_key == tested.key
        assert tested.key not in repr(deployment.model)
        assert not deployment.log.exists()

    @area("served name")
    def test_an_unknown_model_is_told_with_those_that_there_are(self, tested: API) -> None:
        """Be it refused, or, as some servers do, answered by the only model that there is."""
        notes: list[str] = []
        said = str(tested.problem(tested.key, OTHER_NAME, note=notes.append) or "".join(notes))
        assert repr(OTHER_NAME) in said
        assert tested.name in said.split("lists: ")[1]

    @area("failure")
    def test_nobody_at_its_address_is_told(self, tested: API) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        problem = tested.problem(tested.key, tested.name, url)
        assert problem is not None
        assert f"{url} cannot be reached" in problem.what
        assert tested.key not in str(problem)

    @area("release")
    def test_it_is_left_alone(self, tested: API, deployment: Deployment) -> None:
        endpoint = deployment.wait_ready()
        assert deployment.process is None
        assert deployment.release()
        assert tested.chat(endpoint) == 200
