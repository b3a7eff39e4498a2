"""Requests to an API that goes wrong, through EvalScope's own client: what is asked, what is said, and what is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from api_server import ApiServer, Reply, completion, error
from evalscope.api.model import GenerateConfig, get_model
from evalscope.api.model.model import Model
from evalscope.models import openai_compatible

from evalscope_evalflow.events.api_events import (
    ApiBack,
    ApiBusy,
    ApiDown,
    ApiFailing,
    ApiGivenUp,
    ApiSilent,
)
from evalscope_evalflow.events.base import Event
from evalscope_evalflow.worker.api_calls import ApiCalls
from evalscope_evalflow.worker.api_probe import GivenUp
from evalscope_evalflow.worker.circuit import Pace
from evalscope_evalflow.worker.request_failures import classify

KEY = "sk-of-the-test"
PACE = Pace(
    give_up_s=20, first_pause_s=0.05, longest_pause_s=0.2, suspect_s=5, probe_s=0.3, silent_s=20, shown_s=0.3,
    look_s=0.02,
)  # fmt: skip


class Client:
    """A worker's client of one API.

    Attributes:
        events: what it has reported.
    """

    def __init__(self, api: ApiServer, pace: Pace, *, own_engine: bool = False, retries: int = 2) -> None:
        self.events: list[Event] = []
        self.calls = ApiCalls(pace, self.events.append, lambda: api.url, own_engine=own_engine)
        self.calls.install()
        self.model = get_model(
            model="m", eval_type="openai_api", base_url=api.url, api_key=KEY, memoize=False,
            config=GenerateConfig(retries=retries, retry_interval=0, max_tokens=9),
        )  # fmt: skip

    def ask(self, prompt: str) -> str:
        """The answer, or the failure as it would be written down."""
        try:
            return str(self.model.generate(prompt).completion)
        except Exception as failure:  # noqa: BLE001 - that is what is looked at
            return f"{classify(failure)[0]}: {failure}"

    def ask_all(self, number: int, at_once: int = 8) -> list[str]:
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(self.ask, [f"q{item}" for item in range(number)]))

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def wait_for(self, kind: type[Event]) -> Any:
        limit = time.monotonic() + 10
        while not self.of(kind):
            assert time.monotonic() < limit, f"no {kind.__name__}: {self.events}"
            threading.Event().wait(0.01)
        return self.of(kind)[0]


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def client(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Client]:
    for owner, name in (
        (Model, "generate"), (Model, "generate_async"),
        (openai_compatible, "retry_call"), (openai_compatible, "async_retry_call"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, getattr(owner, name))
    return lambda pace=PACE, **options: Client(api, pace, **options)


def test_an_api_that_works_is_asked_once_for_each_sample_and_nothing_is_said(
    api: ApiServer, client: Callable[..., Client]
) -> None:
    one = client()
    assert one.ask_all(20) == ["A"] * 20
    assert (len(api.asked), api.probes, one.events) == (20, 0, [])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("refused", "Connection refused"),
        ("reset", "Server disconnected"),
        ("503", "503: broken"),
    ],
)
def test_an_api_that_goes_away_is_reported_at_once_and_asked_by_one_probe_until_it_is_back(
    fault: str, said: str, api: ApiServer, client: Callable[..., Client]
) -> None:
    one = client()
    assert one.ask_all(8) == ["A"] * 8
    began = time.monotonic()
    if fault == "refused":
        api.stop()
    else:
        broken = None if fault == "reset" else error(503)
        api.reply, api.probe = lambda prompt, before: broken, lambda: broken
    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(one.ask, f"later{item}") for item in range(16)]
        down = one.wait_for(ApiDown)
        assert time.monotonic() - began < 3
        assert said.lower() in down.reason.lower()
        assert (down.api, down.url, down.model, down.hangs, down.give_up_s) == ("model", api.url, "m", False, 20)
        probes = api.probes
        threading.Event().wait(0.5)
        if fault != "refused":
            assert probes + 1 <= api.probes <= probes + 8, "with growing pauses"
            assert len(api.asked) <= 8 + 16, "no sample is sent while it is down"
            api.reply, api.probe = lambda prompt, before: completion(), completion
        else:
            api.start()
        assert {item.result(20) for item in answers} == {"A"}, "an outage costs no sample"
    assert [type(event) for event in one.events] == [ApiDown, ApiBack]


def test_an_api_that_stays_away_is_given_up_and_what_waits_fails_at_once(
    api: ApiServer, client: Callable[..., Client]
) -> None:
    one = client(dataclasses.replace(PACE, give_up_s=0.6))
    assert one.ask("first") == "A"
    api.stop()
    began = time.monotonic()
    said = one.ask_all(100)
    assert time.monotonic() - began < 5
    assert set(said) == {f"api_down: {api.url} was given up: connection refused"}
    assert [type(event) for event in one.events] == [ApiDown, ApiGivenUp]
    assert one.of(ApiGivenUp)[0].seconds >= 0.6


def test_a_fault_of_one_prompt_costs_no_other_and_stops_nobody(api: ApiServer, client: Callable[..., Client]) -> None:
    one = client(retries=3)
    api.reply = lambda prompt, before: error(500, "cannot take it") if prompt == "q3" else completion()
    said = one.ask_all(20)
    assert said.count("A") == 19
    assert said[3].startswith("server_error:")
    assert api.asked.count("q3") == 3, "as often as the task says"
    assert not one.of(ApiDown)
    assert "500: cannot take it" in one.of(ApiFailing)[0].reason
    assert one.of(ApiFailing)[0].requests == 1, "others were answered while the probe was"


def test_requests_that_all_fail_though_the_probe_is_answered_are_tried_one_at_a_time(
    api: ApiServer, client: Callable[..., Client]
) -> None:
    one = client(retries=50)
    broken = threading.Event()
    broken.set()
    api.reply = lambda prompt, before: error(500, "no memory") if broken.is_set() else completion()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(one.ask, f"q{item}") for item in range(8)]
        assert "500: no memory" in one.wait_for(ApiDown).reason
        asked = len(api.asked)
        threading.Event().wait(0.5)
        assert len(api.asked) - asked <= 8
        broken.clear()
        assert {item.result(20) for item in answers} == {"A"}
    assert one.of(ApiBack)


def test_a_prompt_that_brings_the_api_down_each_time_is_not_asked_for_ever(
    api: ApiServer, client: Callable[..., Client]
) -> None:
    one = client()
    fallen = threading.Event()

    def reply(prompt: str, before: int) -> Reply | None:
        if prompt != "poison":
            return completion()
        fallen.set()
        return None

    def probe() -> Reply | None:
        was_down, _ = fallen.is_set(), fallen.clear()
        return None if was_down else completion()

    api.reply, api.probe = reply, probe
    assert one.ask("poison").startswith("connection:")
    assert api.asked.count("poison") == 3 + 2
    assert one.ask("other") == "A"


def test_silence_is_shown_and_is_no_hang_while_a_token_is_answered(
    api: ApiServer, client: Callable[..., Client]
) -> None:
    one = client(dataclasses.replace(PACE, give_up_s=0.3, silent_s=0.3, probe_s=5))
    thought = threading.Event()

    def think(prompt: str, before: int) -> Reply:
        thought.wait(20)
        return completion()

    api.reply = think
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(one.ask, f"q{item}") for item in range(4)]
        assert one.wait_for(ApiSilent).answers_probe is True
        threading.Event().wait(1.2)
        thought.set()
        assert {item.result(20) for item in answers} == {"A"}
    assert one.of(ApiSilent)[-1].requests == 4  # of a busy machine, the first may know of fewer
    assert 2 <= len(one.of(ApiSilent)) <= 3, "after 0.3, 0.6 and 1.2 s"
    assert {type(event) for event in one.events} == {ApiSilent}
    assert len(api.asked) == 4, "nobody is asked twice"


def test_an_api_that_answers_nothing_at_all_hangs_and_is_given_up_with_its_requests(
    api: ApiServer, client: Callable[..., Client]
) -> None:
    one = client(dataclasses.replace(PACE, give_up_s=0.5, silent_s=0.3))
    assert one.ask("first") == "A"
    api.reply, api.probe = lambda prompt, before: api.silence(), api.silence
    began = time.monotonic()
    said = one.ask_all(20)
    assert time.monotonic() - began < 6, "requests that are under way are not waited for"
    assert len({item.split(" for ")[0] for item in said}) == 1
    assert said[0].startswith(f"api_down: {api.url} was given up: no answer for ")
    assert "to 8 requests; no answer to a request of one token within" in said[0]
    assert one.of(ApiDown)[0].hangs


def test_a_hang_is_over_when_a_request_is_answered(api: ApiServer, client: Callable[..., Client]) -> None:
    """A server with one place answers no probe while it thinks."""
    one = client(dataclasses.replace(PACE, silent_s=0.3))
    thought = threading.Event()

    def think(prompt: str, before: int) -> Reply:
        thought.wait(20)
        return completion()

    api.reply, api.probe = think, api.silence
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(one.ask, "q")
        one.wait_for(ApiDown)
        thought.set()
        assert answer.result(20) == "A"
    assert one.of(ApiBack)
    assert one.ask("next") == "A"


def test_the_time_that_an_api_asks_for_is_given_once_for_all_and_costs_no_try(
    api: ApiServer, client: Callable[..., Client]
) -> None:
    one = client(dataclasses.replace(PACE, give_up_s=0.2), retries=1)
    ends = time.monotonic() + 2
    late = {"answered": 0}

    def limited(*_: Any) -> Reply:
        if time.monotonic() < ends:
            return error(429, "slow down", Retry_After="1")
        late["answered"] += 1
        return completion()

    api.reply, api.probe = limited, limited
    assert one.ask_all(16, at_once=4) == ["A"] * 16
    assert len(api.asked) - 16 <= 4, "nobody asks before the time is over"
    assert one.of(ApiBusy)[0].wait_s == 1
    assert "429: slow down" in one.of(ApiBusy)[0].reason
    assert not one.of(ApiGivenUp), "what it asks for is no silence"
    assert one.of(ApiBack)


@pytest.mark.parametrize(("seconds", "waited_s"), [("86400", 0.0), ("500", 200.0)])
def test_more_than_ten_minutes_in_all_is_not_waited_for(
    seconds: str, waited_s: float, api: ApiServer, client: Callable[..., Client]
) -> None:
    one = client()
    circuit = one.calls.of(one.model.api)
    assert circuit is not None
    api.reply = lambda prompt, before: error(429, "come back later", Retry_After=seconds)
    circuit._busy_s = waited_s  # as if it had waited before, and there had been no answer since
    said = one.ask("q")
    assert said.startswith(f"rate_limited: {api.url} was given up: it asks to wait ")
    assert "429: come back later" in said
    assert len(api.asked) == 1
    assert one.ask("another") == said
    assert len(api.asked) == 1


def test_a_limit_without_a_time_is_met_with_single_requests(api: ApiServer, client: Callable[..., Client]) -> None:
    one = client(retries=30)
    ends = time.monotonic() + 0.7
    api.reply = lambda prompt, before: completion() if time.monotonic() > ends else error(429, "too many")
    assert one.ask_all(8) == ["A"] * 8
    assert "429: too many" in one.of(ApiDown)[0].reason
    assert one.of(ApiBack)
    assert len(api.asked) < 8 + 8 * 5


@pytest.mark.parametrize(
    ("url", "said"),
    [("http://no-such-host.invalid/v1", "name"), ("https://127.0.0.1:{port}/v1", "SSL")],
    ids=["DNS", "TLS"],
)
def test_a_host_without_an_address_or_without_tls_is_down(
    url: str, said: str, api: ApiServer, client: Callable[..., Client]
) -> None:
    one = client(dataclasses.replace(PACE, give_up_s=0.2))
    one.model.api.client.base_url = url.format(port=api.port)
    assert one.ask("q").startswith("api_down:")
    assert said in one.of(ApiDown)[0].reason


def test_an_engine_of_this_run_is_left_to_its_own_watch(api: ApiServer, client: Callable[..., Client]) -> None:
    one = client(own_engine=True, retries=1)
    one.model.api.client.max_retries = 0
    api.reply = lambda prompt, before: error(500)
    assert one.ask("q").startswith("server_error:")
    assert (api.probes, one.events) == (0, [])
    one.calls.begin_judging()  # the same URL is a judge's now
    assert one.ask("q").startswith("server_error:")
    assert [(type(event), event.api) for event in one.events] == [(ApiFailing, "judge")]


def test_a_judge_that_refuses_its_key_is_not_asked_for_every_verdict(
    api: ApiServer, client: Callable[..., Client]
) -> None:
    one = client()
    one.calls.begin_judging()
    api.reply = lambda prompt, before: error(401, "unknown key")
    said = one.ask_all(20, at_once=1)
    assert said[0].startswith("run:")
    assert set(said[1:]) == {said[1]}
    assert said[1].startswith("judge_refuses:")
    assert "401: the key is refused" in said[1]
    assert len(api.asked) == 1
    assert [(type(event), event.api) for event in one.events] == [(ApiGivenUp, "judge")]


def test_agents_that_ask_from_a_loop_wait_and_are_given_up_too(api: ApiServer, client: Callable[..., Client]) -> None:
    one = client(dataclasses.replace(PACE, give_up_s=0.8, silent_s=0.3))

    async def ask(number: int) -> list[Any]:
        asked = (one.model.generate_async(f"q{item}") for item in range(number))
        return await asyncio.gather(*asked, return_exceptions=True)

    async def lose_patience() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(one.model.generate_async("slow"), 0.3)

    assert [item.completion for item in asyncio.run(ask(4))] == ["A"] * 4
    api.reply = lambda prompt, before: api.silence()
    asyncio.run(lose_patience())
    circuit = one.calls.of(one.model.api)
    assert circuit is not None
    assert not circuit._turns, "what nobody waits for is no silence"
    api.reply, api.probe = lambda prompt, before: api.silence(), api.silence
    assert {type(item) for item in asyncio.run(ask(4))} == {GivenUp}
    assert [type(event) for event in one.events if not isinstance(event, ApiSilent)] == [ApiDown, ApiGivenUp]
