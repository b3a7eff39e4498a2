"""Cleans up after runs that died without their guards, and records in their folders that they died."""

from __future__ import annotations

from collections.abc import Callable

from evalscope_evalflow.processes import cleanup
from evalscope_evalflow.processes.cleanup import Cleaned
from evalscope_evalflow.state import record


def clean_up_dead_runs(wait_s: float = 0) -> list[Cleaned]:
    """Clean up, and write it down in the records of what died.

    Args:
        wait_s: seconds to wait for another process that cleans up at the same time.

    Raises:
        OSError: the registry cannot be read.
    """
    done = cleanup.clean(wait_s)
    for cleaned in done:
        if cleaned.entry.work_dir is not None:
            record.mark_dead(cleaned.entry.work_dir, cleaned.entry.run_id)
    return done


def clean_up_before(notify: Callable[[str], None]) -> None:
    """Clean up before a run. It must not fail the run.

    Args:
        notify: is called with a line for each thing that the user should know.
    """
    try:
        for cleaned in clean_up_dead_runs():
            if cleaned.ended or cleaned.left:  # what was no more than an entry or a folder concerns nobody here
                notify(f"cleaned up after another run: {cleaned}")
    except OSError as error:
        notify(f"`evalflow ps` will not show this run, as the list of runs cannot be written: {error}")
