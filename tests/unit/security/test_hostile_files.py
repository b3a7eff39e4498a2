"""Hostile YAML, JSON, checkpoints, run folders and pictures: each is refused or read within bounds, and nothing of it
runs."""

import base64
import json
import os
import pickle
import resource
import struct
import sys
import time
import zlib

import made_up_run as made
import pytest

from evalscope_evalflow.backends.data_images import base64_problem, file_problem
from evalscope_evalflow.cli import command_line as cli
from evalscope_evalflow.config.task_file import read_mapping
from evalscope_evalflow.engines.checkpoints import checkpoint_folder, safetensors_headers, weight_family
from evalscope_evalflow.errors import ConfigError
from evalscope_evalflow.events import any_json

DEPTH = 100_000
DEEP = "[" * DEPTH + "]" * DEPTH
LESS_DEEP = '{"a":' * 400 + "1" + "}" * 400  # which Python's parser takes


class Trap:
    """What a pickle may hold: something that runs when it is read."""

    def __reduce__(self):
        return os.mkdir, (f"{os.getcwd()}/sprung",)


TAGS = [
    "!!python/object/apply:os.mkdir [sprung]", "!!python/object/new:os.mkdir [sprung]", "!!python/name:os.system ''",
    "!!python/module:os ''", "!!python/object:os.PathLike {}", "!!python/tuple [1]", "!unknown {}",
]  # fmt: skip


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_tags_make_no_object(tmp_path, monkeypatch, tag):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.yaml").write_text(f"model: {tag}\n")
    with pytest.raises(ConfigError, match="neither YAML nor JSON"):
        read_mapping(tmp_path / "task.yaml")
    assert not (tmp_path / "sprung").exists()


LISTS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
)
MERGES = "a: &a {k: v}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}\n"
    for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize("text", [LISTS, MERGES, "a: &a [*a]\n", "a: &a {b: *a}\n"], ids=["lists", "merges", "l", "m"])
def test_a_few_bytes_of_yaml_do_not_become_gigabytes(tmp_path, text):
    (tmp_path / "task.yaml").write_text(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.thread_time()
    with pytest.raises(ConfigError, match="aliases"):
        read_mapping(tmp_path / "task.yaml")
    assert cli.main(["check", str(tmp_path / "task.yaml")]) == 2
    assert time.thread_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_ordinary_anchors_are_read(tmp_path):
    (tmp_path / "task.yaml").write_text("base: &b {a: 1}\nother: {<<: *b, c: [*b, *b]}\n")
    assert read_mapping(tmp_path / "task.yaml")["other"] == {"a": 1, "c": [{"a": 1}, {"a": 1}]}


@pytest.mark.parametrize("text", [DEEP, LESS_DEEP, DEEP.encode(), '{"a": ' * DEPTH], ids=range(4))
def test_json_that_is_nested_too_deeply_is_no_json(text):
    with pytest.raises(ValueError, match=r"nested|Expecting"):
        any_json.loads(text)


def test_json_of_an_ordinary_depth_is_read():
    for depth in (1, 50, any_json.DEEPEST - 1):
        text = "[" * depth + "1" + "]" * depth
        assert any_json.loads(text) == json.loads(text)
    assert any_json.loads(json.dumps([{"a": [1, {"b": 2}]}] * 1000))[999] == {"a": [1, {"b": 2}]}


@pytest.mark.parametrize("text", [DEEP, LESS_DEEP], ids=["deep", "less-deep"])
def test_a_checkpoint_of_deep_json_is_told_as_damaged(tmp_path, text):
    for name in ("config.json", "adapter_config.json", "generation_config.json", safetensors_headers.INDEX):
        (tmp_path / name).write_text(text)
    assert checkpoint_folder.read_config(str(tmp_path)) is None
    assert checkpoint_folder.read_adapter(tmp_path) is None
    assert checkpoint_folder.context_length(str(tmp_path)) is None
    with pytest.raises(safetensors_headers.Damaged):
        safetensors_headers.files(tmp_path)
    with pytest.raises(ValueError, match="nested"):
        weight_family._read(tmp_path)
    (tmp_path / safetensors_headers.INDEX).unlink()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text.encode())
    with pytest.raises(safetensors_headers.Damaged):
        safetensors_headers.tensors(tmp_path)


def test_a_config_of_any_size_is_not_read_whole(tmp_path):
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(1 << 40)  # a sparse file takes no room
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert checkpoint_folder.read_config(str(tmp_path)) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * any_json.MOST_BYTES / 1024


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/../../x", 7])
def test_an_index_names_no_file_outside_of_its_checkpoint(tmp_path, name):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    index = {"weight_map": {"a": name if isinstance(name, int) else str(name)}}
    (folder / safetensors_headers.INDEX).write_text(json.dumps(index))
    with pytest.raises(safetensors_headers.Damaged, match="no file of this folder"):
        safetensors_headers.files(folder)


@pytest.mark.parametrize("words", ["show {0}", "show {0} --samples", "compare {0} {1}", "show {0} --export jsonl",
                                   "show {0} --format html --output {0}/report.html"])  # fmt: skip
def test_a_hostile_run_folder_is_read_without_unpickling_and_without_a_traceback(tmp_path, monkeypatch, capsys, words):
    """Pickles in every place, JSON that is too deep in every file."""
    monkeypatch.chdir(tmp_path)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        made.run(folder, [1, 0, 1, 1, 0, 1], model="m", dataset="d")
        made.record(folder, "m")
        for place in (folder, folder / "m", folder / "evalflow", folder / "predictions" / "m"):
            place.mkdir(exist_ok=True)
            for name in ("d.pkl", "m_d.pkl", "m_d_judge.pkl", "samples.pickle", "cache.pkl"):
                (place / name).write_bytes(pickle.dumps(Trap()))
        for path in folder.rglob("*.jsonl"):
            with path.open("a") as file:
                file.write(f"{DEEP}\n{LESS_DEEP}\n")
        for name in ("cells.json", "costs.json", "failures.jsonl", "costs.jsonl", "spending.jsonl", "answers.jsonl"):
            (folder / "evalflow" / name).write_text(f"{DEEP}\n{LESS_DEEP}\n")
    (folders[0] / "reports" / "m" / "d.json").write_text(DEEP)
    (folders[0] / "reports" / "m" / "e.json").write_text(LESS_DEEP)

    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    code = cli.main(words.format(*folders).split())
    assert code in (0, 1, 2, 3)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert not (tmp_path / "sprung").exists()


def png(width, height):
    """A picture whose pixels would take width × height × 4 bytes, in some KiB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compressobj(9)
    data = b"".join(packed.compress(b"\0" * (1 << 20)) for _ in range(64)) + packed.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_picture_is_looked_at_and_never_unpacked(tmp_path):
    bomb = png(60_000, 60_000)  # 14 GB of pixels
    assert len(bomb) < 200_000
    (tmp_path / "bomb.png").write_bytes(bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.thread_time()
    assert file_problem(tmp_path / "bomb.png") == ""
    assert base64_problem(base64.b64encode(bomb).decode()) == ""
    # Neither by its first bytes, so that Pillow is asked, which reads headers alone.
    odd = b"P6\n60000 60000\n255\n" + b"\0" * 100
    (tmp_path / "odd.ppm").write_bytes(odd)
    file_problem(tmp_path / "odd.ppm")
    assert time.thread_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_a_deep_row_of_data_is_told_with_its_line(tmp_path, capsys):
    data = tmp_path / "qa.jsonl"
    data.write_text(f'{{"query": "1+1?", "response": "2"}}\n{{"query": {DEEP}}}\n')
    task = {
        "datasets": ["general_qa"],
        "dataset_args": {"general_qa": {"local_path": str(tmp_path), "subset_list": ["qa"]}},
        "work_dir": str(tmp_path / "work"),
        "evalflow": {"models": [{"name": "m", "api_url": "http://127.0.0.1:9/v1"}]},
    }  # fmt: skip
    (tmp_path / "task.json").write_text(json.dumps(task))
    assert cli.main(["check", str(tmp_path / "task.json")]) == 2
    said = capsys.readouterr().err
    assert "nested" in said
    assert f"{data}" in said
    assert sys.getrecursionlimit() == 1000
