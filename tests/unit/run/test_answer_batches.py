"""Where answers come from is recorded batch by batch, and told where it differs."""

import pytest

from evalscope_evalflow.config.task import Task
from evalscope_evalflow.events.engine_events import EngineStarting
from evalscope_evalflow.run.answer_batches import BatchesSubscriber, batch_facts, remarks, with_batch
from evalscope_evalflow.run.context import Run
from evalscope_evalflow.run.control import Control
from evalscope_evalflow.state import cells
from evalscope_evalflow.state.cells import Cell

OLD = {"engine": "vllm", "version": "0.32.0", "gpus": ["NVIDIA A100"], "tensor_parallel": 2, "max_num_seqs": 200}
NEW = {**OLD, "version": "0.33.0", "gpus": ["NVIDIA H100"], "tensor_parallel": 1}


def test_batches_that_added_nothing_or_are_alike_are_one():
    batches = with_batch([], OLD, 0)
    assert with_batch(batches, NEW, 0) == [{"from": 0, **NEW}]
    assert with_batch(batches, OLD, 5) == [{"from": 0, **OLD}]
    assert with_batch(batches, NEW, 5) == [{"from": 0, **OLD}, {"from": 5, **NEW}]


def test_what_differs_between_batches_is_told():
    cell = Cell(batches=[{"from": 0, **OLD}, {"from": 5, **NEW}])
    assert remarks(cell, 9) == [
        "answers from vllm 0.32.0 and 0.33.0",
        "answers on NVIDIA A100 and H100",
        "answers with tensor_parallel 2 and 1",
    ]
    assert remarks(cell, 5) == [], "the second has added none"
    assert remarks(Cell(), 5) == []


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ({"engine": "vllm", "version": None}, {"engine": "vllm"}, "answers from vllm of an unknown version and 1"),
        ({"engine": "vllm", "version": "1"}, {"engine": "sglang", "version": "1"}, "answers from vllm 1 and sglang 1"),
        ({"options": {}}, {"options": {"--block-size": ["32"]}}, "answers with no such option and --block-size 32"),
        ({"max_num_seqs": 4}, {"max_num_seqs": 8}, "answers with max_num_seqs 4 and 8"),
        ({}, {"data_parallel": 2}, "answers with data_parallel 1 and 2"),
    ],
)
def test_each_kind_has_its_words(one, other, says):
    same = {"engine": "e", "version": "1"}
    assert remarks(Cell(batches=[{"from": 0, **same, **one}, {"from": 1, **same, **other}]), 2) == [says]


def test_accepted_differences_are_told():
    said = remarks(Cell(accepted=["limit was 1 and is 2", "seed was 1 and is 2"]), 3)
    assert said == ["saved answers of other settings are used, as accepted: limit was 1 and is 2; seed was 1 and is 2"]


def test_an_engines_start_is_written_down_for_what_is_still_to_be_answered(tmp_path):
    section = {"backend": "Native", "deploy": {"engine": "vllm", "extra_args": ["--block-size=32", "--dtype", "half"]}}
    task = Task.parse(
        {"model": str(tmp_path / "m"), "datasets": ["arc", "gsm8k"], "work_dir": str(tmp_path / "out"),
         "evalflow": section}
    )  # fmt: skip
    run = Run(task, task.models[0], Control())
    event = EngineStarting("vllm", "0.33.0", True, "log", [], {"tensor_parallel": 2})
    (task.work_dir / "evalflow").mkdir(parents=True)
    predictions = task.work_dir / "predictions" / "m" / "arc_s.jsonl"
    predictions.parent.mkdir(parents=True)
    predictions.write_text('{"index": 0}\n')
    cells.update(task.work_dir, "arc", requested=1)
    BatchesSubscriber(run).on_event(event)
    found = cells.read(task.work_dir)
    assert found["arc"].batches is None
    facts = {"engine": "vllm", "version": "0.33.0", "tensor_parallel": 2, "max_num_seqs": 200,
             "options": {"--block-size": ["32"]}}  # fmt: skip
    assert batch_facts(run, event) == facts
    assert found["gsm8k"].batches == [{"from": 0, **facts}]
