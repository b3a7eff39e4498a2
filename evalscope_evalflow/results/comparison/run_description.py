"""What has to be known of a run before its scores are compared: engine, versions, and what stands beside its scores."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from evalscope_evalflow.results.comparison.comparison_data import CellScore, ComparedRun, Difference, Kind

if TYPE_CHECKING:
    from evalscope_evalflow.results.comparison.chosen_runs import ChosenRun
    from evalscope_evalflow.results.run_folders import RunFolder


FINISHED = ("complete", "incomplete")  # ended by itself, and counted what is missing
_ENDED = {
    "running": "its last run has not finished",
    "died": "its last run was killed",
    "interrupted": "its last run was interrupted",
    "stopped": "its last run was stopped",
    "failed": "its last run failed",
}


def unfinished(state: str) -> str:
    """How a run's last run ended, where that was not by itself; empty where it was."""
    if state in FINISHED:
        return ""
    return _ENDED.get(state, "it has no record that can be read, so that nobody knows whether it is finished")


def described(chosen: ChosenRun, scores: Sequence[CellScore], datasets: Collection[str] | None = None) -> ComparedRun:
    """A run as a comparison shows it.

    Args:
        chosen: which run.
        scores: its own scores.
        datasets: the datasets to speak of; None: all.
    """
    run = chosen.run
    return ComparedRun(
        label=chosen.label,
        model=run.model,
        folder=str(run.folder),
        baseline=chosen.baseline,
        state=run.state,
        engine=engine_of(run),
        versions={str(name): str(version) for name, version in run.versions.items() if version},
        remarks=tuple(_remarks(run, scores, datasets)),
    )


def version_differences(run: ChosenRun, baseline: ChosenRun, datasets: tuple[str, ...]) -> Iterator[Difference]:
    """Versions of the engine, of EvalScope and of EvalFlow that differ; what is unknown differs from nothing.

    Args:
        run: a run.
        baseline: the one that it is compared with.
        datasets: what the versions are about.
    """

    def made(kind: Kind, name: str, was: str, now: str) -> Difference:
        return Difference(kind, name, was, now, run.label, baseline.label, datasets)

    now, was = engine_of(run.run), engine_of(baseline.run)
    if now and was and now != was and now.partition(" ")[0] == was.partition(" ")[0]:  # another engine is a setting
        yield made(Kind.ENGINE, "engine version", was, now)
    versions, before = run.run.versions, baseline.run.versions
    for name in sorted({*versions, *before} - {run.run.engine, baseline.run.engine}):
        is_now, was_before = versions.get(name), before.get(name)
        if is_now and was_before and is_now != was_before:
            yield made(Kind.VERSION, name, was_before, is_now)


def engine_of(run: RunFolder) -> str:
    """The engine and its version, such as `vllm 0.32.0`; all of them, where answers come from several."""
    found = []
    for batch in run.answers_from:
        name = batch.get("engine") or run.engine
        if batch.get("version") and name:
            found.append(f"{name} {batch['version']}")
    if not found and run.engine:
        found.append(" ".join(filter(None, (run.engine, run.versions.get(run.engine)))))
    return " and ".join(dict.fromkeys(found))


def _remarks(run: RunFolder, scores: Sequence[CellScore], datasets: Collection[str] | None) -> Iterator[str]:
    how = unfinished(run.state)
    if how:
        yield f"{how}: samples may be missing"
    for name, cell in run.cells.items():
        if datasets is not None and name not in datasets:
            continue
        said = run.scores[name].remarks if name in run.scores else ()
        for remark in said:
            yield f"{name}: {remark}"
        if cell.accepted and not said:
            yield f"{name}: saved answers of other settings are used, as accepted: {'; '.join(cell.accepted)}"
        if cell.assumed:
            yield f"{name}: not recorded, and taken to be as it was later: {', '.join(cell.assumed)}"
    for score in scores:
        yield from _of_score(score)


def _of_score(score: CellScore) -> Iterator[str]:
    if score.reported is not None and score.value is not None:
        yield (
            f"{score.dataset}: {score.metric} is {score.reported:.4f} in the run's own table; here it is "
            f"{score.value:.4f}, the mean of its samples"
        )
