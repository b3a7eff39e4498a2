"""No key that a run uses is ever in a file, a stream or a process's arguments: whatever way it came, whatever fails."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent
SCRIPTED = Path(__file__).resolve().parents[2] / "scripted"
SAMPLE_EVERY_S = 0.02
ROOMS = ("work", "scratch", "home", "runtime")


def new_key(kind: str) -> str:
    """A key that is nowhere else on this machine."""
    return f"sk-{kind}-{secrets.token_hex(12)}"


class Telltale:
    """An API that repeats the key it was sent in everything it says, as some do.

    Attributes:
        answers: chat requests that it answers before it refuses them all; None: it answers every one.
    """

    def __init__(self, answers: int | None = None) -> None:
        self.answers, self.chats, self.keys = answers, 0, set[str]()
        telltale = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._reply(200, {"data": [{"id": "m"}], "note": self._key()})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                telltale.chats += 1
                if telltale.answers is not None and telltale.chats > telltale.answers:
                    message = f"Incorrect API key provided: {self._key()}. Header: {self.headers['Authorization']}"
                    self._reply(401, {"error": {"message": message, "code": "invalid_api_key"}})
                    return
                message = {"role": "assistant", "content": '{"verdict": "A"} ANSWER: A'}
                usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                self._reply(200, {"id": "c", "object": "chat.completion", "created": 0, "model": "m",
                                  "choices": [choice], "usage": usage})  # fmt: skip

            def _key(self) -> str:
                key = str(self.headers.get("Authorization", "")).removeprefix("Bearer ")
                telltale.keys.add(key)
                return key

            def _reply(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("X-Your-Key", self._key())
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Telltale:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Witness:
    """Looks, all through a run, at every process's arguments and at every file of the run, for its keys."""

    def __init__(self, keys: list[str], rooms: list[Path]) -> None:
        self.keys, self.rooms = [key.encode() for key in keys], rooms
        self.files: set[str] = set()
        self.arguments: dict[int, list[bool]] = {}  # of every process of the run: whether each look showed a key
        self.looks = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_EVERY_S):
            self.look_at_arguments()
            self.look_at_files()
            self.looks += 1

    def look_at_arguments(self) -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                pid = int(path.parent.name)
                told = self._holds_key(path.read_bytes())
                if told or pid in self.arguments:
                    self.arguments.setdefault(pid, []).append(told)

    def look_at_files(self) -> None:
        for room in self.rooms:
            for folder, _, names in os.walk(room):
                for name in names:
                    with contextlib.suppress(OSError):
                        path = Path(folder, name)
                        if self._holds_key(path.read_bytes()) or self._holds_key(os.fsencode(path)):
                            self.files.add(str(path))

    def _holds_key(self, data: bytes) -> bool:
        return any(key in data for key in self.keys)

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.look_at_files()


class Scene:
    """A folder for a run, and what is seen of the run."""

    def __init__(self, folder: Path, stock_task: dict[str, Any]) -> None:
        self.folder, self.task = folder, stock_task
        for room in ROOMS:
            (folder / room).mkdir()
        self.task["work_dir"] = str(folder / "work")
        self.task["limit"] = 4
        self.task["generation_config"] |= {"retries": 1, "retry_interval": 0}
        self.task["eval_backend"] = "evalflow"
        self.task["evalflow"] = {"backend": "Native"}

    def scripted(self, **deploy: Any) -> None:
        """Serve with the scripted server, which prints its key."""
        self.task |= {"model": "anything", "model_id": "m"}
        self.task["evalflow"]["deploy"] = {"engine": "scripted", "extra_args": ["--print-key"], **deploy}

    def remote(self, url: str, key: str) -> None:
        """Ask an API."""
        self.task["evalflow"] |= {"models": [{"name": "m", "api_url": url, "api_key": key}]}

    def judge(self, url: str, key: str, **more: Any) -> None:
        """Have the answers judged."""
        self.task["judge"] = {"strategy": "llm", "models": [{"model_id": "m", "api_url": url, "api_key": key, **more}]}

    def run(
        self, keys: list[str], *words: str, env: dict[str, str] | None = None, literal: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; no key may be seen anywhere. Default: `evalflow run --verbose` on the task.

        Args:
            keys: what to look for.
            words: the command.
            env: variables for it.
            literal: whether the task file may hold keys: it is the user's own.
        """
        file = self.folder / "task.yaml"
        file.write_text(yaml.safe_dump(self.task))
        assert literal or not any(key in file.read_text() for key in keys)
        command = list(words) or [str(BIN / "evalflow"), "run", str(file), "--verbose"]
        home = str(self.folder / "home")
        variables = {
            **os.environ, "PYTHONPATH": str(SCRIPTED), "TMPDIR": str(self.folder / "scratch"), "HOME": home,
            "XDG_CACHE_HOME": home, "XDG_STATE_HOME": home, "EVALFLOW_RUNTIME_DIR": str(self.folder / "runtime"),
            "EVALSCOPE_LOG_LEVEL": "DEBUG", **(env or {}),
        }  # fmt: skip
        rooms = [self.folder / room for room in ROOMS]
        with Witness(keys, rooms) as witness:
            done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=variables)
        assert witness.looks > 5
        assert witness.files == set()
        for key in keys:
            assert key not in done.stdout
            assert key not in done.stderr
        for pid, looks in witness.arguments.items():
            # Only what the user typed, until the command has started itself anew.
            assert looks == sorted(looks, reverse=True), f"a key came into the arguments of {pid}"
            assert len([told for told in looks if told]) * SAMPLE_EVERY_S < 3
            assert any(key in word for key in keys for word in words), f"a key is in the arguments of {pid}"
        return done


@pytest.fixture
def scene(tmp_path: Path, stock_task: dict[str, Any]) -> Scene:
    return Scene(tmp_path, stock_task)


@pytest.fixture
def telltale() -> Iterator[Telltale]:
    with Telltale() as found:
        yield found


def test_keys_in_the_file(scene: Scene, telltale: Telltale) -> None:
    """Literally: the engine's, the judge's, and one in the engine's variables."""
    engine, judge, variable = new_key("engine"), new_key("judge"), new_key("variable")
    scene.scripted(api_key=engine, env_vars={"HF_TOKEN": variable})
    scene.judge(telltale.url, judge)
    done = scene.run([engine, judge, variable])
    assert done.returncode == 0, done.stderr
    assert judge in telltale.keys
    assert "the key is **********" in (scene.folder / "work" / "evalflow" / "engine.log").read_text()


def test_keys_in_variables(scene: Scene) -> None:
    """An API's and a judge's, both of which repeat them."""
    api, judge = new_key("api"), new_key("judge")
    with Telltale() as model, Telltale() as other:
        scene.remote(model.url, "${MODEL_KEY}")
        scene.judge(other.url, "${THE_JUDGES_KEY}")
        done = scene.run([api, judge], env={"MODEL_KEY": api, "THE_JUDGES_KEY": judge}, literal=False)
        assert done.returncode == 0, done.stderr
        assert api in model.keys
        assert judge in other.keys


def test_keys_on_the_command_line(scene: Scene, telltale: Telltale) -> None:
    engine, judge, variable = new_key("engine"), new_key("judge"), new_key("variable")
    done = scene.run(
        [engine, judge, variable],
        str(BIN / "evalflow"), "--work_dir", scene.task["work_dir"], "--eval_model_name", "m",
        "--eval_model_path", "anything", "--deploy_backend", "scripted", "--eval_backend", "Native", "--limit", "2",
        "--eval_max_model_length", "512", "--datasets", "general_mcq", "--extra_args=--print-key",
        "--dataset_args", json.dumps(scene.task["dataset_args"]), "--env_vars", json.dumps({"HF_TOKEN": variable}),
        "--eval_api_key", engine, f"--judge_api_key={judge}",
        "--judge_model_name", "m", "--judge_api_url", telltale.url, "--verbose",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "has been moved out of sight" in done.stderr
    assert judge in telltale.keys


def test_keys_repeated_in_errors(scene: Scene) -> None:
    """The API, and then the judge, let us in, and then refuse us in words that hold the key."""
    api, judge = new_key("api"), new_key("judge")
    with Telltale(answers=3) as model, Telltale(answers=2) as other:
        scene.remote(model.url, api)
        scene.judge(other.url, judge)
        done = scene.run([api, judge])
        assert done.returncode == 1, done.stderr
        assert api in model.keys
        assert judge in other.keys
        assert model.chats > 3
        assert "Incorrect API key provided: ******" in done.stderr
    with Telltale(answers=1000) as model, Telltale(answers=2) as other:
        scene.remote(model.url, api)
        scene.task["evalflow"]["reuse"] = {"accept": ["api_url"]}  # the port is another one
        scene.judge(other.url, judge)
        done = scene.run([api, judge])
        assert done.returncode == 3, done.stderr
        assert other.chats > 2
        logs = "".join(path.read_text() for path in (scene.folder / "work").rglob("*.log"))
        assert "Incorrect API key provided: ******" in logs


def test_keys_that_are_refused_at_once(scene: Scene) -> None:
    api, judge = new_key("api"), new_key("judge")
    with Telltale(answers=0) as model, Telltale(answers=0) as other:
        scene.remote(model.url, api)
        scene.judge(other.url, judge)
        done = scene.run([api, judge])
        assert done.returncode == 2
        assert done.stderr.count("refuses the key (401)") == 2


def test_keys_when_evalscope_fails_with_a_traceback(scene: Scene, telltale: Telltale) -> None:
    engine, judge = new_key("engine"), new_key("judge")
    scene.scripted(api_key=engine)
    scene.judge(telltale.url, judge)
    scene.task["repeats"] = 2  # of its three figures EvalScope takes none for the headline
    scene.task["dataset_args"]["general_mcq"]["aggregation"] = "mean_and_pass_at_k"
    done = scene.run([engine, judge])
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "no unique primary metric" in done.stderr


def test_keys_when_the_engine_stops(scene: Scene, telltale: Telltale) -> None:
    """Its last lines are shown, and its command."""
    engine, variable = new_key("engine"), new_key("variable")
    scene.scripted(api_key=engine, env_vars={"SOME_API_KEY": variable})
    scene.task["evalflow"]["deploy"]["extra_args"] += ["--exit-after-start", "3"]
    done = scene.run([engine, variable])
    assert done.returncode == 1
    assert "in two halves it is ****" in done.stderr


@pytest.mark.parametrize("raised", ["ConfigError", "WorkerError"])
def test_keys_in_exceptions(scene: Scene, raised: str) -> None:
    """In Python: what is raised, all that it was raised from, and EvalScope's own log."""
    api, judge = new_key("api"), new_key("judge")
    with Telltale(answers=3) as model, Telltale(answers=1) as other:
        scene.remote(model.url, api)
        if raised == "ConfigError":  # known before anything starts
            scene.judge(other.url, judge)
            scene.task["dataset_args"]["general_mcq"]["local_path"] = str(scene.folder)  # where there is no benchmark
        else:  # only EvalScope knows
            scene.judge(other.url, judge, eval_type="of no such type")
        (scene.folder / "task.json").write_text(json.dumps(scene.task))
        script = (
            "import json, sys, traceback\n"
            "from evalscope.run import run_task\n"
            "from evalscope.config import TaskConfig\n"
            "task = json.load(open(sys.argv[1]))\n"
            "print(repr(TaskConfig(**task)), TaskConfig(**task).to_dict())\n"
            "try:\n"
            "    run_task(task)\n"
            "except Exception as error:\n"
            "    while error:\n"
            "        traceback.print_exception(error)\n"
            "        print(repr(error), error.args, vars(error))\n"
            "        error = error.__cause__ or error.__context__\n"
            "else:\n"
            "    sys.exit('nothing was raised')\n"
        )
        done = scene.run([api, judge], sys.executable, "-c", script, str(scene.folder / "task.json"))
        assert done.returncode == 0, done.stderr
        assert raised in done.stdout
