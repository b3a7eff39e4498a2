import json
import sys

import pytest

from evalscope_evalflow.config import catalog
from evalscope_evalflow.errors import ConfigError


@pytest.fixture
def other_evalscope(make_env):
    """An environment with an EvalScope of its own, as far as files go."""
    prefix = make_env("other")
    package = prefix / "lib" / "python3.12" / "site-packages" / "evalscope"
    (package / "benchmarks" / "_meta").mkdir(parents=True)
    (package / "benchmarks" / "_meta" / "from_meta.json").write_text("{}")
    (package / "benchmarks" / "_meta" / "_index.json").write_text("{}")
    (package / "benchmarks" / "_index.json").write_text(json.dumps({"from_index": {}}))
    (package / "config.py").write_text(
        "from nowhere import BaseModel\n\n"
        "class Other:\n    hidden: int = 0\n\n"
        "class TaskConfig(BaseModel):\n    model: str = ''\n    datasets: list = []\n    constant = 5\n"
    )
    return prefix


def test_the_installed_evalscope_is_read_without_importing_it():
    before = set(sys.modules)
    folder = catalog.evalscope_folder()
    assert {"general_qa", "gsm8k"} <= catalog.native_datasets(folder)
    assert {"datasets", "limit", "generation_config", "judge", "judge_model_args"} <= set(catalog.task_fields(folder))
    assert not {name for name in set(sys.modules) - before if name.startswith("evalscope.")}


def test_another_environments_evalscope_is_read_from_its_files(other_evalscope):
    folder = catalog.evalscope_folder(str(other_evalscope))
    assert folder.is_relative_to(other_evalscope)
    assert catalog.native_datasets(folder) == {"from_meta", "from_index"}
    assert catalog.task_fields(folder)[:2] == ("model", "datasets")
    assert "hidden" not in catalog.task_fields(folder)


def test_an_environment_without_evalscope_says_how_to_install_it(make_env):
    prefix = make_env()
    with pytest.raises(ConfigError) as caught:
        catalog.evalscope_folder(str(prefix))
    assert f"worker_env: EvalScope is not installed in {prefix}" in str(caught.value)
    assert "pip install 'evalscope" in str(caught.value)


def test_a_worker_environment_that_is_not_there_is_told(tmp_path):
    with pytest.raises(
        ConfigError, match=r"worker_env: no environment .*: there is no such folder\n    Give a conda prefix"
    ):
        catalog.evalscope_folder(str(tmp_path / "none"))
