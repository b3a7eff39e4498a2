"""The engine of docs/contributing/add-an-engine.md, in a package of its own, passes the conformance suite there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from evalscope_evalflow.testing.engine_suite import ServerConformance, count_tests

pytestmark = pytest.mark.real
DOCUMENT = Path(__file__).parents[3] / "docs" / "contributing" / "add-an-engine.md"
SERVER = '''
"""A server that greets whoever has the key, and counts where it is to sample."""

import argparse, itertools, json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("model")
for option in ("--name", "--host", "--port", "--context", "--threads"):
    parser.add_argument(option)
args = parser.parse_args()
numbers = itertools.count()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            self.answer(200, {})
        elif self.may():
            self.answer(200, {"data": [{"id": args.name}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = f"Hello {next(numbers)}." if asked.get("temperature") else "Hello."
        if self.may():
            self.answer(200, {"choices": [{"message": {"role": "assistant", "content": text}}]})

    def may(self):
        if self.headers["Authorization"] == f"Bearer {os.environ['MY_KEY']}":
            return True
        self.answer(401, {"error": "no"})

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


ThreadingHTTPServer((args.host, int(args.port)), Handler).serve_forever()
'''


def test_the_engine_of_the_documentation_passes(tmp_path: Path) -> None:
    text = DOCUMENT.read_text()
    engine, suite, *_ = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    entry = re.search(r'^\[project\.entry-points\."(.+?)"\]\n(\w+) = "(.+?)"', text, re.MULTILINE)
    assert entry is not None
    metadata = tmp_path / "my_package-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(f"[{entry[1]}]\n{entry[2]} = {entry[3]}\n")
    (tmp_path / "my_package.py").write_text(engine)
    (tmp_path / "my_server.py").write_text(SERVER)
    (tmp_path / "test_my_engine.py").write_text(suite.replace("/models/small", str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--junitxml=report.xml", "test_my_engine.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    ran = {str(case.get("name")).split("[")[0] for case in ElementTree.parse(tmp_path / "report.xml").iter("testcase")}
    assert len(ran) == sum(count_tests(ServerConformance).values())
