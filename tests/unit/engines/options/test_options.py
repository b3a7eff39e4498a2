"""`extra_args` against the engine's own parser."""

import json
import subprocess
import sys
import time
import venv

import psutil
import pytest

from evalscope_evalflow.config import DeployConfig
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines import lmdeploy, load_engine, sglang
from evalscope_evalflow.engines.base import KEY_VARIABLE, Engine, ParserSource
from evalscope_evalflow.engines.launchers import key_launcher
from evalscope_evalflow.engines.options import extra_args as options

SCRIPT = """\
import argparse, sys
parser = argparse.ArgumentParser()
commands = parser.add_subparsers()
serve = commands.add_parser("serve")
serve.add_argument("model")
serve.add_argument("--port", "-p", type=int)
serve.add_argument("--dtype", choices=["half", "bfloat16"])
serve.add_argument("--eager", action=argparse.BooleanOptionalAction)
serve.add_argument("--hosts", nargs="+")
serve.add_argument("--max-model-len")
serve.add_argument("--max-model-size")
serve.add_argument("--limits")
serve.add_argument("--share", type=float)
serve.add_argument("--level", type=int, choices=[0, 4])
serve.add_argument("--own", type=lambda text: 1 / 0)
serve.add_argument("--api-key")
print("this is no JSON")
parser.parse_args()
open({ran!r}, "w").close()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evalflow" / "options"


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(SCRIPT.format(ran=str(tmp_path / "ran")))
    return path


@pytest.fixture
def engine(script):
    class Scripted(Engine):
        name = "mine"
        parser = ParserSource(str(script), ("serve",))
        reserved_options = {  # noqa: RUF012
            "--port": "deploy.port",
            "--max-model-len": "deploy.max_model_len",
            "--api-key": "deploy.api_key",
        }

        def check(self, model, deploy):
            return []

    return Scripted()


def said(engine, *words):
    return [str(problem) for problem in options.check_extra_args(engine, DeployConfig(extra_args=list(words)))]


def test_activation_scripts_may_print(engine, tmp_path, cache, monkeypatch):
    """What they print is not taken for the options, nor for the version that the options are kept for."""
    prefix = tmp_path / "conda"
    venv.create(prefix, symlinks=True)
    (prefix / "conda-meta").mkdir()
    (prefix / "etc" / "conda" / "activate.d").mkdir(parents=True)
    (prefix / "etc" / "conda" / "activate.d" / "hello.sh").write_text('echo "welcome, it is $(date +%N)"\n')
    settings = DeployConfig(env=str(prefix), extra_args=["--egaer"])
    packages = next(prefix.glob("lib/python3*/site-packages"))
    (packages / "mine-1.dist-info").mkdir()
    (packages / "mine-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    monkeypatch.setattr(engine.__class__, "distribution", "mine")
    for _ in range(2):
        (problem,) = options.check_extra_args(engine, settings)
        assert problem.todo == "Did you mean --eager?"
    assert len(list(cache.glob("*.json"))) == 1
    monkeypatch.setattr(engine.__class__, "distribution", "not-there")
    assert list(options.check_extra_args(engine, settings)) == []


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--dtype", "half", "--no-eager", "--hosts", "a", "b", "--limits={}"],
        ["--dt=half", "--eager"],
        ["--limits", '{"image": 8}', "--max-model-size", "-1"],
        ["--share", "0.5", "--share=1", "--level", "4", "--own", "x"],
    ],
)
def test_what_the_program_takes_passes(engine, words):
    assert said(engine, *words) == []


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        (["--dtyp3", "half"], ["mine has no option --dtyp3\n    Did you mean --dtype?", "'half' belongs to no option"]),
        (["--zzz"], ["mine has no option --zzz"]),
        (["--egaer=sk-1", "--hosst=x"], ["no option --egaer\n    Did you mean --eager?", "Did you mean --hosts?"]),
        (["--share", "much"], ["mine rejects argument --share: invalid float value: 'much'"]),
        (["--level", "5"], ["mine rejects argument --level: invalid choice: '5'"]),
        (["--dtype", "float"], ["mine rejects argument --dtype: invalid choice: 'float'"]),
        (["--dtype"], ["mine rejects argument --dtype: expected one argument"]),
        (["--eager=1"], ["mine rejects argument --eager/--no-eager: ignored explicit argument '1'"]),
        (["--eager", "true"], ["'true' belongs to no option of mine"]),
        (["--max-model", "5"], ["mine rejects ambiguous option: --max-model could match"]),
        (["--port", "5"], ["--port is set by EvalFlow\n    Set deploy.port in its place."]),
        (["-p5"], ["-p is set by EvalFlow\n    Set deploy.port in its place."]),
        (["--max-model-l=5"], ["is set by EvalFlow\n    Set deploy.max_model_len in its place."]),
        (["--limits", "--port", "1"], ["mine rejects argument --limits: expected one argument"]),
    ],
)
def test_what_it_does_not_take_is_told(engine, words, problems):
    found = said(engine, *words)
    assert len(found) == len(problems)
    for text, problem in zip(found, problems, strict=True):
        assert text.startswith("deploy.extra_args: ")
        assert problem in text
        assert "sk-1" not in text


def test_a_key_is_told_once_and_by_the_check_of_keys(engine):
    deploy = DeployConfig(extra_args=["--api-key", "sk-1", "--hf-tokens=sk-2"])
    assert list(options.check_extra_args(engine, deploy)) == []
    assert [problem.what.split()[0] for problem in engine.check_keys(deploy)] == ["--api-key", "--hf-tokens"]


def test_the_program_is_stopped_before_it_does_anything(engine, tmp_path):
    said(engine, "--eager")
    assert not (tmp_path / "ran").exists()


def test_the_parser_is_read_once_and_again_when_the_program_changes(engine, cache, script, monkeypatch):
    said(engine, "--eager")
    (kept,) = cache.glob("*.json")
    dumped = []
    dump = options._dump
    monkeypatch.setattr(options, "_dump", lambda *arguments: dumped.append(1) or dump(*arguments))
    assert said(engine, "--zzz") != []
    assert dumped == []
    script.write_text(script.read_text().replace("--limits", "--zzz"))
    assert said(engine, "--zzz", "1") == []
    assert dumped == [1]
    assert len(list(cache.glob("*.json"))) == 2
    assert kept.exists()


def test_who_waits_longer_than_a_moment_is_told_why(engine, script, monkeypatch):
    monkeypatch.setattr(options, "NOTIFY_AFTER_S", 0.0)
    heard = []
    for _ in range(2):
        assert options.read_table(engine, Environment.find(None), heard.append)["abbreviations"] is True
    assert heard == [f"reading the options of mine in {sys.prefix}; once for each version, up to half a minute"]


def test_a_torn_cache_is_made_anew(engine, cache):
    said(engine, "--eager")
    (kept,) = cache.glob("*.json")
    kept.write_text("{")
    assert len(said(engine, "--zzz")) == 1
    assert json.loads(kept.read_text())["options"]


@pytest.mark.parametrize(("target", "distribution"), [("no.such.module:main", "pytest"), ("x:y", "no-such")])
def test_a_parser_that_cannot_be_read_is_no_obstacle(engine, target, distribution, cache, monkeypatch):
    monkeypatch.setattr(type(engine), "parser", ParserSource(target))
    monkeypatch.setattr(type(engine), "distribution", distribution)
    assert said(engine, "--zzz") == []
    assert list(cache.glob("*.json")) == []


@pytest.mark.parametrize("parser", [None, ParserSource("no.such.module:main")])
@pytest.mark.parametrize("words", [["--port", "1"], ["--port=1"], ["--max_model_len", "5"]])
def test_an_option_with_a_setting_is_refused_without_a_parser_too(engine, words, parser, monkeypatch):
    monkeypatch.setattr(type(engine), "parser", parser)
    (found,) = said(engine, "--temperature", "1", *words)
    assert f"{words[0].split('=')[0]} is set by EvalFlow" in found
    assert said(engine, "--support", "1", "--api-key=x", "port") == []


def test_an_option_with_a_setting_is_refused_though_the_parser_does_not_know_it(engine, monkeypatch):
    monkeypatch.setattr(type(engine), "reserved_options", {"--model": "the model's path", "--level": "nothing"})
    assert "Set the model's path" in said(engine, "--model", "x")[0]
    assert len(said(engine, "--level", "five")) == 1


TYPER = """\
import {module}, http.server
@{decorator}
def main(port: int = 18399):
    http.server.ThreadingHTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler).serve_forever()
{call}
"""
SERVES = {
    "click": (TYPER.format(module="click", decorator="click.command()", call="main(standalone_mode=True)"), "click or"),
    "plain": (
        "import http.server\n"
        "http.server.ThreadingHTTPServer(('127.0.0.1', 18399), http.server.SimpleHTTPRequestHandler).serve_forever()\n",
        "it began to serve",
    ),
    "in a library": (
        "import ctypes, socket, sys\n"
        "server = socket.socket()\n"
        "server.bind(('127.0.0.1', 0))\n"
        "sys.exit('cannot listen' if ctypes.CDLL(None).listen(server.fileno(), 5) else 'listens')\n",
        "it ended (cannot listen)",
    ),
    "in a thread and a child": (
        "import http.server, subprocess, sys, threading, time\n"
        "server = [sys.executable, '-m', 'http.server', '18399', '--directory', __file__]\n"
        "subprocess.Popen(server, start_new_session=True)\n"
        "serve = lambda: http.server.HTTPServer(('127.0.0.1', 18399), http.server.SimpleHTTPRequestHandler)\n"
        "threading.Thread(target=serve).start()\n"
        "sleeper = [sys.executable, '-c', 'import time; time.sleep(612)', __file__]\n"
        "subprocess.Popen(sleeper, start_new_session=True)\n"
        "time.sleep(600)\n",
        "it did nothing for 10 s",
    ),
}


def test_names_that_a_parser_takes_and_hides_are_taken(engine, script):
    """vLLM 0.33 takes `--no-enable-x` as before, and shows `--disable-x` in its place."""
    script.write_text(
        "import argparse\n"
        "parser = argparse.ArgumentParser()\n"
        "serve = parser.add_subparsers().add_parser('serve')\n"
        "action = serve.add_argument('--enable-x', '--no-enable-x', '--disable-x', action='store_true')\n"
        "action.option_strings = ['--enable-x', '--disable-x']\n"
        "parser.parse_args()\n"
    )
    for word in ("--enable-x", "--disable-x", "--no-enable-x"):
        assert said(engine, word) == []
    assert len(said(engine, "--no-disable-x")) == 1


@pytest.mark.parametrize(("program", "reason"), list(SERVES.values()), ids=list(SERVES))
def test_a_program_that_would_serve_is_refused_and_never_serves(engine, script, cache, program, reason):
    """One that is no argparse program would be a server without a key, which nobody ends."""
    script.write_text(program)
    began = time.monotonic()
    (found,) = said(engine, "--eager")
    assert f"the options of mine cannot be read from {script}: " in found
    assert reason in found
    assert "`parser`, or None" in found
    assert time.monotonic() - began < 40
    assert list(cache.glob("*.json")) == []
    listening = [item for item in psutil.net_connections("tcp") if item.laddr and item.laddr.port == 18399]
    assert listening == []
    # By the script's path, which is this test's own: others of these may run at the same time.
    running = psutil.process_iter(["cmdline"])
    assert [item.pid for item in running if str(script) in (item.info["cmdline"] or ())] == []


def test_looking_for_a_free_port_is_not_serving(engine, script):
    script.write_text("import socket\nsocket.socket().bind(('127.0.0.1', 0))\n" + script.read_text())
    assert "Did you mean --eager?" in said(engine, "--egaer")[0]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--max_model_len=a_b", "--max-model-len=a_b"),
        ("--compilation_config.pass_config.x", "--compilation-config"),
        ("--limits.image=8", "--limits=8"),
        ("--list+", "--list"),
        ("-O3", "--optimization-level=3"),
        ("-O=2", "--optimization-level=2"),
        ("a_b.c", "a_b.c"),
        ("-tp", "-tp"),
    ],
)
def test_vllms_own_ways_to_write_options(word, meant):
    assert load_engine("vllm").normalise_argument(word) == meant


def test_llama_cpps_launcher_is_checked_by_its_own_parser():
    engine = load_engine("llamacpp")
    assert said(engine, "--threads", "2") == []
    assert "Did you mean --threads?" in said(engine, "--thraeds", "2")[0]
    assert "Set deploy.max_model_len" in said(engine, "--context", "2")[0]


def test_lmdeploys_key_is_in_no_argument_and_reaches_its_parser(tmp_path):
    """By our launcher, with a stand-in for LMDeploy's command that shows what it was given."""
    package = tmp_path / "lmdeploy" / "cli"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").write_text(
        "import argparse, json, os, sys\n"
        "def run():\n"
        "    parser = argparse.ArgumentParser()\n"
        "    parser.add_argument('words', nargs='*')\n"
        "    if os.environ.get('TAKES_KEYS'):\n"
        "        parser.add_argument('--api-keys', nargs='*')\n"
        "    found = vars(parser.parse_args())\n"
        "    seen = open('/proc/self/cmdline').read() + ' '.join(sys.argv)\n"
        "    print(json.dumps([found, seen]))\n"
    )
    env = {"PYTHONPATH": str(tmp_path), KEY_VARIABLE: "sk-secret", "TAKES_KEYS": "1"}
    argv = [*key_launcher(Environment.find(None), "api-keys+", lmdeploy.PROGRAM), "serve", "api_server", "/model"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=True)
    found, seen = json.loads(done.stdout)
    assert found == {"words": ["serve", "api_server", "/model"], "api_keys": ["sk-secret"]}
    assert "sk-secret" not in seen
    done = subprocess.run(argv, env={**env, "TAKES_KEYS": ""}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "knows no --api-keys" in done.stderr


def test_sglangs_key_is_in_no_argument_and_reaches_its_parser(tmp_path):
    """By our launcher, with a stand-in for SGLang's module."""
    package = tmp_path / "sglang"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "launch_server.py").write_text(
        "import argparse, json, os, sys\n"
        "assert __name__ == '__main__'\n"
        "parser = argparse.ArgumentParser()\n"
        "parser.add_argument('--model-path')\n"
        "if os.environ.get('TAKES_KEYS'):\n"
        "    parser.add_argument('--api-key')\n"
        "found = vars(parser.parse_args(sys.argv[1:]))\n"
        "seen = open('/proc/self/cmdline').read() + ' '.join(sys.argv)\n"
        "print(json.dumps([found, seen]))\n"
    )
    env = {"PYTHONPATH": str(tmp_path), KEY_VARIABLE: "sk-secret", "TAKES_KEYS": "1"}
    argv = [*key_launcher(Environment.find(None), "api-key", sglang.PROGRAM), "--model-path", "/model"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=True)
    found, seen = json.loads(done.stdout)
    assert found == {"model_path": "/model", "api_key": "sk-secret"}
    assert "sk-secret" not in seen
    done = subprocess.run(argv, env={**env, "TAKES_KEYS": ""}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "knows no --api-key" in done.stderr
