"""Every state file of a run folder says which version of its format it has; what 0.1 wrote has none and is read."""

import json

import pytest

from evalscope_evalflow.backends.native import benchmark_identity
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import Files
from evalscope_evalflow.events.schema import SCHEMA
from evalscope_evalflow.state import cells, failures, record
from evalscope_evalflow.worker.request_failures import Failures


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_file_says_its_version(tmp_path):
    record.Record(tmp_path, "run-1")
    cells.update(tmp_path, "a", requested=1)
    Failures(str(failures.path_in(tmp_path)), "c").add("a", "s", 1, "c", "timeout", True, "too slow")
    folder = tmp_path / "evalflow"
    benchmark_identity._write(folder / "benchmarks.json", {"a": {"version": 1}})
    Files(tmp_path, "m", "b").write(judged=3)
    said = [json.loads((folder / name).read_text())["schema"] for name in ("run.json", "cells.json", "benchmarks.json")]
    said += [line["schema"] for name in ("events.jsonl", "failures.jsonl") for line in lines(folder / name)]
    said.append(json.loads((folder / "vlmevalkit" / "b.json").read_text())["schema"])
    assert said == [SCHEMA] * 6


@pytest.mark.parametrize("old", [{"a": {"version": 1}}, {"schema": SCHEMA, "benchmarks": {"a": {"version": 1}}}])
def test_benchmarks_are_read_with_a_version_and_without(old, tmp_path):
    (tmp_path / "benchmarks.json").write_text(json.dumps(old))
    assert benchmark_identity._read(tmp_path / "benchmarks.json") == {"a": {"version": 1}}


@pytest.mark.parametrize("old", [{"a": {"requested": 3}}, {"schema": SCHEMA, "datasets": {"a": {"requested": 3}}}])
def test_cells_are_read_with_a_version_and_without(old, tmp_path):
    cells.path_in(tmp_path).parent.mkdir()
    cells.path_in(tmp_path).write_text(json.dumps(old))
    assert cells.read(tmp_path) == {"a": cells.Cell(requested=3)}
