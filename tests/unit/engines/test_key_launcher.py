"""The launcher that hands a server its key, and closes every path that serves."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.engines import KEY_VARIABLE, key_launcher
from evalscope_evalflow.processes import ports
from evalscope_evalflow.serving import http

KEY = "sk-of-the-launcher"
# A server that checks no key at all. With `--spawn`, another process of it serves, as vLLM's do with replicas.
SERVER = """\
import argparse, multiprocessing


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["method"].encode()})


def serve(port):
    import uvicorn

    uvicorn.run(app, port=port, lifespan="off", log_level="warning")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--spawn", action="store_true")
    parser.add_argument("--api-key")
    args = parser.parse_args()
    if args.spawn:
        child = multiprocessing.get_context("spawn").Process(target=serve, args=(args.port,), daemon=True)
        child.start()
        child.join()
    else:
        serve(args.port)
"""


@contextmanager
def served(folder, *arguments):
    """The server by the launcher: its URL."""
    (folder / "open_server.py").write_text(SERVER)
    lease = ports.lease("127.0.0.1")
    lease.release()
    argv = [*key_launcher(Environment.find(None), "api-key", "open_server:main"), "--port", str(lease.port), *arguments]
    env = {**os.environ, "PYTHONPATH": str(folder), KEY_VARIABLE: KEY}
    process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{lease.port}"
        while not http.request(f"{url}/health").ok:
            with pytest.raises(subprocess.TimeoutExpired):  # it has not ended
                process.wait(0.05)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # what it has spawned serves on without it
        process.wait(30)


@pytest.mark.parametrize("arguments", [(), ("--spawn",)], ids=["itself", "a process that it spawns"])
def test_every_path_that_serves_is_closed_without_the_key(tmp_path, arguments):
    with served(tmp_path, *arguments) as url:
        for path in ("/v1/chat/completions", "/invocations", "/health", "/anything"):
            assert http.request(f"{url}{path}", body={}).status == 401
            assert http.request(f"{url}{path}", body={}, api_key="sk-other").status == 401
            assert http.request(f"{url}{path}", body={}, api_key=KEY).text == "POST"
        assert http.request(f"{url}/v1/models").status == 401
        assert http.request(f"{url}/v1/models", api_key=KEY).ok
        for path in ("/health", "/metrics", "/openapi.json"):  # only show that it is well
            assert http.request(f"{url}{path}").text == "GET"


def test_importing_the_launcher_imports_no_server(tmp_path):
    code = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__mp_main__'); print('uvicorn' in sys.modules)"
    launcher = key_launcher(Environment.find(None), "api-key", "x")[1]
    argv = [sys.executable, "-S", "-c", code, launcher]
    env = {**os.environ, KEY_VARIABLE: KEY}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
