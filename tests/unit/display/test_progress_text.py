"""How far a model is, in as many words as there is room for: on a terminal, in `evalflow ps` and in a log."""

import io
import os
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from evalscope_evalflow.display import model_display
from evalscope_evalflow.display.live_rows import LiveRow, in_one_line, lay_out
from evalscope_evalflow.display.model_display import ModelDisplay
from evalscope_evalflow.display.progress_text import duration, fit, parts, sentence, short_number
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.display.run_list import print_runs
from evalscope_evalflow.events.progress_events import DatasetProgress
from evalscope_evalflow.events.run_events import Phase, PhaseBegan, PhaseEnded, Progress
from evalscope_evalflow.processes.registry import Entry, ProcessId, boot_id, pid_namespace


def progress(**fields):
    usual = {
        "dataset": "gsm8k", "judging": False, "done": 120, "total": 1319, "answers_per_s": 3.21,
        "output_tokens_per_s": 410.4, "left_s": 374.0, "datasets": 5, "number": 2,
    }  # fmt: skip
    return DatasetProgress(**{**usual, **fields})


def test_a_log_has_it_as_a_sentence():
    assert sentence(progress()) == (
        "gsm8k (2 of 5): 120 of 1,319 answered, 3.2 answers/s, 410 output tokens/s, 6 min left"
    )
    judged = progress(judging=True, datasets=1, failed=2, output_tokens_per_s=None, left_s=None)
    assert sentence(judged) == "gsm8k: 120 of 1,319 judged, 2 failed, 3.2 verdicts/s"
    assert sentence(progress(total=None, answers_per_s=None, left_s=None, output_tokens_per_s=None, datasets=1)) == (
        "gsm8k: 120 answered"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min"), (3540, "59 min"), (3600, "1 h 00 min"), (11100, "3 h 05 min")],
)
def test_lengths_of_time(seconds, words):
    assert duration(seconds) == words


def test_numbers_have_two_digits_at_least():
    assert [short_number(value) for value in (0.0521, 3.21, 41.4, 1250.0)] == ["0.052", "3.2", "41", "1,250"]


def test_what_matters_least_goes_first_where_there_is_no_room():
    pieces = parts("evaluating", progress())
    assert fit(pieces, 80) == "evaluating  gsm8k  120/1,319  3.2/s  410 tok/s  6 min left"
    assert fit(pieces, 50) == "evaluating  gsm8k  120/1,319  3.2/s  6 min left"
    assert fit(pieces, 30) == "gsm8k  120/1,319  6 min left"
    assert fit(pieces, 5) == "120/1,319"


def rows(*names, **fields):
    return [LiveRow(name, "evaluating", "0", 42, progress(**fields)) for name in names]


def test_a_wide_terminal_shows_everything():
    found = lay_out([*rows("base"), LiveRow("tuned", "loading", "1", 3)], 100)
    assert found.head.split() == ["model", "devices", "state", "dataset", "done", "rate", "tokens", "left", "since"]
    first = "base,0,evaluating,gsm8k (2 of 5),120/1,319,3.2/s,410 tok/s,6 min,42 s"
    assert ",".join(part for part in found.rows[0].split("  ") if part).replace(", ", ",") == first
    assert found.rows[1].split() == ["tuned", "1", "loading", "3", "s"]


def test_what_all_rows_share_is_said_once():
    found = lay_out(rows("base", "tuned"), 100)
    assert found.shared == "on 0, gsm8k (2 of 5)"
    assert found.head.split() == ["model", "done"]
    different = lay_out([*rows("base"), *rows("tuned", done=7, left_s=3.0)], 100)
    assert different.head.split() == ["model", "done", "left"]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_longer_than_the_terminal_and_the_name_is_cut_last(width):
    names = ["qwen3-4b-instruct-step-1000", "qwen3-4b-instruct-step-12000"]
    found = lay_out([*rows(names[0]), LiveRow(names[1], "loading", "1", 3)], width)
    lines = [found.head, *found.rows]
    assert max(map(cell_len, lines)) <= width
    assert found.rows[0].startswith(names[0])
    assert found.rows[1].startswith(names[1])
    assert "120/1,319" in found.rows[0]
    assert "loading" in found.rows[1]
    if width >= 60:
        assert "6 min" in found.rows[0]


def test_where_even_the_name_has_no_room_it_ends_in_a_mark():
    (line,) = lay_out(rows("a-very-long-name-of-a-model-that-never-ends"), 30).rows
    assert cell_len(line) <= 30
    assert "…  120/1,319" in line


def test_what_is_wrong_with_an_api_stays_in_sight():
    (row,) = rows("base")
    row.trouble = " (the API: down for 40 s)"
    assert "the API: down" in lay_out([row], 60).rows[0]
    assert max(map(cell_len, lay_out([row], 40).rows)) <= 40
    assert in_one_line(row, 40) == "evaluating (the API: down for 40 s)"


def test_without_a_terminal_there_is_a_line_a_minute(monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr(model_display.time, "monotonic", lambda: now[0])
    display = ModelDisplay(Reporter(), "base")
    display.on_event(PhaseBegan(Phase.INFER))
    for _ in range(150):
        now[0] += 1
        display.on_event(progress())
    display.on_event(PhaseEnded(Phase.INFER, 150.0))
    display.on_event(progress())  # late, of a phase that is over
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("base: gsm8k (2 of 5): 120 of 1,319 answered, 3.2 answers/s, 410 output tokens/s, "
                             "6 min left")  # fmt: skip


class Terminal(Reporter):
    """Keeps what the status line shows."""

    def __init__(self):
        super().__init__(quiet=True)
        self.status = []

    @property
    def is_live(self):
        return True

    def progress(self, model, state, progress, trouble):
        self.status.append((state, progress.done, trouble))


def test_a_terminal_is_kept_up_to_date_and_shows_only_its_own_phase():
    terminal = Terminal()
    display = ModelDisplay(terminal, "base")
    early = progress(done=5)
    for event in (early, PhaseBegan(Phase.INFER), progress(), Progress(Phase.INFER), PhaseEnded(Phase.INFER, 1.0),
                  PhaseBegan(Phase.JUDGE), progress(), progress(judging=True, done=1)):  # fmt: skip
        display.on_event(event)
    assert terminal.status == [("evaluating", 120, ""), ("evaluating", 120, ""), ("judging", 1, "")]


def entry(**fields):
    owner = ProcessId.of(os.getpid())
    return Entry(
        run_id="20261127-034225-abcdef12", host=os.uname().nodename, boot=boot_id(), namespace=pid_namespace(),
        owner=owner, since=0, phase="evaluating", phase_since=time.time() - 130, model="tuned", engine="vllm",
        devices="0,1", api_url="http://127.0.0.1:8000/v1", work_dir=Path("/work/outputs/tuned"), **fields,
    )  # fmt: skip


def listed(width, *entries):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_runs(console, entries)
    return console.file.getvalue()


def test_the_list_of_runs_can_be_read_at_80_columns():
    text = listed(80, entry(progress={**vars(progress())}), entry())
    assert max(map(cell_len, text.splitlines())) <= 80
    assert "tuned  evaluating  gsm8k  120/1,319  3.2/s  410 tok/s  6 min left  for 2 min" in text
    for whole in ("run 20261127-034225-abcdef12 · vllm on 0,1 · http://127.0.0.1:8000/v1", f"PID {os.getpid()}"):
        assert whole in text
    assert "tuned  evaluating  for 2 min" in text


def test_a_wide_list_is_a_table():
    text = listed(200, entry(progress={**vars(progress())}))
    assert "work folder" in text
    assert "410 tok/s" in text
    assert "gsm8k" not in listed(200, entry(progress={"of": "another version"}))
