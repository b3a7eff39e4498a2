"""The cache of samples: as true as the files that it was made of."""

import os

import made_up_run as made
import pytest

from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.results import sample_cache
from evalscope_evalflow.results.run_folders import find_runs


@pytest.fixture
def folder(tmp_path):
    return made.run(tmp_path / "work", [1, 0, 0.5])


@pytest.fixture
def run(folder):
    return find_runs(folder)[0]


def made_anew(run, monkeypatch):
    """Whether samples have to be read from the files."""
    asked = []
    stock = sample_cache.samples
    monkeypatch.setattr(sample_cache, "samples", lambda run: asked.append(run) or stock(run))
    sample_cache.read(run, ["score"])
    return bool(asked)


def test_every_column(run):
    frame = sample_cache.read(run)
    assert list(frame.columns) == list(sample_cache.COLUMNS)
    assert frame["score"].tolist() == [1.0, 0.0, 0.5]
    assert frame["model"].tolist() == ["m"] * 3
    assert frame["answer"].tolist() == ["said 0", "said 1", "said 2"]
    assert frame["judged"].isna().all()
    assert frame["output_tokens"].sum() == 21


def test_the_second_look_reads_the_cache_and_only_some_columns(run, monkeypatch):
    sample_cache.read(run)
    assert not made_anew(run, monkeypatch)
    assert list(sample_cache.read(run, ["group", "score"]).columns) == ["group", "score"]


def test_changed_files_make_it_anew(run, folder, monkeypatch):
    sample_cache.read(run)
    path = folder / "reviews" / "m" / "d_s.jsonl"
    written = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace('"acc": 0.5', '"acc": 0.9'))
    os.utime(path, ns=(written + 1, written + 1))  # of the same size
    assert made_anew(run, monkeypatch)
    assert sample_cache.read(run)["score"].tolist() == [1.0, 0.0, 0.9]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 500 + b"PAR1", None])
def test_a_broken_cache_is_made_anew(run, folder, content):
    sample_cache.read(run)
    path = sample_cache.path_in(folder)
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    assert sample_cache.read(run)["score"].tolist() == [1.0, 0.0, 0.5]
    assert sample_cache.read(run, ["score"])["score"].tolist() == [1.0, 0.0, 0.5]


def test_a_folder_that_cannot_be_written_is_read(run, folder, monkeypatch):
    def refuse(table, path):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(sample_cache, "_write", refuse)
    assert len(sample_cache.read(run)) == 3
    assert not sample_cache.path_in(folder).exists()
    assert sorted(path.name for path in (folder / "evalflow").iterdir()) == ["run.json"]


def test_duplicates_are_numbered(tmp_path):
    rows = [made.answer(n, question="the same") for n in range(3)]
    made.lines(tmp_path / "predictions" / "m" / "d_s.jsonl", rows)
    made.record(tmp_path)
    frame = sample_cache.read(find_runs(tmp_path)[0])
    assert frame["occurrence"].tolist() == [0, 1, 2]
    assert frame["question"].nunique() == 1


def test_several_runs_in_one_table(tmp_path):
    made.run(tmp_path / "a", [1], model="a")
    made.run(tmp_path / "b", [0, 0], model="b")
    frame = sample_cache.read_all(find_runs(tmp_path), ["model", "score"])
    assert frame["run"].tolist() == ["a", "b", "b"]
    assert frame["model"].tolist() == ["a", "b", "b"]


def test_a_run_without_samples_is_an_empty_table(tmp_path):
    made.record(tmp_path)
    frame = sample_cache.read(find_runs(tmp_path)[0])
    assert len(frame) == 0
    assert frame["score"].dtype == "float64"


def test_a_column_that_there_is_not(run):
    with pytest.raises(ConfigError, match=r"no column 'scores'\n *Did you mean 'score'"):
        sample_cache.read(run, ["scores"])


def test_half_a_character_is_no_end(tmp_path):
    made.lines(tmp_path / "predictions" / "m" / "d_s.jsonl", [])
    (tmp_path / "predictions" / "m" / "d_s.jsonl").write_text(
        '{"index": 0, "messages": [{"role": "user", "content": "\\ud800 é"}]}\n'
    )
    made.record(tmp_path)
    assert sample_cache.read(find_runs(tmp_path)[0])["prompt"].tolist() == ["\\ud800 é"]
