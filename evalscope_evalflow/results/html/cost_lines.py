"""What runs have cost, for the report's table: each run, each of its datasets, and all of them."""

from __future__ import annotations

from collections.abc import Sequence

from evalscope_evalflow.results.html.page_data import CostLine
from evalscope_evalflow.results.run_folders import RunFolder
from evalscope_evalflow.state.costs import Cost, recorded_costs, sum_of


def cost_lines(runs: Sequence[tuple[str, RunFolder]], datasets: set[str] | None = None) -> list[CostLine]:
    """A line for each run and dataset that anything was spent on; the sum is last where there are several runs.

    Args:
        runs: each run's label, and the run.
        datasets: lines of these datasets alone; None: of all. A run's own line is the whole run's.
    """
    lines, totals = [], []
    for label, run in runs:
        cost = recorded_costs(run.folder, run.record)
        if cost.total == Cost():
            continue
        totals.append(cost.total)
        lines.append(_line(label, "", cost.total))
        cells = [(name, part) for name, part in cost.cells.items() if datasets is None or name in datasets]
        if len(cost.cells) > 1:
            lines += [_line(label, name, part) for name, part in cells]
    return [*lines, _line("", "", sum_of(totals))] if len(totals) > 1 else lines


def _line(run: str, dataset: str, cost: Cost) -> CostLine:
    return CostLine(
        run=run,
        dataset=dataset,
        tokens_in=cost.input_tokens,
        tokens_out=cost.output_tokens,
        tokens=0 if cost.input_tokens or cost.output_tokens else cost.tokens,
        judge_requests=cost.judge_requests,
        judge_tokens=cost.judge_input_tokens + cost.judge_output_tokens,
        held_s=cost.held_s,
        shares="" if dataset else ", ".join(f"{share:.0%} {name}" for name, share in cost.shares.items()),
        gpu_s=cost.gpu_s,
        utilisation=cost.utilisation,
    )
