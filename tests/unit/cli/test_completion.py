"""`evalflow completion`: the script completes every command and flag, in a real bash."""

import builtins
import subprocess

import pytest

from evalscope_evalflow.cli import command_line as cli
from evalscope_evalflow.cli.completion import SHELLS, whole_parser
from evalscope_evalflow.cli.flags import FLAGS

COMPLETE = """
source /dev/stdin <<< "$SCRIPT"
COMP_WORDS=({words}) COMP_CWORD={place}
completer=$(complete -p evalflow | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
"$completer" evalflow
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def scripts():
    found = {}
    for shell in SHELLS:
        with pytest.MonkeyPatch.context() as patch:
            said = []
            patch.setattr("sys.stdout.write", said.append)
            assert cli.main(["completion", shell]) == 0
        found[shell] = "".join(said)
    return found


def completed(script, *words):
    """What bash offers for the last word."""
    code = COMPLETE.format(words=" ".join(map(repr, words)), place=len(words) - 1)
    done = subprocess.run(
        ["bash", "--norc", "-c", code], env={"SCRIPT": script, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.stderr == ""
    return {word.strip() for word in done.stdout.split()}


def test_bash_completes_every_command(scripts):
    assert set(cli.COMMANDS) <= completed(scripts["bash"], "evalflow", "")
    assert completed(scripts["bash"], "evalflow", "comp") == {"compare", "completion"}


def test_bash_completes_the_flags_of_a_run_without_a_file(scripts):
    assert {f"--{flag.name}" for flag in FLAGS} <= completed(scripts["bash"], "evalflow", "--")


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_bash_completes_the_flags_of_every_command(command, scripts):
    parsers = whole_parser()._subparsers._group_actions[0].choices
    flags = {word for action in parsers[command]._actions for word in action.option_strings if word.startswith("--")}
    assert completed(scripts["bash"], "evalflow", command, "--") == flags


def test_bash_completes_files_and_choices(scripts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.yaml").touch()
    assert "task.yaml" in completed(scripts["bash"], "evalflow", "run", "ta")
    assert completed(scripts["bash"], "evalflow", "completion", "z") == {"zsh"}


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script_with_every_command(shell, scripts):
    assert all(command in scripts[shell] for command in cli.COMMANDS)


def test_without_shtab_it_says_what_to_install(monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "shtab":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert cli.main(["completion", "bash"]) == 2
    shown = capsys.readouterr().err
    assert "shtab" in shown
    assert "[completion]" in shown


@pytest.mark.parametrize(("shell", "place"), [
    ("bash", "~/.local/share/bash-completion/completions/evalflow"),
    ("zsh", "~/.zfunc/_evalflow"),
    ("fish", "~/.config/fish/completions/evalflow.fish"),
])  # fmt: skip
def test_the_script_names_the_place_that_the_docs_name(scripts, shell, place):
    head = scripts[shell][:400]
    assert f"evalflow completion {shell} > {place}\n" in head
    assert "bash_completion/evalflow" not in head
    assert scripts["zsh"].startswith("#compdef evalflow\n")
