"""EvalScope and VLMEvalKit are recognised by the source of what is patched."""

import shutil
from pathlib import Path

import evalscope
import pytest

from evalscope_evalflow.backends.evalscope_sources import PLACES, VERSIONS, source_problems
from evalscope_evalflow.backends.known_sources import changed_places, source_hash

HERE = Path(evalscope.__file__).parent


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def copy(tmp_path):
    """The files of this EvalScope that count."""
    for place in PLACES:
        file = place.partition(":")[0]
        (tmp_path / "evalscope" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / file, tmp_path / "evalscope" / file)
    return tmp_path / "evalscope"


def test_this_evalscope_is_known():
    assert changed_places(HERE, PLACES) == []
    assert list(source_problems(HERE)) == []


def test_every_version_that_is_named_is_in_the_table():
    assert all(known for known in PLACES.values())
    assert {"1.11.0", VERSIONS[-1]} <= {
        end for known in PLACES.values() for span in known.values() for end in span.split(" to ")
    }


def test_a_change_somewhere_else_is_none(copy):
    file = copy / "api" / "registry.py"
    file.write_text("import os\n\n\n" + file.read_text() + "\n\ndef more():\n    pass\n")
    assert list(source_problems(copy)) == []


@pytest.mark.parametrize("name", ["create_evaluator", "get_model_with_task_config"])
def test_another_source_is_refused_with_the_versions_that_work(copy, name):
    place = next(place for place in PLACES if place.endswith(f":{name}"))
    file = copy / place.partition(":")[0]
    assert list(source_problems(copy)) == []
    file.write_text(file.read_text().replace(f"def {name}(", f"def {name}_of_another_version(", 1))
    (problem,) = source_problems(copy)
    assert f"{place} changed" in problem.what
    assert "1.11.0 to 1.14.1 work" in problem.todo


def test_what_is_gone_has_changed(copy):
    (copy / "utils" / "io_utils.py").unlink()
    assert changed_places(copy, PLACES) == ["utils/io_utils.py:JsonlWriter"]
    assert source_hash(copy, "run.py:no_such_function") is None
