"""Answers a second that a client takes from a server that answers at once: stock EvalScope's evaluator, and our worker.

    python benchmarks/client.py [--items 3000] [--at-once 200] [--pairs 3] [--json FILE]

nginx answers every request with the same body, so that the client is the limit; its share of the CPU is told, as it is
taken from the same cores. The same questions, settings and number of requests at once; a rate is answers by the
seconds from the first request to the last saved answer. Stock EvalScope scores each answer as it comes, and our worker
in a second pass, so that the seconds until all is scored are told, too. CPU is of all processes of the client, and
memory what they do not share (PSS), at its most.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from evalscope_evalflow.backends.native import native_backend
from evalscope_evalflow.events.worker_requests import JudgeAnswers, ModelReady, StartTask
from evalscope_evalflow.worker import credentials

PACKAGE = Path(credentials.__file__).resolve().parents[1]
LOOK_S = 0.2
BODY = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ANSWER: A"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 90, "completion_tokens": 5, "total_tokens": 95},
}  # fmt: skip


@dataclass
class Figures:
    """What one client did.

    Attributes:
        answers_s: answers a second.
        cpu_ms: CPU time of the client for each answer.
        server_ms: the same of nginx.
        memory_mb: the most that its processes had, what they share counted once.
        scored_s: seconds from the first request until everything was scored.
    """

    answers_s: float
    cpu_ms: float
    server_ms: float
    memory_mb: float
    scored_s: float


def main() -> None:
    args = parse()
    if args.as_stock:
        as_stock(json.loads(args.as_stock.read_text()))
        return
    with tempfile.TemporaryDirectory() as folder, nginx(Path(folder)) as (url, server):
        write_questions(Path(folder), args.items)
        ways = {"stock": stock, "ours": ours}
        found: dict[str, list[Figures]] = {way: [] for way in ways}
        for number in range(args.pairs):
            for way in list(ways) if number % 2 else reversed(ways):
                work = Path(folder) / f"{way}-{number}"
                work.mkdir()
                found[way].append(ways[way](stock_task(Path(folder), work, args), url, server, args.items))
                print(f"{way:5} {found[way][-1]}", file=sys.stderr, flush=True)
    show(found)
    if args.json:
        args.json.write_text(
            json.dumps({way: [asdict(figures) for figures in runs] for way, runs in found.items()}, indent=2)
        )


def stock_task(folder: Path, work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The task that both do."""
    return {
        "model": "m", "model_id": "m", "eval_type": "openai_api", "datasets": ["general_mcq"],
        "dataset_args": {"general_mcq": {"local_path": str(folder / "data"), "subset_list": ["mcq"]}},
        "eval_batch_size": args.at_once, "work_dir": str(work), "no_timestamp": True, "ignore_errors": True,
        "generation_config": {"max_tokens": 16, "temperature": 0.0},
    }  # fmt: skip


def write_questions(folder: Path, items: int) -> None:
    (folder / "data").mkdir()
    with (folder / "data" / "mcq_val.jsonl").open("w") as file:
        for number in range(items):
            row = {"question": f"What is {number} + {number}?", "A": str(2 * number), "B": "1", "C": "3", "answer": "A"}
            file.write(json.dumps(row) + "\n")


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The server: its base URL, and its one process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
        "events { worker_connections 4096; }\n"
        "http { access_log off; keepalive_requests 100000000; keepalive_timeout 600s;\n"
        f"  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;\n"
        f"  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n"
        f"  server {{ listen 127.0.0.1:{port}; default_type application/json;\n"
        f"    location / {{ return 200 '{json.dumps(BODY)}'; }} }} }}\n"
    )
    process = subprocess.Popen(["nginx", "-e", f"{folder}/nginx.log", "-c", f"{folder}/nginx.conf"])
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None:
                raise SystemExit((folder / "nginx.log").read_text())
        yield f"http://127.0.0.1:{port}/v1", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


class Watched:
    """The processes of a client: their CPU time so far, and their memory at its most."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._over = threading.Event()
        self.most_mb = 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _tree(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return [self._root, *self._root.children(recursive=True)]
        return []

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            memory = 0
            for process in self._tree():
                with contextlib.suppress(psutil.Error):
                    memory += process.memory_full_info().pss
            self.most_mb = max(self.most_mb, memory / 1e6)

    def cpu_s(self) -> float:
        """Of all that live, and of those that have ended and were waited for."""
        total = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])
        return total

    def end(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()


def cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def stock(task: dict[str, Any], url: str, server: psutil.Process, items: int) -> Figures:
    """Stock EvalScope, in a process of its own; it tells when its pool of requests begins and ends."""
    work = Path(task["work_dir"])
    spec = work.with_suffix(".json")
    spec.write_text(json.dumps({**task, "api_url": url, "api_key": "key"}))
    variables = {**os.environ, "EVALFLOW_DISABLE": "1"}
    with work.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, "--as-stock", str(spec)], stdout=subprocess.PIPE, stderr=log, env=variables
        )
    watched = Watched(process.pid)
    assert process.stdout is not None
    served, told = 0.0, {}
    for line in process.stdout:
        if not line.startswith(b"@"):
            continue
        if line.startswith(b"@began"):
            served = cpu_of(server)
        else:
            served = cpu_of(server) - served
            told = json.loads(line[1:])
    watched.end()
    if process.wait() or not told:
        raise SystemExit(work.with_suffix(".log").read_text()[-3000:])
    check(work, items)
    seconds = told["seconds"]
    return Figures(items / seconds, 1e3 * told["cpu_s"] / items, 1e3 * served / items, watched.most_mb, seconds)


def as_stock(task: dict[str, Any]) -> None:
    """Run stock EvalScope here."""
    import evalscope.models.openai_compatible  # noqa: F401 - the first request would import it
    from evalscope.config import TaskConfig
    from evalscope.evaluator import DefaultEvaluator
    from evalscope.run import run_task

    run_pool = DefaultEvaluator._run_pool

    def timed(self: Any, context: Any) -> Any:
        print("@began", flush=True)
        began, cpu = time.perf_counter(), cpu_here()
        result = run_pool(self, context)
        told = {"seconds": time.perf_counter() - began, "cpu_s": cpu_here() - cpu}
        print(f"@{json.dumps(told)}", flush=True)
        return result

    DefaultEvaluator._run_pool = timed
    run_task(TaskConfig.from_dict(task))


def cpu_here() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def ours(task: dict[str, Any], url: str, server: psutil.Process, items: int) -> Figures:
    """Our worker, as a run starts it."""
    work = Path(task["work_dir"])
    (work / "evalflow").mkdir()
    half = f"{PACKAGE / 'backends' / 'native'}/{native_backend.Native.worker_half}"
    request = StartTask(half, ["infer", "judge"], task, str(work / "evalflow" / "failures.jsonl"), "cause")
    status, status_end = os.pipe()
    variables = {**os.environ, credentials.MODEL_KEY: "key", "EVALFLOW_STATUS_FD": str(status_end)}
    variables["EVALFLOW_DISABLE"] = "1"
    with work.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(PACKAGE / "worker")], stdin=subprocess.PIPE, stdout=log, stderr=log, env=variables,
            pass_fds=(status_end,), text=True, bufsize=1,
        )  # fmt: skip
    os.close(status_end)
    watched = Watched(process.pid)
    assert process.stdin is not None

    def send(message: dict[str, Any]) -> None:
        process.stdin.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]

    send(request.as_dict())
    marks: dict[str, tuple[float, float, float]] = {}
    with os.fdopen(status) as events:
        for line in events:
            name = json.loads(line)["event"]
            if name == "WorkerWaiting":
                time.sleep(3)  # what it imports while it waits is not what is measured
                send(ModelReady(url).as_dict())
            marks[name] = time.perf_counter(), watched.cpu_s(), cpu_of(server)
            if name == "AnswersSaved":
                send(JudgeAnswers().as_dict())
    watched.end()
    process.wait()
    if "WorkerDone" not in marks:
        raise SystemExit(work.with_suffix(".log").read_text()[-3000:])
    check(work, items)
    began, ended = marks["WorkerAsking"], marks["DatasetAnswered"]
    seconds, cpu, served = (after - before for before, after in zip(began, ended, strict=True))
    scored = marks["WorkerDone"][0] - marks["AnswersSaved"][0] + seconds
    return Figures(items / seconds, 1e3 * cpu / items, 1e3 * served / items, watched.most_mb, scored)


def check(work: Path, items: int) -> None:
    """Whether every question was answered and scored: a fast failure is no result."""
    report = json.loads((work / "reports" / "m" / "general_mcq.json").read_text())
    if report["execution_summary"]["succeeded"] != items:
        raise SystemExit(f"not every item was scored: {report['execution_summary']}")


def show(found: dict[str, list[Figures]]) -> None:
    """The table; each figure is the median, ratios are those of the pairs."""
    print("| client | answers/s | / stock | CPU, ms/answer | nginx, ms/answer | memory, MB | all scored, s |")
    print("|---|---|---|---|---|---|---|")
    for way, runs in found.items():
        ratio = statistics.median(
            run.answers_s / hand.answers_s for run, hand in zip(runs, found["stock"], strict=True)
        )
        cells = [statistics.median(column) for column in zip(*(asdict(run).values() for run in runs), strict=True)]
        print(
            f"| {way} | {cells[0]:.0f} | {ratio:.2f} | {cells[1]:.2f} | {cells[2]:.3f} | {cells[3]:.0f} "
            f"| {cells[4]:.1f} |"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--as-stock", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
