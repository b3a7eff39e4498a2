"""What proves in vLLM's workers that all weights were replaced: faults one by one, with toys in place of vLLM.

The code runs by the interpreter of vLLM's environment, with its PyTorch; vLLM itself, whose import takes 20 s, is in
test_swapped_weights.py.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import environments
import pytest

from evalscope_evalflow.engines import base

pytestmark = pytest.mark.real
INSIDE = Path(base.__file__).with_name("inside")
# What the SwapError says; FOLDER is where the checkpoints are.
FAULTS = {
    "a_tensor_is_not_read": "they are in FOLDER/b, but were not read: norm.weight",
    "a_parameter_of_the_model_itself_is_not_read": "they are in FOLDER/b, but were not read: scale",
    "a_fused_tensor_is_not_read": "they are in FOLDER/b, but were not read: qkv_proj.weight",
    "a_shard_is_not_read": "they are in FOLDER/b, but were not read: sharded.weight",
    "a_tensor_that_has_another_name_in_the_file_is_not_read": (
        "they were not read, and may be in FOLDER/renamed-4 by other names: own.weight"
    ),
    "half_of_a_fused_tensor_is_read": "only a part of qkv_proj.weight was filled",
    "half_of_a_shard_is_read": "only a part of sharded.weight was filled",
    "half_of_a_packed_tensor_is_read": "only a part of down_proj.weight was filled",
    "all_columns_but_the_first_are_read": "they are in FOLDER/b, but were not read: embed.weight",
    "one_bit_is_wrong": "embed.weight is not what FOLDER/b holds",
    "one_bit_of_a_fused_tensor_is_wrong": "qkv_proj.weight is not what FOLDER/b holds",
    "one_bit_is_wrong_when_it_is_packed": "down_proj.weight is not what FOLDER/b holds",
    "it_is_never_packed": "weights were packed that nobody has read: down_proj.weight",
    "it_lies_elsewhere": "its tensors are at other places now, where recorded graphs do not look",
    "a_buffer_has_changed": "they are not in the checkpoint, but have changed: norm.ramp",
    "a_parameter_that_no_file_has_has_changed": "they are not in the checkpoint, but have changed: own.weight",
    "it_cannot_be_packed_again": "lm_head computes with what was packed before",
    "the_present_weights_read_again_are_others": "FOLDER/a, read again, is not what it was: sharded.weight",
    "weights_that_were_here_before_are_others": "FOLDER/a, which was here before, has another fingerprint now",
    "a_weight_that_cannot_be_marked": "weights are of a type that cannot be marked: odd",
    "a_weight_that_was_packed_unseen": "down_proj.weight is where it cannot be seen",
    "nothing_can_be_compared": "none of its tensors stands in FOLDER/a as it stands in the model",
}


@pytest.fixture(scope="module")
def came(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of each case."""
    folder = tmp_path_factory.mktemp("toy")
    python = environments.vllm_env() / "bin" / "python"
    script = Path(__file__).with_name("toy_of_vllm.py")
    done = subprocess.run([python, script, INSIDE, folder], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.replace(str(folder), "FOLDER"))
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(came: dict[str, Any], fault: str) -> None:
    assert came[fault] == FAULTS[fault]


def test_every_case_is_looked_at(came: dict[str, Any]) -> None:
    texts = {name for name, value in came.items() if isinstance(value, str)}
    assert texts == FAULTS.keys()
    assert [name for name, value in came.items() if isinstance(value, dict) and "error" in value] == [
        "the_file_is_torn"
    ]
    assert came["the_file_is_torn"]["error"].startswith("SafetensorError")


def test_a_good_swap_is_as_a_fresh_start(came: dict[str, Any]) -> None:
    found = came["a_good_swap"]
    assert (found["as a fresh start"], found["as before"]) == (True, False)
    assert found["materialize_layer is the real one again"] is True
    # own is not filled; sharded cannot be compared with the file as it stands there; norm.ramp is a buffer
    assert (found["tensors"], found["filled"], found["compared"]) == (8, 6, 5)
    assert 0 <= found["first_s"] <= found["proof_s"]
    assert came["the_fingerprint_is_that_of_a_fresh_start"] is True


def test_there_and_back_again(came: dict[str, Any]) -> None:
    assert came["there_and_back"] == {"pattern": [0, 1, 0, 1, 0], "as a fresh start": True}


def test_a_fingerprint_is_of_every_byte_and_its_place(came: dict[str, Any]) -> None:
    assert came["a_fingerprint_changes_with_every_byte"] == 0
    assert came["a_fingerprint_changes_where_two_words_change_places"] == 5
    assert came["a_fingerprint_is_of_the_values_however_they_lie"] == []
    assert came["a_fingerprint_of_more_than_one_chunk"] is True
