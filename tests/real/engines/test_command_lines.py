"""The two command lines that most people will use, as they stand, through `examples/evalflow.py`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import environments
import pytest
import vlm_data
from judge_server import JudgeServer
from tls_server import Authority, TlsServer

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[3]
SCRIPTED = ROOT / "tests" / "scripted"
QUESTIONS = 3
MODEL_KEY, JUDGE_KEY = "sk-of-the-model", "sk-of-the-judge"


@pytest.fixture
def backend(tmp_path: Path) -> list[str]:
    """What is said of backend and benchmark, beside the lines: Native, and one that only a judge can score."""
    folder = tmp_path / "simple_qa"
    folder.mkdir()
    rows = [{"problem": f"2 + {n}?", "answer": str(2 + n), "metadata": "{}"} for n in range(QUESTIONS)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"simple_qa": {"local_path": str(folder)}}
    return ["--eval_backend", "Native", "--datasets", "simple_qa", "--dataset_args", json.dumps(settings)]


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    with JudgeServer() as server:
        yield server


def run(
    line: str, *more: str, python: str | Path = sys.executable, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run one of the lines."""
    words = line.split()
    assert words[:2] == ["python", "evalflow.py"]
    command = [python, ROOT / "examples" / "evalflow.py", *words[2:], *more]
    env = {**os.environ, "PYTHONPATH": str(SCRIPTED), **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)


def check_results(work: Path, names: list[str], judge: JudgeServer, done: subprocess.CompletedProcess[str]) -> None:
    """Every model was asked everything, and every answer was judged; no key is written anywhere."""
    assert done.returncode == 0, done.stderr
    for name in names:
        report = json.loads((work / name / "reports" / name / "simple_qa.json").read_text())
        assert report["judge_summary"]["valid_observations"] == QUESTIONS
        scores = {item["identity"]["name"]: item["score"] for item in report["metrics"]}
        assert scores["is_correct"] == 1.0
    assert len(judge.asked) == QUESTIONS * len(names)
    for path in work.rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert MODEL_KEY.encode() not in text, path
            assert JUDGE_KEY.encode() not in text, path


@pytest.mark.parametrize("names", [["NAME"], ["first", "second"]])
def test_a_model_that_is_deployed(names: list[str], judge: JudgeServer, backend: list[str], tmp_path: Path) -> None:
    line = (
        f"python evalflow.py --conda_env {sys.prefix} --work_dir {tmp_path / 'work'}"
        f" --eval_model_path {' '.join(f'/any/{name}' for name in names)} --eval_model_name {' '.join(names)}"
        f" --judge_model_name judge --judge_api_url {judge.url}/chat/completions --judge_api_key {JUDGE_KEY}"
    )
    engine = ["--deploy_backend", "scripted", "--extra_args=--answer hello", "--eval_max_model_length", "512"]
    done = run(line, *engine, *backend)
    check_results(tmp_path / "work", names, judge, done)
    record = json.loads((tmp_path / "work" / names[0] / "evalflow" / "run.json").read_text())
    assert record["command"][0].startswith(sys.prefix)
    assert record["state"] == "complete"


def test_a_model_that_llama_cpp_serves(judge: JudgeServer, backend: list[str], gguf: Path, tmp_path: Path) -> None:
    line = (
        f"python evalflow.py --conda_env {sys.prefix} --work_dir {tmp_path / 'work'} --eval_model_path {gguf}"
        f" --eval_model_name NAME --judge_model_name judge --judge_api_url {judge.url} --judge_api_key {JUDGE_KEY}"
    )
    sizes = ["--eval_max_model_length", "512", "--eval_max_new_tokens", "8", "--eval_max_num_seqs", "1"]
    check_results(tmp_path / "work", ["NAME"], judge, run(line, *sizes, *backend))


def test_with_lmdeploy_it_goes_as_far_as_lmdeploy_does_without_a_gpu(
    judge: JudgeServer, backend: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    line = (
        f"python evalflow.py --conda_env {environments.lmdeploy_env()} --work_dir {tmp_path / 'work'}"
        f" --eval_model_path {checkpoint} --eval_model_name NAME"
        f" --judge_model_name judge --judge_api_url {judge.url} --judge_api_key {JUDGE_KEY}"
    )
    done = run(line, "--deploy_backend", "lmdeploy", *backend)
    assert done.returncode == 1
    assert "LMDeploy needs a GPU and a CUDA build of PyTorch: Torch not compiled with CUDA enabled" in done.stderr
    assert JUDGE_KEY not in done.stderr
    record = json.loads((tmp_path / "work" / "NAME" / "evalflow" / "run.json").read_text())
    assert record["state"] == "failed"
    assert "--session-len" in record["command"]
    assert judge.asked == []


@pytest.mark.parametrize("names", [["NAME"], ["first", "second"]])
def test_an_api_behind_tls(names: list[str], judge: JudgeServer, backend: list[str], tmp_path: Path) -> None:
    """Each model has a server of its own; the second one's URL is in the other form."""
    authority = Authority(tmp_path)
    with contextlib.ExitStack() as stack:
        apis = [stack.enter_context(TlsServer(authority.context(), [name], MODEL_KEY)) for name in names]
        urls = [f"{api.url}{end}" for api, end in zip(apis, ["", "/chat/completions/"], strict=False)]
        line = (
            f"python evalflow.py --work_dir {tmp_path / 'work'} --deploy_backend remote"
            f" --remote_api_url {' '.join(urls)} --eval_model_name {' '.join(names)}"
            f" --judge_model_name judge --judge_api_url {judge.url} --judge_api_key {JUDGE_KEY}"
        )
        done = run(line, "--eval_api_key", MODEL_KEY, *backend, SSL_CERT_FILE=str(authority.file))
        for api, name in zip(apis, names, strict=True):
            assert [body["model"] for body in api.asked] == [name] * QUESTIONS
    check_results(tmp_path / "work", names, judge, done)


def test_an_api_that_is_not_trusted_is_told_before_anything_is_started(
    judge: JudgeServer, backend: list[str], tmp_path: Path
) -> None:
    with TlsServer(Authority(tmp_path).context(), ["NAME"], MODEL_KEY) as api:
        line = (
            f"python evalflow.py --work_dir {tmp_path / 'work'} --deploy_backend remote --remote_api_url {api.url}"
            f" --eval_model_name NAME"
            f" --judge_model_name judge --judge_api_url {judge.url} --judge_api_key {JUDGE_KEY}"
        )
        done = run(line, "--eval_api_key", MODEL_KEY, *backend)
    assert done.returncode == 2
    assert "certificate is not trusted" in done.stderr
    assert "SSL_CERT_FILE" in done.stderr
    assert not (tmp_path / "work").exists()


class TestDefaults:
    """The lines as they stand: VLMEvalKit and its six datasets, on small files of the tests' own."""

    @pytest.fixture
    def own_data(self, tmp_path: Path) -> dict[str, str]:
        folder = tmp_path / "LMUData"
        folder.mkdir()
        vlm_data.write_all(folder)
        return {"LMUData": str(folder)}

    @pytest.fixture
    def judge(self) -> Iterator[JudgeServer]:
        with JudgeServer() as server:
            # MathVerse's judge is asked twice: what the answer is, and whether that is right.
            server.reply = lambda number: "0" if "Judgement" in server.asked[number - 1] else "A"
            yield server

    def check(self, work: Path, judge: JudgeServer, done: subprocess.CompletedProcess[str]) -> None:
        assert done.returncode == 0, done.stderr
        assert judge.asked
        for name in vlm_data.NAMED:
            assert f" {name} " in done.stdout
            report = json.loads((work / "NAME" / "reports" / "NAME" / f"{name}.json").read_text())
            assert report["execution_summary"]["succeeded"] == vlm_data.ROWS[name]
        for path in work.rglob("*"):
            if path.is_file():
                assert JUDGE_KEY.encode() not in path.read_bytes(), path

    def test_a_model_that_is_deployed(
        self, judge: JudgeServer, own_data: dict[str, str], vlmeval_env: Path, tmp_path: Path
    ) -> None:
        line = (
            f"python evalflow.py --conda_env {sys.prefix} --work_dir {tmp_path / 'work'} --eval_model_path /any/NAME"
            f" --eval_model_name NAME --judge_model_name judge --judge_api_url {judge.url} --judge_api_key {JUDGE_KEY}"
        )
        engine = ["--deploy_backend", "scripted", "--extra_args=--answer unclear", "--verify_md5", "False"]
        done = run(line, *engine, python=vlmeval_env / "bin" / "python", **own_data)
        self.check(tmp_path / "work", judge, done)

    def test_an_api_behind_tls(
        self, judge: JudgeServer, own_data: dict[str, str], vlmeval_env: Path, tmp_path: Path
    ) -> None:
        authority = Authority(tmp_path)
        with TlsServer(authority.context(), ["NAME"], MODEL_KEY) as api:
            line = (
                f"python evalflow.py --work_dir {tmp_path / 'work'} --deploy_backend remote"
                f" --remote_api_url {api.url} --eval_model_name NAME"
                f" --judge_model_name judge --judge_api_url {judge.url} --judge_api_key {JUDGE_KEY}"
            )
            more = ["--eval_api_key", MODEL_KEY, "--verify_md5", "False"]
            python = vlmeval_env / "bin" / "python"
            done = run(line, *more, python=python, SSL_CERT_FILE=str(authority.file), **own_data)
        self.check(tmp_path / "work", judge, done)
