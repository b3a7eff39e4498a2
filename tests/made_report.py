"""A report of made-up runs, with texts and names that would do harm if they were not escaped."""

from __future__ import annotations

from typing import Any

import pandas

from evalscope_evalflow.results.comparison.comparison_data import (
    Answer,
    CellComparison,
    CellScore,
    ComparedRun,
    Comparison,
    Difference,
    Flip,
    Kind,
    Verdict,
)
from evalscope_evalflow.results.html.page_data import CostLine, Page, RunFacts, ScoreLine, Settings
from evalscope_evalflow.results.html.sample_choice import Reader, embedded_samples
from evalscope_evalflow.results.html.score_plot import score_plots

HOSTILE = (
    "</script><script>window.harmed = 1</script><!--<script> <img src=x onerror='window.harmed = 2'>"
    "</pre></style><style>body{display:none}</style>{{ 7 * 7 }} &lt; \u2028\u2029 ]]>"
    " \"quoted\" 'too' javascript:alert(1) -->"
)
MODELS = ("base-model", "tuned-on-something-with-a-very-long-name/step-4000", "<script>window.harmed=3</script>")
DATASETS = ("gsm8k", "general_qa")
SAMPLES = 40
FAILED_AT, HOSTILE_AT, UNJUDGED_AT = 7, 5, 9


def rows(model: int, count: int = SAMPLES) -> list[dict[str, Any]]:
    """Samples of a model: each third is wrong; of each dataset one failed, one is not judged, and three are cut off."""
    made = []
    for dataset in DATASETS:
        for number in range(count):
            state = {FAILED_AT: "failed", UNJUDGED_AT: "unjudged"}.get(number, "scored")
            hostile = number == HOSTILE_AT
            made.append(
                {
                    "dataset": dataset, "subset": HOSTILE if hostile else "default", "sample": str(number), "repeat": 0,
                    "score": float(number % 3 != model % 3) if state == "scored" else None, "state": state,
                    "kinds": "cut_off" if number in (11, 12, 13) else "",
                    "prompt": HOSTILE if hostile else f"What is {number} plus {number}?",
                    "answer": None if state == "failed" else HOSTILE if hostile else f"It is {number + number}.",
                    "extracted": HOSTILE if hostile else str(number), "target": HOSTILE if hostile else str(2 * number),
                    "verdict": HOSTILE if hostile else None, "reason": HOSTILE if hostile else None,
                    "failure": "timeout: no answer in 600 s" if state == "failed" else None,
                    "input_tokens": 12, "output_tokens": 5, "latency_s": 1.5,
                }
            )  # fmt: skip
    return made


def reader(samples: list[dict[str, Any]]) -> Reader:
    """What reads them as a run's samples are read."""
    frame = pandas.DataFrame(samples, dtype=object)
    frame["wrong"] = [item["state"] == "scored" and item["score"] < 1 for item in samples]
    return lambda columns: frame if columns is None else frame[list(columns)]


def page() -> Page:
    """The page's data."""
    scores = [
        ScoreLine(
            model, dataset, "accuracy", 0.5 + number / 10, 0.35 + number / 10, 0.65 + number / 10,
            few_groups=dataset == "general_qa", n=38, requested=SAMPLES, failed=1, unjudged=1, cut_off=3,
            complete=dataset == "gsm8k", note="" if dataset == "gsm8k" else HOSTILE,
        )
        for number, model in enumerate(MODELS)
        for dataset in DATASETS
    ]  # fmt: skip
    parts = [
        ScoreLine(model, dataset, "accuracy", 0.25, n=20, part=part, kind="category")
        for model in MODELS
        for dataset in DATASETS
        for part in ("algebra", HOSTILE)
    ]
    runs = [
        RunFacts(
            model, model, f"outputs/{HOSTILE}", "complete", {"Engine": "llamacpp", "Note": HOSTILE},
            {"answering": 12.5}, {"evalscope": "1.14.1"}, f"server --model {HOSTILE}", "settings 1", [HOSTILE],
        )
        for model in MODELS
    ]  # fmt: skip
    samples = embedded_samples([(model, reader(rows(number))) for number, model in enumerate(MODELS)])
    settings = [Settings("settings 1", f'{{"limit": "{HOSTILE}"}}', MODELS)]
    costs = [
        CostLine(MODELS[0], "", 12_345, 678, 0, 40, 900, 61.5, "40% loading, 60% answering", 123.0, 0.5),
        CostLine(MODELS[0], "gsm8k", 2_345, 78, 0, 0, 0, 21.5, "", 43.0, 0.5),
        CostLine(MODELS[2], "", 345, 8, 0, 0, 0, 1.5),
    ]
    title, made = "3 models on 2 datasets", "Made by a test."
    return Page(title, made, runs, scores, scores[:1], parts, score_plots(scores), "", settings, costs, samples)


def comparison() -> Comparison:
    """A comparison of the models: better, worse, refused and too few."""
    base = MODELS[0]
    found: dict[str, Any] = {
        "pairs": 38, "expected": 40, "left_out": {"failed": 2}, "score": 0.6, "baseline_score": 0.5, "difference": 0.1,
        "low": -0.02, "high": 0.22, "p": 0.01, "p_adjusted": 0.04, "wins": 9, "losses": 5, "ties": 24, "groups": 38,
        "effective_groups": 38.0, "discordant_groups": 14, "method": "cr2", "smallest_difference": 0.17,
    }  # fmt: skip
    cells = (
        CellComparison(MODELS[1], base, "gsm8k", "accuracy", Verdict.ROSE, **found),
        CellComparison(MODELS[1], base, "general_qa", "accuracy", Verdict.FELL, **found),
        CellComparison(MODELS[2], base, "gsm8k", "accuracy", Verdict.TOO_FEW),
        CellComparison(
            MODELS[2], base, "general_qa", "accuracy", Verdict.REFUSED, refused=f"prompt differs: {HOSTILE}"
        ),
    )
    scores = tuple(
        CellScore(model, dataset, "accuracy", 0.5, 0.35, 0.65, 38, 40, 1, 1, 38, False, True)
        for model in MODELS
        for dataset in DATASETS
    )
    answers = Answer(base, "5", 1.0, HOSTILE, HOSTILE, HOSTILE, HOSTILE), Answer(MODELS[2], "5", 0.0, HOSTILE, HOSTILE)
    return Comparison(
        runs=tuple(ComparedRun(model, model, f"outputs/{model}", None if model == base else base) for model in MODELS),
        datasets=DATASETS,
        scores=scores,
        cells=cells,
        differences=(Difference(Kind.PROMPT, "prompt", HOSTILE, HOSTILE, MODELS[2], base, ("general_qa",)),),
        missing=(HOSTILE,),
        family=2,
        flips=(Flip("gsm8k", HOSTILE, 0, HOSTILE, HOSTILE, *answers),),
        flips_in_all=3,
    )
