"""Task files for the command."""

import json

import pytest


@pytest.fixture
def make_task_file(tmp_path, gguf_file, make_env):
    """Writes a task that could be run, if its environment were more than a folder; a test may add to its section."""

    def make(**section):
        task = {
            "datasets": ["general_qa"],
            "work_dir": str(tmp_path / "results"),
            "evalflow": {
                "backend": "Native",
                "models": [{"name": "tiny", "path": str(gguf_file)}],
                "deploy": {"env": str(make_env()), "port": 8123},
                **section,
            },
        }
        path = tmp_path / "task.json"
        path.write_text(json.dumps(task))
        return path

    return make


@pytest.fixture
def task_file(make_task_file):
    """Such a task as it is."""
    return make_task_file()
