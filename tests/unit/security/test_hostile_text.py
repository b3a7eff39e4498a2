"""What answers, names, servers and logs say is shown, and never obeyed by a terminal."""

import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import made_up_run as made
import pytest

import evalscope_evalflow
from evalscope_evalflow.cli import command_line as cli
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.display.safe_console import SafeConsole
from evalscope_evalflow.errors import ConfigError, EngineError, Problem
from evalscope_evalflow.notebook.result_table import ResultTable
from evalscope_evalflow.processes import registry
from evalscope_evalflow.results.score_rows import ScoreRow
from evalscope_evalflow.serving.http import Reply
from evalscope_evalflow.terminal_text import printable, printable_log

PACKAGE = Path(evalscope_evalflow.__file__).parent
# Clears the screen, sets the title, asks for the place, moves up; CSI and OSC in one byte; overrides direction.
RUDE = "said\x1b[2J\x1b]0;owned\x07\x1b[6n\x1b[1A\x9b31m\x9d0;x\x07\x08\x0b\x7f\u202egnorw\u202c[link=x]y[/link]"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def rude_runs(tmp_path):
    """Two runs of which every text is rude: names, questions, answers, errors, reasons, right answers."""
    for name in ("usual", "rude"):
        folder = tmp_path / name
        model = f"m{RUDE}".replace("/", "|") if name == "rude" else "m"
        made.run(folder, [1, 0, 1, 0, 1, 0, 1, 0] if name == "rude" else [0, 1] * 4, model="m", dataset="d")
        rows = [made.judged(n, "AB"[n % 2 ^ (name == "rude")], RUDE, question=RUDE, target=RUDE) for n in range(8)]
        made.lines(folder / "reviews" / "m" / "d_s.jsonl", rows)
        made.lines(folder / "predictions" / "m" / "d_s.jsonl", [made.answer(n, RUDE, RUDE) for n in range(8)])
        made.record(folder, model, "failed", error=RUDE, engine=f"vllm{RUDE}", versions={f"vllm{RUDE}": RUDE})
        if name == "rude":
            for kind in ("predictions", "reviews", "reports"):
                (folder / kind / "m").rename(folder / kind / model)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "show .", "show . --samples --full", "show rude", "show rude --wrong", "compare usual rude --samples",
        "compare usual rude --samples --format md", "show nothing-here",
    ],
)  # fmt: skip
def test_commands_print_nothing_that_a_terminal_obeys(rude_runs, words, capsys, monkeypatch):
    monkeypatch.chdir(rude_runs)
    monkeypatch.setenv("COLUMNS", "120")
    cli.main(words.split())
    said = capsys.readouterr()
    text = said.out + said.err
    assert text
    assert OBEYED.findall(text) == []
    if "nothing" not in words:
        assert "␛[2J" in text.replace("\\", "").replace("\n", "")  # it is shown, and not left out


@pytest.mark.parametrize("words", ["show rude --samples", "compare usual rude --samples --format csv"])
def test_on_a_real_terminal_there_are_colours_and_nothing_else(rude_runs, words):
    """On a pty: only what rich itself makes is left, which is colours."""
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-m", "evalscope_evalflow", *words.split()],
        cwd=rude_runs, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    text = _all_of(ours)
    assert done.wait(60) in (0, 1, 3)
    text = re.sub("\x1b\\[[0-9;]*m", "", text).replace("\r\n", "\n")
    assert "␛" in text
    assert OBEYED.findall(text) == []


def _all_of(descriptor):
    data = b""
    while True:
        try:
            more = os.read(descriptor, 65536)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        data += more
    os.close(descriptor)
    return data.decode()


def test_csv_and_json_in_files_hold_the_texts_as_they_are(rude_runs, tmp_path):
    """They are data: nothing is taken out of an answer there."""
    for name in ("a.csv", "a.json"):
        assert cli.main(["compare", str(rude_runs / "usual"), str(rude_runs / "rude"), "--samples", "--output",
                         str(tmp_path / name), "--format", name[2:]]) == 0  # fmt: skip
    assert RUDE in (tmp_path / "a.csv").read_text()
    assert json.dumps(RUDE)[1:-1] in (tmp_path / "a.json").read_text()


def test_ps_shows_what_others_wrote_into_the_list_of_runs(capsys):
    entry = registry.Registration(
        "run-1", model=RUDE, engine=RUDE, api_url=RUDE, devices=RUDE, work_dir=Path(f"/w/{RUDE.replace(chr(0), '')}")
    )
    assert cli.main(["ps"]) == 0
    entry.close()
    out = capsys.readouterr().out
    assert "␛[2J" in out.replace("\n", "")
    assert OBEYED.findall(out) == []


def test_logs_keep_colours_on_a_terminal_and_nothing_else(tmp_path, capsys, monkeypatch):
    made.record(tmp_path)
    log = tmp_path / "evalflow" / "engine.log"
    log.write_text(f"\x1b[31mred\x1b[0m {RUDE} 10 %\r20 %\n\x1b[5mnever ended\n", encoding="utf-8")
    assert cli.main(["logs", str(tmp_path), "--engine"]) == 0
    out = capsys.readouterr().out
    assert OBEYED.findall(out.replace("\r", "")) == []
    assert "red said" in out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert cli.main(["logs", str(tmp_path), "--engine"]) == 0
    out = capsys.readouterr().out
    assert "\x1b[31mred\x1b[0m said" in out
    assert out.endswith("\x1b[0m")
    assert OBEYED.findall(re.sub("\x1b\\[[0-9;]*m", "", out).replace("\r", "")) == []


def test_the_reporter_and_the_live_view(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", screen)
    reporter = Reporter()
    reporter.warn(f"m: {RUDE}")
    reporter.begin(RUDE, RUDE)
    reporter.update(RUDE, RUDE)
    reporter.end(RUDE)
    with reporter.several([RUDE]) as live:
        live.begin(RUDE, RUDE)
        live.given(RUDE, RUDE)
        reporter._console.print(live.view())
    Reporter(forward=True).output_of("m")(RUDE.encode())
    Reporter(forward=True).several(["m"]).output_of(RUDE)(f"{RUDE}\n".encode())
    text = screen.getvalue()
    assert "␛" in text
    for sequence in ("\x1b[2J", "\x1b]", "\x1b[6n", "\x9b", "\x9d", "\x07", "\u202e"):
        assert sequence not in text


def test_errors_servers_words_and_notebook_tables():
    said = Reply(500, "", body=json.dumps({"error": {"message": RUDE}})).message
    for error in (EngineError(f"it says {said}"), ConfigError(Problem(RUDE, said, RUDE)),
                  ConfigError(Problem("a", said), Problem("b", said))):  # fmt: skip
        assert OBEYED.findall(str(error)) == []
        assert "␛[2J" in str(error)
    row = ScoreRow(RUDE, f"<b>{RUDE}", "acc", 1.0, why_not=RUDE)
    table = ResultTable({}, [row])
    assert OBEYED.findall(str(table)) == []
    assert "<b>" not in table._repr_html_()
    assert "&lt;b&gt;" in table._repr_html_()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"), ("one\r\ntwo", "one\ntwo"), ("a\rb", "a␍b"), ("\x00\x1b\x7f", "␀␛␡"),
        ("\x9b31m", "\ufffd31m"), ("עברית العربية\u200f", "עברית العربية\u200f"), ("\u202eabc", "\ufffdabc"), ("", ""),
    ],
)  # fmt: skip
def test_what_is_shown_instead(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize("cut", range(12))
def test_a_sequence_in_two_parts_is_none(cut):
    text = "\x1b[2J\x1b]0;t\x07x"
    assert "\x1b" not in printable_log(text[:cut], colours=True) + printable_log(text[cut:], colours=True)


def test_a_megabyte_of_escapes_takes_no_time():
    began = time.thread_time()
    printable("\x1b[" * 500_000)
    printable_log("\x1b[" * 500_000, colours=False)
    printable_log("\x1b[" + "1;" * 500_000, colours=False)
    assert time.thread_time() - began < 10


def test_widths_are_of_what_is_shown():
    file = io.StringIO()
    from rich.table import Table

    table = Table()
    table.add_column("x")
    for cell in ("\x1b\x1b\x1b", "abc"):
        table.add_row(cell)
    SafeConsole(file=file, width=40).print(table)
    lines = file.getvalue().splitlines()
    assert len({len(line) for line in lines}) == 1


def test_no_other_console_is_made():
    """A new command that printed with rich's own console would be obeyed."""
    made_by = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\bConsole\(", path.read_text(encoding="utf-8"))
    }
    assert made_by == set()
