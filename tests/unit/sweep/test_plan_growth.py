"""The cost of a plan grows with the number of models, and no faster: counted by the files that it opens."""

import io
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from evalscope_evalflow.config.task import Task
from evalscope_evalflow.sweep.show_plan import show_plan

_OPENED: Counter[str] | None = None


def _note(event, arguments):
    if event == "open" and _OPENED is not None and isinstance(arguments[0], str):
        _OPENED[arguments[0]] += 1


sys.addaudithook(_note)  # it cannot be removed; outside a count it does nothing


@pytest.fixture
def count(tmp_path, gguf_file, make_env):
    env = str(make_env())

    def opened(models: int) -> Counter[str]:
        """The files that the plan of a new sweep opens."""
        global _OPENED
        names = [f"m{number}" for number in range(models)]
        for name in names:
            shutil.copy(gguf_file, tmp_path / f"{name}.gguf")
        task = Task.parse(
            {
                "datasets": ["general_qa", "general_mcq", "gsm8k", "arc"],
                "work_dir": str(tmp_path / f"out{models}"),
                "evalflow": {
                    "backend": "Native",
                    "models": [{"name": name, "path": str(tmp_path / f"{name}.gguf")} for name in names],
                    "deploy": {"env": env},
                },
            }
        )
        _OPENED = Counter()
        try:
            show_plan(task, Console(file=io.StringIO()))
            return _OPENED
        finally:
            _OPENED = None

    opened(1)  # what is read once in a process
    return opened


def test_each_model_costs_the_same(count):
    few, more, most = (count(models).total() for models in (4, 8, 16))
    assert more - few > 0
    assert most - more == 2 * (more - few)


def test_packages_are_not_read_again(count):
    assert [path for path in count(4) if ".dist-info" in Path(path).parent.name] == []
