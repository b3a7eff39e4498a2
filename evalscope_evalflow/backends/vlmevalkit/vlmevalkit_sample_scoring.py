"""What VLMEvalKit has decided on each sample, kept by the worker when it has scored a dataset."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_files import Files
from evalscope_evalflow.backends.vlmevalkit.vlmevalkit_samples_files import write


def keep_samples(files: Files, data: Any, answers: Mapping[str, str], load: Callable[[str], Any] | None) -> None:
    """Write down what became of each sample. No score depends on it, so a table of another form ends nothing.

    Args:
        files: the dataset's files.
        data: its samples as a DataFrame.
        answers: what was answered, by index as text.
        load: VLMEvalKit's own; None: nothing is scored yet, and tables that are there are on other answers.
    """
    try:
        write(files, data, answers, load, _row_check(files.dataset))
    except Exception:  # noqa: BLE001 - tables of a dataset's own form
        traceback.print_exc()


def _row_check(dataset: str) -> Callable[[Any], bool] | None:
    """VLMEvalKit's own check of a line, for the datasets whose tables hold no score."""
    if dataset.startswith("MathVista"):
        from vlmeval.dataset.utils.mathvista import post_check
    elif dataset.startswith("MathVision"):
        from vlmeval.dataset.utils.mathv import post_check
    else:
        return None
    return lambda line: bool(post_check(line, prefetch=False))
