"""`evalflow init --model --data`: every kind is recognised, and the file that is written passes `evalflow check`."""

import csv
import json

import pytest
import vlm_data

from evalscope_evalflow.backends import load_backend
from evalscope_evalflow.cli import command_line as cli
from evalscope_evalflow.config import catalog
from evalscope_evalflow.config.task import Task

CHOICE = {"question": "What is the capital of Greece?", "A": "Athens", "B": "Brussels", "answer": "A"}
PICTURE = "data:image/png;base64," + vlm_data.image(1)
ASKED = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
# (file, row, benchmark, subset)
DATA = [
    ("mine.jsonl", CHOICE, "general_mcq", "mine"),
    ("mine_val.jsonl", CHOICE, "general_mcq", "mine"),
    ("mine.csv", CHOICE, "general_mcq", "mine"),
    ("qa.jsonl", {"query": "Capital of Italy?", "response": "Rome"}, "general_qa", "qa"),
    ("qa.jsonl", {"question": "Capital of Italy?", "answer": "Rome"}, "general_qa", "qa"),
    ("qa.csv", {"question": "Capital of Italy?", "answer": "Rome"}, "general_qa", "qa"),
    (
        "chosen.jsonl",
        {"question": "What is on <image 1>?", "options": ["a cat", "a dog"], "image_1": PICTURE, "answer": "A"},
        "general_vmcq",
        "chosen",
    ),
    ("seen.jsonl", {"messages": [{"role": "user", "content": ASKED}], "answer": "a cat"}, "general_vqa", "seen"),
]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("LMUData", str(tmp_path / "LMUData"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)


def write(path, *rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def init(capsys, *words, code=0):
    assert cli.main(["init", "task.yaml", *map(str, words)]) == code
    said = capsys.readouterr()
    return said.out if code == 0 else said.err


def checked(capsys, env=None):
    """The plan that `check` prints of the file; `env`: where the engine is, which the tests have no real one of."""
    with open("task.yaml") as file:
        text = file.read()
    if env is not None:
        assert "    # env: null\n" in text
        text = text.replace("    # env: null\n", f"    env: {env}\n")
        with open("task.yaml", "w") as file:
            file.write(text)
    code = cli.main(["check", "task.yaml", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0, found["error"]
    return found


@pytest.mark.parametrize(
    ("name", "row", "dataset", "subset"), DATA, ids=[f"{name} {kind}" for name, _, kind, _ in DATA]
)
def test_every_kind_of_data_is_recognised_and_the_file_passes_check(
    name, row, dataset, subset, tmp_path, gguf_file, make_env, capsys
):
    data = write(tmp_path / name, row, row)
    said = init(capsys, "--model", gguf_file, "--data", data)
    assert f": {dataset}.\n" in said
    assert said.endswith("Wrote task.yaml.\nNext: evalflow check task.yaml\n      evalflow run task.yaml\n")
    assert checked(capsys, make_env())["datasets"] == [dataset]
    task = Task.load("task.yaml")
    assert task.stock["dataset_args"][dataset]["subset_list"] == [subset]
    assert task.work_dir.name == data.stem


def test_a_folder_of_files_is_several_subsets(tmp_path, gguf_file, make_env, capsys):
    folder = tmp_path / "questions"
    folder.mkdir()
    for name in ("a", "b"):
        write(folder / f"{name}.jsonl", {"query": "q", "response": "r"})
    init(capsys, "--model", gguf_file, "--data", folder)
    checked(capsys, make_env())
    assert Task.load("task.yaml").stock["dataset_args"]["general_qa"]["subset_list"] == ["a", "b"]


def test_vlmevalkits_file_is_linked_to_where_it_is_read_and_passes_the_checks_of_it(
    tmp_path, gguf_file, monkeypatch, capsys
):
    rows = [{"index": number, **CHOICE, "image": vlm_data.image(number)} for number in range(3)]
    data = write(tmp_path / "shapes.tsv", *rows)
    said = init(capsys, "--model", gguf_file, "--data", data)
    link = tmp_path / "LMUData" / "shapes.tsv"
    assert f"VLMEvalKit reads {link}, which is a link to it now." in said
    assert link.read_bytes() == data.read_bytes()
    task = Task.load("task.yaml")
    assert (task.flow.backend, task.datasets) == ("VLMEvalKit", ["shapes"])
    monkeypatch.setattr(catalog, "vlmevalkit_datasets", lambda env, ask=True: frozenset())
    assert list(load_backend("VLMEvalKit").check_data(task, pytest.fail)) == []


def test_another_file_of_that_name_in_vlmevalkits_folder_is_left_alone(tmp_path, gguf_file, capsys):
    (tmp_path / "LMUData").mkdir()
    (tmp_path / "LMUData" / "shapes.tsv").write_text("mine")
    data = write(tmp_path / "shapes.tsv", {"index": 0, **CHOICE, "image": vlm_data.image(0)})
    assert "has another" in init(capsys, "--model", gguf_file, "--data", data, code=2)
    assert (tmp_path / "LMUData" / "shapes.tsv").read_text() == "mine"
    assert not (tmp_path / "here" / "task.yaml").exists()


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "qa.jsonl", {"query": "q", "response": "r"})


def test_a_checkpoints_folder(data, checkpoint_folder, make_env, capsys):
    assert f"{checkpoint_folder} is a checkpoint's folder." in init(
        capsys, "--model", checkpoint_folder, "--data", data
    )
    [model] = checked(capsys, make_env())["models"]
    assert (model["name"], model["serving"]["engine"]) == (checkpoint_folder.name, "vllm")


def test_a_pattern_of_checkpoints(data, make_checkpoint, make_env, tmp_path, capsys):
    for step in (9, 10):
        make_checkpoint(f"step-{step}")
    assert "the checkpoints of a pattern" in init(capsys, "--model", tmp_path / "step-*", "--data", data)
    assert [model["name"] for model in checked(capsys, make_env())["models"]] == ["step-9", "step-10"]


def test_a_name_on_a_hub_that_is_in_the_cache(data, make_checkpoint, make_env, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    make_checkpoint("hub/models--org--model/snapshots/abc")
    said = init(capsys, "--model", "org/model", "--data", data)
    assert "org/model is a checkpoint's folder." in said
    assert Task.load("task.yaml").models[0].path == "org/model"
    assert checked(capsys, make_env())["models"][0]["name"] == "model"


def test_a_name_on_a_hub_that_is_not_there_says_how_to_fetch_it(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert "huggingface-cli download org/model" in init(capsys, "--model", "org/model", "--data", data)


def test_an_api_is_asked_for_its_models_name(data, api, capsys):
    assert f"{api.url} is an API." in init(capsys, "--model", api.url, "--data", data)
    [model] = checked(capsys)["models"]
    assert (model["name"], model["serving"]["engine"]) == ("m", "remote")


def test_of_an_api_with_several_models_one_has_to_be_named(data, api, capsys):
    api.models = ["small", "large"]
    assert "It has small, large. Add --name NAME." in init(capsys, "--model", api.url, "--data", data, code=2)
    init(capsys, "--model", api.url, "--name", "large", "--data", data)
    assert checked(capsys)["models"][0]["name"] == "large"


def test_an_api_elsewhere_takes_its_key_from_a_variable(data, monkeypatch, capsys):
    monkeypatch.delenv("API_KEY", raising=False)
    said = init(capsys, "--model", "https://api.example/v1", "--name", "gpt", "--data", data)
    assert "export API_KEY=…" in said
    monkeypatch.setenv("API_KEY", "sk-never-to-be-seen")
    [model] = Task.load("task.yaml").models
    assert (model.name, model.api_key) == ("gpt", "${API_KEY}")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--data", "none.jsonl"], "none.jsonl does not exist"),
        (["--data", "empty.jsonl"], "empty.jsonl has no rows"),
        (["--data", "other.jsonl"], "other.jsonl has answr, question, and response, the right answer to score against"),
        (["--data", "broken.jsonl"], "broken.jsonl:2"),
        (["--data", "notes.txt"], "notes.txt is of a kind that is not read here"),
        (["--data", "mixed"], "several kinds: a.jsonl: general_qa; b.jsonl: general_mcq"),
        (["--model", "none.gguf"], "none.gguf does not exist"),
        (["--model", "mixed"], "neither a GGUF file nor a folder with config.json"),
        (["--model", "http://127.0.0.1:9/v1"], "which model of http://127.0.0.1:9/v1?"),
        (["--name", "x"], "is the name of --model"),
    ],
)
def test_what_cannot_be_recognised_is_refused_and_nothing_is_written(words, why, tmp_path, capsys):
    here = tmp_path / "here"
    (here / "empty.jsonl").touch()
    (here / "notes.txt").write_text("x")
    write(here / "other.jsonl", {"question": "q", "answr": "b"})
    (here / "broken.jsonl").write_text('{"query": "q", "response": "r"}\n{"query": \n')
    (here / "mixed").mkdir()
    write(here / "mixed" / "a.jsonl", {"query": "q", "response": "r"})
    write(here / "mixed" / "b.jsonl", CHOICE)
    assert why in init(capsys, *words, code=2)
    assert not (here / "task.yaml").exists()


@pytest.mark.parametrize("words", [[], ["--model", "{gguf}"], ["--data", "{data}"]])
def test_what_is_left_to_write_is_said(words, gguf_file, data, capsys):
    said = init(capsys, *(word.format(gguf=gguf_file, data=data) for word in words))
    missing = {"--model": "datasets", "--data": "models"}.get(words[0] if words else "", "models and datasets")
    assert said.endswith(f"Next: write your {missing} into it, then: evalflow check task.yaml\n")
    assert Task.load("task.yaml").models


@pytest.mark.parametrize(("row", "missing"), [
    ({"query": "Capital of Italy?"}, "response"),
    ({"messages": [{"role": "user", "content": "Capital of Italy?"}]}, "answer"),
])  # fmt: skip
def test_questions_without_right_answers_are_told_what_is_missing(tmp_path, capsys, row, missing):
    said = init(capsys, "--data", write(tmp_path / "qa.jsonl", row), code=2)
    assert f"{missing}, the right answer to score against, is missing" in said
