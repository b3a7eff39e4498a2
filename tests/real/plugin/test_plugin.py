"""What the plugin does to a stock EvalScope: nothing, until it is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evalscope_evalflow import Endpoint

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Code in a fresh interpreter of this environment."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=120,
        check=False,
    )


OURS = "import sys; print(sorted(n for n in sys.modules if 'evalflow' in n), file=sys.stderr)"


def test_interpreter_start_imports_nothing_of_ours() -> None:
    assert python(OURS).stderr.strip() == "[]"
    finders = "import sys; print([f.__name__ for f in sys.meta_path if isinstance(f, type)])"
    assert "EvalFlowFinder" in python(finders).stdout
    assert "EvalFlowFinder" not in python(f"import evalscope; {finders}").stdout


def test_disabled_nothing_of_ours_is_imported_beyond_the_shim() -> None:
    done = python(f"import evalscope; {OURS}", EVALFLOW_DISABLE="1")
    assert done.stderr.strip().splitlines()[-1] == "['evalscope_evalflow_startup']"


def test_importing_evalscope_adds_the_seams_alone() -> None:
    assert python(f"import evalscope; {OURS}").stderr.strip().splitlines()[-1] == str(
        ["evalscope_evalflow", "evalscope_evalflow.plugin", "evalscope_evalflow.plugin.seams",
         "evalscope_evalflow_startup"]
    )  # fmt: skip


def test_an_error_of_ours_does_not_break_evalscope_and_is_told() -> None:
    broken = "import sys; sys.modules['evalscope_evalflow.plugin.seams'] = None"
    done = python(f"{broken}; import evalscope; from evalscope.run import run_task; print('imported')")
    assert done.returncode == 0, done.stderr
    assert "imported" in done.stdout
    assert "EvalFlow could not attach to EvalScope" in done.stderr


@pytest.mark.parametrize("disabled", ["", "1"])
def test_the_command_offers_evalflow_unless_disabled(disabled: str) -> None:
    done = subprocess.run(
        [BIN / "evalscope", "eval", "--help"],
        capture_output=True, text=True, timeout=120, check=True, env={**os.environ, "EVALFLOW_DISABLE": disabled},
    )  # fmt: skip
    assert ("--evalflow" in done.stdout) == (not disabled)
    assert ("RAGEval,evalflow" in done.stdout) == (not disabled)


def test_an_early_import_of_run_task_works_and_so_does_a_late_import_of_the_package() -> None:
    code = (
        "from evalscope.run import run_task; import evalscope_evalflow\n"
        "from evalscope.config import TaskConfig\n"
        "config = TaskConfig(model='x', datasets=['general_qa'], evalflow={'backend': 'Native'})\n"
        "print(config.eval_backend, config.eval_config['backend'], config.eval_type)"
    )
    done = python(code)
    assert done.stdout.split()[-3:] == ["evalflow", "Native", "openai_api"], done.stderr
    explicit = python("import sys; sys.path_importer_cache.clear()\n" + code)
    assert explicit.returncode == 0, explicit.stderr


def test_spawned_children_are_attached(tmp_path: Path) -> None:
    code = (
        "import multiprocessing as mp\n"
        "def child(queue):\n"
        "    from evalscope.config import TaskConfig\n"
        "    queue.put(TaskConfig(model='x', evalflow={'backend': 'Native'}).eval_backend)\n"
        "if __name__ == '__main__':\n"
        "    context = mp.get_context('spawn'); queue = context.Queue()\n"
        "    process = context.Process(target=child, args=(queue,)); process.start()\n"
        "    print(queue.get(timeout=60)); process.join()\n"
    )
    script = tmp_path / "spawn.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split()[-1:] == ["evalflow"], done.stderr


def test_a_task_survives_copies_pickling_and_its_own_yaml(tmp_path: Path) -> None:
    code = (
        "import copy, pickle, yaml; from evalscope.config import TaskConfig\n"
        "S = {'deploy': {'api_key': '${K}', 'devices': [0, 1]}}\n"
        "c = TaskConfig(model='x', datasets=['general_qa'], evalflow=S)\n"
        f"c.dump_yaml({str(tmp_path)!r})\n"
        f"d = yaml.safe_load(open({str(tmp_path / 'task_config.yaml')!r}))\n"
        "assert d['eval_config']['deploy']['api_key'] == '${K}', d['eval_config']\n"
        "for other in (copy.deepcopy(c), pickle.loads(pickle.dumps(c)), TaskConfig.from_dict(d)):\n"
        "    assert other.eval_config['deploy']['devices'] == '0,1' and other.eval_backend == 'evalflow'\n"
        "n = TaskConfig(model='x', datasets=['general_qa'])\n"
        "assert 'evalflow' not in n.to_dict() and n.eval_config is None\n"
        "print('fine')"
    )
    done = python(code)
    assert done.stdout.split()[-1:] == ["fine"], done.stderr


def test_anybodys_backend_may_attach(tmp_path: Path) -> None:
    info = tmp_path / "other_backend-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-backend\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[evalscope.backends]\nother = other_backend:run\nbroken = nowhere:run\n")
    (tmp_path / "other_backend.py").write_text(
        "def run(task_config, run_stock):\n"
        "    return {'asked': task_config.datasets, 'with': task_config.eval_config}\n"
        "run.add_arguments = lambda parser: parser.add_argument('--other-option', default=None)\n"
    )
    code = (
        "from evalscope.run import run_task\n"
        "print(run_task({'model': 'x', 'datasets': ['d'], 'eval_backend': 'other', 'eval_config': {'a': 1}}))\n"
        "try: run_task({'model': 'x', 'datasets': ['d'], 'eval_backend': 'broken'})\n"
        "except RuntimeError as error: print(error)"
    )
    done = python(code, PYTHONPATH=str(tmp_path))
    assert "{'asked': ['d'], 'with': {'a': 1}}" in done.stdout, done.stderr
    assert "backend 'broken' cannot be loaded from nowhere:run" in done.stdout
    shown = subprocess.run(
        [BIN / "evalscope", "eval", "--help"],
        capture_output=True, text=True, timeout=120, check=True, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert "--other-option" in shown.stdout
    assert "backend 'broken' cannot be loaded" in shown.stderr


def test_stock_tasks_are_what_they_were(llamacpp: Endpoint, data: Path, tmp_path: Path) -> None:
    """Same files, same report, same exit codes, with the plugin and without."""
    outcomes = {}
    for disabled in ("0", "1"):
        for datasets in ("general_mcq", "no_such_benchmark"):
            work = tmp_path / disabled / datasets
            done = subprocess.run(
                [BIN / "evalscope", "eval", "--model", llamacpp.model, "--api-url", llamacpp.api_url,
                 "--api-key", llamacpp.api_key, "--eval-type", "openai_api", "--datasets", datasets,
                 "--dataset-args", json.dumps({"general_mcq": {"local_path": str(data), "subset_list": ["tiny"]}}),
                 "--limit", "3", "--generation-config", '{"max_tokens": 4, "temperature": 0.0}',
                 "--eval-batch-size", "1", "--work-dir", work, "--no-timestamp"],
                capture_output=True, text=True, timeout=300, check=False,
                env={**os.environ, "EVALFLOW_DISABLE": disabled},
            )  # fmt: skip
            outcomes[disabled, datasets] = (done.returncode, _files(work), _report(work), _config(work))
    for datasets in ("general_mcq", "no_such_benchmark"):
        assert outcomes["0", datasets] == outcomes["1", datasets]
    assert outcomes["0", "general_mcq"][0] == 0
    assert outcomes["0", "general_mcq"][2]["num"] == 3
    assert outcomes["0", "no_such_benchmark"][0] != 0


def _files(work: Path) -> list[str]:
    return sorted(str(path.relative_to(work)) for path in work.glob("**/*") if path.is_file())


def _report(work: Path) -> dict[str, Any]:
    for path in work.glob("reports/*/*.json"):
        report: dict[str, Any] = json.loads(path.read_text())
        report.pop("perf_metrics")  # times
        return report
    return {}


def _config(work: Path) -> str:
    found = work / "configs" / "task_config.yaml"
    return found.read_text().replace(str(work), "WORK") if found.exists() else ""
