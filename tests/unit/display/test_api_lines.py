"""What a person reads of an API that goes wrong."""

from __future__ import annotations

from typing import Any

import pytest

from evalscope_evalflow.display.model_display import ModelDisplay
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.events import api_events as api
from evalscope_evalflow.events.run_events import Phase, PhaseBegan, Progress

URL = "https://api.example/v1"
MODEL: tuple[str, str, str] = (api.MODEL, URL, "m")
JUDGE: tuple[str, str, str] = (api.JUDGE, URL, "j")

SHOWN = {
    f"the API at {URL} fails a request (500: no memory), but answers others; what failed is asked again as "
    "often as generation_config.retries says": (api.ApiFailing(*MODEL, "500: no memory", 1)),
    f"the API at {URL} does not work: connection refused; one request at a time asks again until it is answered, "
    "for 300 s at most (deploy.stall_timeout_s)": api.ApiDown(*MODEL, "connection refused", False, 300.0),
    f"the judge at {URL} hangs: no answer for 60 s to 8 requests; one request at a time asks again until it is "
    "answered, for 300 s at most (deploy.stall_timeout_s)": (
        api.ApiDown(*JUDGE, "no answer for 60 s to 8 requests", True, 300.0)
    ),
    f"the judge at {URL} is busy (429: slow down); it is asked again in 60 s, as it wants": (
        api.ApiBusy(*JUDGE, "429: slow down", 60.0)
    ),
    f"no answer for 60 s from the API at {URL} to 8 requests; it answers a request of one token, so it is at work": (
        api.ApiSilent(*MODEL, 60.0, 8, True)
    ),
    f"no answer for 35 s from the API at {URL} to 1 request; it was asked for one token to see whether it hangs": (
        api.ApiSilent(*MODEL, 35.0, 1, None)
    ),
    f"the API at {URL} answers again, after 41 s": api.ApiBack(*MODEL, 41.2),
    f"the judge at {URL} was given up after 300 s: 503: no capacity; the verdicts that came are saved, and the same "
    "command asks for the others": api.ApiGivenUp(*JUDGE, "503: no capacity", 300.0),
}


@pytest.mark.parametrize("words", list(SHOWN))
def test_a_line_says_what_is_wrong_with_which_api_and_what_is_done(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ModelDisplay(Reporter(), "base").on_event(SHOWN[words])
    assert capsys.readouterr().err.endswith(f"base: {words}\n")


class Terminal(Reporter):
    """Keeps what the status line shows."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.status = ""

    def update(self, model: str, text: str) -> None:
        self.status = text


@pytest.mark.parametrize(
    ("event", "end", "shown"),
    [
        (api.ApiDown(*MODEL, "refused", False, 300.0), api.ApiBack(*MODEL, 1.0), "the API: down for 0 s"),
        (api.ApiDown(*MODEL, "no answer", True, 300.0), api.ApiBack(*MODEL, 1.0), "the API: hangs for 0 s"),
        (api.ApiBusy(*JUDGE, "429", 60.0), api.ApiGivenUp(*JUDGE, "429", 1.0), "the judge: asks to wait for 0 s"),
        (api.ApiSilent(*MODEL, 60.0, 8, True), Progress(Phase.INFER, 4), "the API: no answer for 60 s"),
    ],
)
def test_a_terminal_shows_what_is_wrong_for_as_long_as_it_is(event: Any, end: Any, shown: str) -> None:
    terminal = Terminal()
    display = ModelDisplay(terminal, "base")
    for item in (PhaseBegan(Phase.INFER), Progress(Phase.INFER, 3), event, Progress(Phase.INFER, 3)):
        display.on_event(item)
    assert terminal.status == f"evaluating, 3 answers saved ({shown})"
    display.on_event(end)
    display.on_event(Progress(Phase.INFER, 4))
    assert terminal.status == "evaluating, 4 answers saved"
