import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evalscope_evalflow import __version__, sweep
from evalscope_evalflow.backends import DatasetResult, Metric
from evalscope_evalflow.cli import command_line as cli
from evalscope_evalflow.cli import hide_keys
from evalscope_evalflow.cli.flags import FLAGS
from evalscope_evalflow.config import keys
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.errors import ConfigError, EngineError, Problem
from evalscope_evalflow.results.outcome import FlowResult, ModelResult

KEY = "sk-never-to-be-seen"


def test_help_mentions_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for flag in FLAGS:
        assert f"--{flag.name}" in text
        if flag.default is not None:
            shown = " ".join(flag.default) if isinstance(flag.default, list) else flag.default
            assert f"(default: {shown})" in text
    for command in cli.COMMANDS:
        assert f"evalflow {command}" in text
    assert "130 interrupted" in text


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert f"evalflow {command}" in capsys.readouterr().out


def test_nothing_at_all_shows_the_help_and_is_no_success(capsys):
    assert cli.main([]) == 2
    assert "commands (evalflow COMMAND --help" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == f"evalflow {__version__}"


def test_an_unknown_command_names_the_nearest(capsys):
    assert cli.main(["chekc", "f.yaml"]) == 2
    assert "Did you mean 'check'? Known: run, watch, check, demo, init" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "meant"), [("--eval_modle_path", "--eval_model_path"), ("--eval-devics=0", "--eval_devices")]
)
def test_an_unknown_flag_names_the_nearest(word, meant, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--work_dir", "w", word, "x"])
    assert caught.value.code == 2
    assert f"Did you mean {meant!r}?" in capsys.readouterr().err


def test_flags_are_not_guessed_from_their_beginning(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--work", "w"])
    assert caught.value.code == 2
    assert "unknown flag" in capsys.readouterr().err


def test_a_wrong_configuration_ends_with_2_and_says_why(capsys, tmp_path):
    assert cli.main(["run", str(tmp_path / "none.yaml")]) == 2
    assert capsys.readouterr().err == f"evalflow: {tmp_path}/none.yaml: cannot be read: No such file or directory\n"


def outcome(task, *datasets, error=None):
    results = [ModelResult(model, task.folder(model), list(datasets), error) for model in task.models]
    return FlowResult(task, results)


FULL = DatasetResult("general_qa", [Metric("acc", 0.5, 2, True)], 2, 2, 0, report="r.json")
PART = DatasetResult("general_qa", [Metric("acc", 0.5, 1, True)], 2, 1, 1, report="r.json")
NO_REPORT = DatasetResult("general_qa")


@pytest.mark.parametrize(
    ("datasets", "error", "code"),
    [
        ([FULL], None, 0),
        ([FULL, PART], None, 3),
        ([NO_REPORT], None, 3),
        ([], EngineError("it died"), 1),
    ],
)
def test_the_exit_code_tells_how_complete_the_results_are(monkeypatch, task_file, capsys, datasets, error, code):
    monkeypatch.setattr(sweep, "run", lambda task, reporter: outcome(task, *datasets, error=error))
    assert cli.main(["run", str(task_file)]) == code
    assert "tiny" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineError("it died"), 1),
        (ConfigError(Problem("here", "wrong")), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_what_ends_a_run_is_told_in_a_line_and_an_exit_code(monkeypatch, task_file, capsys, error, code):
    def run(task, reporter):
        raise error

    monkeypatch.setattr(sweep, "run", run)
    assert cli.main(["run", str(task_file)]) == code
    shown = capsys.readouterr().err
    assert shown.startswith("evalflow: ")
    assert "Traceback" not in shown


def test_work_dir_on_the_command_line_wins_over_the_file(monkeypatch, task_file, tmp_path):
    seen = []
    monkeypatch.setattr(sweep, "run", lambda task, reporter: seen.append(task) or outcome(task, FULL))
    cli.main(["run", str(task_file), "--work-dir", str(tmp_path / "elsewhere")])
    assert seen[0].work_dir == tmp_path / "elsewhere"


def test_verbose_shows_what_evalscope_prints(monkeypatch, task_file):
    seen = []
    monkeypatch.setattr(sweep, "run", lambda task, reporter: seen.append(reporter.forward) or outcome(task, FULL))
    cli.main(["run", str(task_file), "--verbose"])
    cli.main(["run", str(task_file)])
    assert seen == [True, False]


@pytest.mark.parametrize("words", [["check"], ["run", "--dry_run"], ["run", "--dry-run"]])
def test_check_prints_the_command_and_starts_nothing(monkeypatch, task_file, tmp_path, capsys, words):
    monkeypatch.setattr(sweep, "run", None)
    assert cli.main([*words, str(task_file)]) == 0
    shown = capsys.readouterr().out
    assert "1 model(s) × general_qa, backend Native" in shown
    assert "--alias tiny --host 127.0.0.1 --port 8123" in " ".join(shown.split())
    assert "Nothing was started." in shown
    assert not (tmp_path / "results").exists()


def test_dry_run_is_check(monkeypatch, gguf_file, make_env, tmp_path, capsys):
    monkeypatch.setattr(sweep, "run", None)
    words = ["--work_dir", str(tmp_path / "results"), "--eval_model_name", "tiny", "--eval_model_path", str(gguf_file)]
    words += ["--conda_env", str(make_env()), "--eval_backend", "Native", "--datasets", "general_qa", "--dry_run"]
    assert cli.main(words) == 0
    assert "Nothing was started." in capsys.readouterr().out


def test_init_writes_a_file_that_names_the_next_step(tmp_path, capsys):
    path = tmp_path / "new.yaml"
    assert cli.main(["init", str(path)]) == 0
    assert f"evalflow check {path}" in capsys.readouterr().out
    assert Task.load(path).models[0].name == "my-model"
    assert cli.main(["init", str(path)]) == 2


class Restarted(Exception):
    pass


@pytest.fixture
def start(monkeypatch):
    """Starts the command as a process would be, up to the point where it replaces itself."""
    for flag in ("JUDGE", "EVAL"):  # set, so that whatever the command sets is taken back
        monkeypatch.setenv(f"EVALFLOW_ARGUMENT_{flag}_API_KEY", "")

    def execv(program, arguments):
        raise Restarted(program, arguments)

    monkeypatch.setattr(hide_keys.os, "execv", execv)

    def run(*words):
        monkeypatch.setattr(sys, "orig_argv", [sys.executable, "/opt/bin/evalflow", *words])
        arguments = None
        try:
            hide_keys.hide_keys()
        except Restarted as restarted:
            arguments = restarted.args[1]
        moved = {name: value for name, value in os.environ.items() if name.startswith("EVALFLOW_ARGUMENT_") and value}
        return arguments, moved

    return run


@pytest.mark.parametrize("flag", ["--judge_api_key", "--judge-api-key", "--eval_api_key", "--eval-api-key"])
@pytest.mark.parametrize("form", ["{0} {1}", "{0}={1}"])
def test_a_key_never_stays_in_the_arguments(start, flag, form, capsys):
    arguments, environ = start("--work_dir", "w", *form.format(flag, KEY).split(), "--datasets", "a")
    assert KEY not in " ".join(arguments)
    assert KEY in environ.values()
    assert KEY not in capsys.readouterr().err
    # What the command is then started with means the same.
    reference = next(word for word in " ".join(arguments).replace("=", " ").split() if word.startswith("${"))
    assert keys.reveal(keys.protect(reference), environ=environ) == KEY
    assert arguments[:2] == [sys.executable, "/opt/bin/evalflow"]
    assert arguments[-2:] == ["--datasets", "a"]


@pytest.mark.parametrize("flag", ["--env_vars", "--env-vars", "--dataset_args"])
@pytest.mark.parametrize("form", ["{0}={1}", "{0} {1}"])
def test_a_key_in_json_never_stays_in_the_arguments(start, monkeypatch, flag, form, capsys):
    given = {"A": "1", "HF_TOKEN": KEY, "deep": [{"api_key": "sk-other"}], "MY_KEY": "${MINE}", "B_API_KEY": "EMPTY"}
    name = f"EVALFLOW_ARGUMENT_{flag[2:].replace('-', '_').upper()}"
    for number in (0, 1):  # set, so that what the command sets is taken back
        monkeypatch.setenv(f"{name}_{number}", "")
    arguments, environ = start(*form.replace(" ", "\n").format(flag, json.dumps(given)).split("\n"))
    text = " ".join(arguments)
    assert KEY not in text
    assert "sk-other" not in text
    assert json.loads(text[text.index("{") :]) == {
        **given,
        "HF_TOKEN": f"${{{name}_0}}",
        "deep": [{"api_key": f"${{{name}_1}}"}],
    }
    assert environ == {f"{name}_0": KEY, f"{name}_1": "sk-other"}
    assert KEY not in capsys.readouterr().err


@pytest.mark.parametrize("value", ["{}", '{"A": "1"}', '{"HF_TOKEN": "${MINE}"}', "no JSON"])
def test_json_without_keys_changes_nothing(start, value):
    assert start("--env_vars", value) == (None, {})


def test_two_keys_move_without_meeting(start):
    arguments, environ = start("--judge_api_key", "sk-judge", "--eval_api_key", "sk-eval")
    assert sorted(environ.values()) == ["sk-eval", "sk-judge"]
    revealed = [keys.reveal(word, environ=environ) for word in arguments if word.startswith("${")]
    assert revealed == ["sk-judge", "sk-eval"]


def test_moving_a_key_says_what_is_better(start, capsys):
    start("--judge_api_key", KEY)
    assert "--judge_api_key '${VARIABLE}'" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["${MY_KEY}", "EMPTY", ""])
def test_a_reference_or_no_key_changes_nothing(start, value):
    assert start("--judge_api_key", value, "--work_dir", "w") == (None, {})


def test_the_process_itself_has_no_key_in_its_arguments(tmp_path):
    """For real: /proc shows what other users see, and the key is still understood behind it."""
    code = (
        "import sys; sys.argv[0] = 'evalflow'\n"
        "from evalscope_evalflow.cli import command_line, run_flags\n"
        "def show(args):\n"
        "    seen = open('/proc/self/cmdline').read()\n"
        "    from evalscope_evalflow.config.keys import reveal\n"
        "    print(seen.count('sk-a'), reveal(args.judge_api_key))\n"
        "    raise SystemExit(0)\n"
        "run_flags.mapping_from_flags = show\n"
        "command_line.main()\n"
    )
    (tmp_path / "command.py").write_text(code)
    words = [sys.executable, str(tmp_path / "command.py"), "--judge_api_key", "sk-a"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=dict(os.environ), check=False)
    assert done.stdout.split() == ["0", "sk-a"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_task_is_read_ends_it_in_order(number, tmp_path):
    """The file is a pipe, so that it is in the middle of reading for as long as we like."""
    os.mkfifo(tmp_path / "task.yaml")
    process = subprocess.Popen(
        [sys.executable, "-m", "evalscope_evalflow", "run", str(tmp_path / "task.yaml")],
        stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        with open(tmp_path / "task.yaml", "w"):  # returns when it has opened it, too
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert said == "evalflow: interrupted; what was saved is kept; run the same command again to resume\n"


@pytest.mark.parametrize(
    "program", [["-m", "evalscope_evalflow"], [str(Path(cli.__file__).parents[2] / "examples" / "evalflow.py")]]
)
def test_the_package_and_the_example_are_the_command(program, gguf_file, make_env, tmp_path):
    words = ["--work-dir", str(tmp_path / "out"), "--eval-model-name", "tiny", "--eval_model_path", str(gguf_file)]
    words += ["--conda_env", str(make_env()), "--eval_backend", "Native", "--datasets", "general_qa", "--dry-run"]
    done = subprocess.run([sys.executable, *program, *words], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--alias tiny" in done.stdout
    assert "Nothing was started." in done.stdout
