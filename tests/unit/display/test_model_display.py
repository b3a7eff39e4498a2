"""What a person reads of one model's run."""

import pytest

from evalscope_evalflow.display.model_display import ModelDisplay
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.events import base, engine_events, run_events, worker_events
from evalscope_evalflow.events.run_events import Phase


def released(**fields):
    usual = {"released": True, "seconds": 0.44, "held_s": 30.0, "problems": [], "warnings": [], "details": {}}
    return engine_events.EngineReleased("vllm", **{**usual, **fields})


SHOWN = {
    "starting vllm (log: /w/engine.log)": engine_events.EngineStarting("vllm", None, True, "/w/engine.log", [], {}),
    "vllm has been kept since run r-1": engine_events.EngineReused("vllm", None, "r-1", "/w/engine.log", [], {}),
    "vllm is ready at http://127.0.0.1:8000/v1 (41.2 s)": engine_events.EngineReady(
        "vllm", "http://127.0.0.1:8000/v1", 41.23
    ),
    "vllm goes on from step-1 with these weights (1.5 s, 0.7 s of it for proof)": engine_events.EngineWeights(
        "vllm", "/m/step-2", "f2", 291, "step-1", 250, 1.52, 0.6, 0.71
    ),
    "nothing was left to ask; vllm was not needed": engine_events.EngineNotNeeded("vllm"),
    "vllm is kept until 12:00": engine_events.EngineKept("vllm", "12:00", 3.0),
    "vllm goes to the next model": engine_events.EngineKept("vllm", "12:00", 3.0, has_heir=True),
    "vllm and all it started are gone (0.4 s)": released(),
    "vllm was ended, but device 0 is still held by PID 7": released(
        released=False, problems=["device 0 is still held by PID 7"]
    ),
    "another vllm was kept": engine_events.EngineNotice("another vllm was kept"),
    "nothing is left to do; nothing was started": run_events.NothingLeft(),
    "reuse is off; earlier results are kept in /k": run_events.ResultsArchived("/k"),
    "the checkpoint's files changed; what was answered is kept in /k, and does not count": run_events.ResultsArchived(
        "/k", changed=True
    ),
    "another judge; earlier verdicts on a, b are kept (reports: /k)": run_events.ResultsArchived("/k", ["a", "b"]),
    "3 verdicts on a were not the judge's own; they are made again": worker_events.VerdictsDropped("a", 3),
    "a has an evaluator of its own: it is judged while the engine runs": worker_events.DatasetNotSplit("a"),
    "a failed: no data; the other datasets go on": worker_events.DatasetFailed("a", "no data"),
    "a is incomplete: 3 of 4 answered; 1 × timeout (each of them: /f)": run_events.DatasetIncomplete(
        "a", 4, 3, True, ["1 × timeout"], "/f"
    ),
    "no report for a; it was ended by x": run_events.DatasetIncomplete("a", 4, 0, False, ["it was ended by x"]),
}


@pytest.mark.parametrize("words", list(SHOWN))
def test_a_line_says_what_happened_to_which_model(words, capsys):
    ModelDisplay(Reporter(), "base").on_event(SHOWN[words])
    assert capsys.readouterr().err.endswith(f"base: {words}\n")


def test_weights_that_an_engine_was_started_with_are_not_worth_a_line(capsys):
    ModelDisplay(Reporter(), "base").on_event(engine_events.EngineWeights("vllm", "/m/step-1", "f1", 291))
    assert capsys.readouterr().err == ""


def test_the_death_of_an_engine_is_told_with_its_cause_and_what_is_saved(capsys):
    ModelDisplay(Reporter(), "base").on_event(engine_events.EngineDied("vllm stopped: no memory\n  log", 7, 2, 1, 2))
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("base: vllm stopped: no memory")
    assert second.endswith("base: starting it again (1 of 2); 7 answers are saved, 2 of them since its last start")


def test_an_engine_of_which_something_may_be_left_is_gone_and_warned_of(capsys):
    ModelDisplay(Reporter(), "base").on_event(released(warnings=["device 0 cannot be told"]))
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("vllm was ended, but device 0 cannot be told")
    assert second.endswith("are gone (0.4 s)")


@pytest.mark.parametrize(
    "event",
    [
        run_events.RunStarted("r-1"),
        run_events.PhaseBegan(Phase.LOAD),
        run_events.PhaseEnded(Phase.COLLECT, 1.0),
        run_events.RunFinished(run_events.RunState.FAILED, "the caller says it"),
        engine_events.EngineStarting("remote", None, False, "", [], {}),
        engine_events.EngineReady("remote", "https://api.example/v1", None),
        worker_events.WorkerImported(),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_nobody_needs_to_know_is_not_said(event, capsys):
    ModelDisplay(Reporter(), "base").on_event(event)
    assert capsys.readouterr().err == ""


def test_why_a_dataset_failed_is_said_once(capsys):
    display = ModelDisplay(Reporter(), "base")
    display.on_event(worker_events.DatasetFailed("a", "no data"))
    display.on_event(run_events.DatasetIncomplete("a", 4, 4, False, ["it was ended by no data"]))
    assert capsys.readouterr().err.count("no data") == 1
    display.on_event(run_events.DatasetIncomplete("b", 4, 0, False, ["it was ended by no data"]))
    assert "no report for b; it was ended by no data" in capsys.readouterr().err


class Terminal(Reporter):
    """Notes what the status line shows."""

    def __init__(self):
        super().__init__(quiet=True)
        self.status = []

    def begin(self, model, text):
        self.status.append(text)

    def update(self, model, text):
        self.status.append(text)

    def end(self, model):
        self.status.append(None)


def test_a_terminal_shows_the_phase_and_how_far_it_is():
    terminal = Terminal()
    display = ModelDisplay(terminal, "base")
    for event in (
        run_events.PhaseBegan(Phase.INFER),
        run_events.Progress(Phase.INFER, 3),
        run_events.PhaseEnded(Phase.INFER, 2.0),
        run_events.PhaseBegan(Phase.JUDGE),
        run_events.Progress(Phase.JUDGE),
    ):
        display.on_event(event)
    assert terminal.status == ["evaluating", "evaluating, 3 answers saved", None, "judging", "judging"]


def test_every_event_can_be_shown():
    """None of them ends a run by being one that the display does not know."""

    class Unknown(base.Event):
        pass

    ModelDisplay(Reporter(quiet=True), "base").on_event(Unknown())
