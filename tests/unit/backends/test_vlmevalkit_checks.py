"""What of a task VLMEvalKit's backend refuses before a start, and the stock task that it makes; without VLMEvalKit."""

from __future__ import annotations

import dataclasses
import json
import shutil
import ssl
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from evalscope_evalflow.backends.known_sources import source_hash
from evalscope_evalflow.backends.vlmevalkit import vlmevalkit_data, vlmevalkit_sources
from evalscope_evalflow.backends.vlmevalkit import vlmevalkit_worker as worker
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_backend import VLMEvalKit
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_client import base_url
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import model_type
from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.config.task import Task
from evalscope_evalflow.events.worker_requests import StartTask

JUDGE = {"models": [{"model_id": "j", "api_url": "http://127.0.0.1:1/v1"}]}


@pytest.fixture
def worker_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that has the packages, as far as folders tell; of VLMEvalKit's source, one place is known."""
    packages = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    for name in ("evalscope", "vlmeval"):
        (packages / name).mkdir(parents=True)
    for name, version in (("transformers", "4.57.1"), ("pandas", "2.3.0"), ("ms_vlmeval", "9.9.9")):
        folder = packages / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name.replace('_', '-')}\nVersion: {version}\n")
    (packages / "vlmeval" / "run.py").write_text("def main():\n    return 1\n")
    known = source_hash(packages / "vlmeval", "run.py:main")
    monkeypatch.setattr(vlmevalkit_sources, "PLACES", {"run.py:main": {known: "9.9.9"}})
    (tmp_path / "env" / "bin").mkdir()
    (tmp_path / "env" / "bin" / "python").symlink_to("/bin/true")
    return tmp_path / "env"


def problems(env: Path, **fields: Any) -> dict[str, str]:
    section = fields.pop("evalflow", {})
    data = {"model": "/m", "datasets": ["MathVision"], "judge": JUDGE, **fields}
    task = Task.parse({**data, "evalflow": {"worker_env": str(env), **section}})
    return {item.where: str(item) for item in VLMEvalKit().check(task)}


class TestCheck:
    def test_nothing_is_wrong(self, worker_env: Path) -> None:
        assert problems(worker_env, limit=3) == {}

    @pytest.mark.parametrize(
        ("fields", "where"),
        [
            ({"limit": 0.5}, "limit"),
            ({"limit": 0}, "limit"),
            ({"repeats": 2}, "repeats"),
            ({"dataset_args": {"MathVision": {"a": 1}}}, "dataset_args"),
            ({"judge": {**JUDGE, "repeats": 2}}, "judge.repeats"),
            ({"judge": {**JUDGE, "contract": {"system_prompt": "x"}}}, "judge.contract"),
            ({"judge": {"models": [*JUDGE["models"], {"model_id": "k", "api_url": "http://b"}]}}, "judge.models"),
            ({"judge": {**JUDGE, "strategy": "rule"}}, "judge.strategy"),
            ({"judge": {}}, "judge"),
        ],
    )
    def test_what_it_cannot_do_is_told(self, worker_env: Path, fields: dict[str, Any], where: str) -> None:
        assert list(problems(worker_env, **fields)) == [where]

    @pytest.mark.parametrize("name", ["DocVQA_TEST", "MMBench_TEST_EN_V11", "MMT-Bench_ALL_MI"])
    def test_splits_whose_right_answers_are_secret_are_only_asked(self, worker_env: Path, name: str) -> None:
        file = worker_env / f"{name}.tsv"
        file.touch()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LMUData", str(worker_env))
            assert "mode: infer" in problems(worker_env, datasets=[name])["datasets"]
            assert problems(worker_env, datasets=[name], judge={}, evalflow={"mode": "infer"}) == {}

    def test_answers_alone_take_no_judge(self, worker_env: Path) -> None:
        assert problems(worker_env, judge={}, evalflow={"mode": "infer"}) == {}

    def test_it_has_to_be_installed(self, worker_env: Path) -> None:
        shutil.rmtree(next(worker_env.glob("lib/python3*/site-packages/vlmeval")))
        assert "[vlmeval]" in problems(worker_env)["worker_env"]

    def test_another_source_than_it_was_written_for_is_refused(self, worker_env: Path) -> None:
        run = next(worker_env.glob("lib/python3*/site-packages/vlmeval/run.py"))
        run.write_text(f"import os\n\n\n{run.read_text()}")
        assert problems(worker_env) == {}
        run.write_text("def main():\n    return 2\n")
        said = problems(worker_env)["worker_env"]
        assert "ms-vlmeval 9.9.9" in said
        assert "run.py:main changed. Scores could be wrong" in said
        assert "0.0.19, 0.0.20 work" in said
        run.unlink()
        assert "run.py:main changed" in problems(worker_env)["worker_env"]

    def test_packages_that_break_it_are_refused(self, worker_env: Path) -> None:
        metadata = next(worker_env.glob("lib/python3*/site-packages/transformers-*/METADATA"))
        metadata.write_text("Name: transformers\nVersion: 5.0.0\n")
        metadata.parent.rename(metadata.parent.with_name("transformers-5.0.0.dist-info"))
        assert "transformers is 5.0.0, and it needs < 5" in problems(worker_env)["worker_env"]

    def test_the_data_folder_has_to_be_there(self, worker_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LMUData", str(worker_env / "nowhere"))
        assert "does not exist" in problems(worker_env)["LMUData"]

    def test_a_file_of_ones_own_is_a_dataset(self, worker_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LMUData", str(worker_env))
        (worker_env / "mine.tsv").touch()
        assert problems(worker_env, datasets=["mine", "WeMath"]) == {}


@pytest.mark.parametrize(
    ("versions", "why"),
    [
        ({"transformers": "4.57.1", "pandas": "2.3.3"}, None),
        ({"transformers": "5.0.0", "pandas": "2.3.3"}, "transformers is 5.0.0, and it needs < 5"),
        ({"transformers": "4.57.1", "pandas": "3.1.1"}, "pandas is 3.1.1, and it needs < 3"),
        ({"transformers": "5.1", "pandas": "3.1.1"}, "transformers is 5.1, and it needs < 5; pandas is 3.1.1"),
        ({"pandas": "2.3.3"}, "transformers is missing"),
    ],
)
def test_an_environment_with_versions_that_do_not_fit_is_named_with_them(
    versions: dict[str, str], why: str | None, worker_env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Environment, "version_of", lambda self, name: versions.get(name))
    found = list(VLMEvalKit().check_installed(str(worker_env)))
    assert len(found) == (why is not None)
    for problem in found:
        assert why
        assert why in problem.what
        assert "'transformers<5' 'pandas<3'" in problem.todo


def test_no_key_is_in_the_stock_task(worker_env: Path) -> None:
    judge = {"models": [{**JUDGE["models"][0], "api_key": "sk-secret"}]}
    task = Task.parse({"model": "/m", "datasets": ["WeMath"], "judge": judge, "evalflow": {}})
    assert "sk-secret" not in json.dumps(VLMEvalKit().stock_task(task, task.models[0], 7))


def test_stock_fields_mean_what_they_mean_elsewhere() -> None:
    generation = {"max_tokens": 7, "temperature": 0.5, "retries": 1}
    data = {"model": "/m", "datasets": ["WeMath"], "judge": JUDGE, "generation_config": generation, "limit": 3}
    task = Task.parse({**data, "eval_batch_size": 5, "evalflow": {"judge_max_num_seqs": 6}})
    request = VLMEvalKit().start_task(task, task.models[0], ["infer", "judge"], 200)
    assert (request.stock_task["eval_config"]["nproc"], request.judge_batch_size) == (5, 6)
    settings = request.settings
    assert (settings["limit"], settings["generation_config"], settings["judge"]) == (3, generation, JUDGE["models"][0])
    unsaid = Task.parse({**data, "evalflow": {}})
    assert VLMEvalKit().stock_task(unsaid, unsaid.models[0], 200)["eval_config"]["nproc"] == 200


def test_names_and_urls() -> None:
    assert model_type("org/Qwen2.5-VL:7b") == "Qwen2_5-VL-7b"
    assert base_url("http://a/v1/") == base_url("http://a/v1/chat/completions") == "http://a/v1"


def test_tls_is_what_it_was_when_vlmevalkit_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops the whole process from looking at certificates."""
    package = tmp_path / "vlmeval"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "run.py").write_text("import ssl\nssl._create_default_https_context = ssl._create_unverified_context\n")
    (package / "dataset.py").write_text("SUPPORTED_DATASETS = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("vlmeval", "vlmeval.run", "vlmeval.dataset"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(worker, "retry_only_what_is_transient", lambda: None)
    monkeypatch.setattr(vlmevalkit_data, "give_latex_comparison", lambda: None)
    monkeypatch.setattr(worker.VLMEvalKitWorker, "_patch", lambda self: None)
    verified = ssl._create_default_https_context
    request = StartTask("", ["infer"], {"work_dir": str(tmp_path)}, str(tmp_path / "failures.jsonl"), "")
    request = dataclasses.replace(request, settings={"model": "m", "datasets": []})
    worker.VLMEvalKitWorker(request, cast(Any, SimpleNamespace(emit=print))).prepare()
    assert "vlmeval.run" in sys.modules
    assert ssl._create_default_https_context is verified
    for name in ("vlmeval", "vlmeval.run", "vlmeval.dataset"):
        monkeypatch.delitem(sys.modules, name)
