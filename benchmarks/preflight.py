"""How long preflight takes, cold and cached; and how long from the command to the start of the engine's process.

    python benchmarks/preflight.py llamacpp MODEL.gguf
    python benchmarks/preflight.py vllm CHECKPOINT --env ENV --extra_args='--enforce-eager --dtype bfloat16'
    python benchmarks/preflight.py vllm CHECKPOINT --env ENV --worker_env ENV_WITH_VLMEVALKIT

The last one is for the default backend, VLMEvalKit, and its six default datasets, without a judge.

The engine itself does not run: the interpreter of a stand-in environment hands every look into the environment on to
the real one, and, started as the engine, only writes down the time, and the CPU time that `evalflow` has used by then:
on a machine with other work, that says more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = """\
#!/bin/sh
case "$*" in
*.main\\ serve\\ *|*_launcher.py\\ *)
    now=$(date +%s.%N)
    # The parent is the guard, whose parent is the command: CPU time of it, and of what it has waited for.
    command=$(awk '{{print $4}}' "/proc/$PPID/stat")
    cpu=$(awk '{{print $14 + $15 + $16 + $17}}' "/proc/$command/stat")
    echo "$now $cpu" > "$EVALFLOW_BENCHMARK_FILE"
    exit 1 ;;
esac
exec {python} "$@"
"""


class Bench:
    """Runs the command in a scratch folder.

    Attributes:
        folder: it.
        words: the command's flags.
    """

    def __init__(
        self, folder: Path, engine: str, model: str, env: str | None, extra_args: str, worker_env: str | None
    ) -> None:
        self.folder = folder
        python = Path(env) / "bin" / "python" if env else Path(sys.executable)
        interpreter = folder / "env" / "bin" / "python"
        interpreter.parent.mkdir(parents=True)
        interpreter.write_text(SCRIPT.format(python=python))
        interpreter.chmod(0o755)
        (folder / "data").mkdir()
        (folder / "data" / "tiny_val.jsonl").write_text(
            json.dumps({"id": "0", "question": "?", "A": "a", "B": "b", "answer": "A"}) + "\n"
        )
        settings = {"general_mcq": {"local_path": str(folder / "data"), "subset_list": ["tiny"]}}
        self.words = [
            "--deploy_backend", engine, "--eval_model_path", model, "--eval_model_name", "m",
            "--conda_env", str(interpreter.parent.parent), *([f"--extra_args={extra_args}"] if extra_args else []),
        ]  # fmt: skip
        if worker_env:
            self.words += ["--worker_env", worker_env, "--vlmevalkit_mode", "infer"]
        else:
            self.words += ["--eval_backend", "Native", "--datasets", "general_mcq"]
            self.words += ["--dataset_args", json.dumps(settings)]
        self.runs = 0

    def run(self, *more: str, cache: str) -> tuple[float, float]:
        """Run it: (seconds until its end, time of day at its beginning)."""
        self.runs += 1
        env = {
            **os.environ,
            "XDG_CACHE_HOME": str(self.folder / cache),
            "EVALFLOW_RUNTIME_DIR": str(self.folder / "runtime"),
            "EVALFLOW_BENCHMARK_FILE": str(self.folder / "started"),
        }
        command = [Path(sys.executable).parent / "evalflow", "--work_dir", self.folder / f"work{self.runs}"]
        began = time.time()
        done = subprocess.run([*command, *self.words, *more], env=env, capture_output=True, text=True, check=False)
        seconds = time.time() - began
        if ("--dry_run" in more) != (done.returncode == 0):
            raise SystemExit(f"that went otherwise than it should:\n{done.stdout}\n{done.stderr}")
        return seconds, began

    def preflight(self, cache: str) -> float:
        """Seconds of `evalflow … --dry_run`: imports, preflight, plan."""
        return self.run("--dry_run", cache=cache)[0]

    def start(self, cache: str) -> tuple[float, float]:
        """(seconds, CPU seconds) from the command to the start of the engine's process."""
        _, began = self.run(cache=cache)
        now, ticks = (self.folder / "started").read_text().split()
        return float(now) - began, float(ticks) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["vllm", "lmdeploy", "llamacpp"])
    parser.add_argument("model")
    parser.add_argument("--env", help="environment that has the engine; default: this one")
    parser.add_argument("--worker_env", help="environment that has VLMEvalKit; default: the backend is Native")
    parser.add_argument("--extra_args", default="", help="for the engine, in one string")
    parser.add_argument("--runs", type=int, default=9, help="of each, but for the cold one")
    parser.add_argument("--cold", type=int, default=1, help="runs without a cache of the engine's options")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="evalflow-benchmark-") as folder:
        bench = Bench(Path(folder), args.engine, args.model, args.env, args.extra_args, args.worker_env)
        cold = [bench.preflight(f"cold{number}") for number in range(args.cold)]
        bench.preflight("cache")
        cached = [bench.preflight("cache") for _ in range(args.runs)]
        starts = [bench.start("cache") for _ in range(args.runs)]
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, values in (
        ("preflight, cold", cold),
        ("preflight, cached", cached),
        ("command to engine process", [wall for wall, _ in starts]),
        ("  CPU time of that", [cpu for _, cpu in starts]),
    ):
        print(f"{name:26} median {statistics.median(values):6.2f} s   from {min(values):6.2f} to {max(values):6.2f}")


if __name__ == "__main__":
    main()
