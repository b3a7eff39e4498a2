"""The documents that commands print with `--json`, and what their fields mean.

docs/reference/json-output.md has its tables from `FIELDS`; a test holds each command's document against them. A field
that is renamed, removed or given another meaning takes a new version of the envelope.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from evalscope_evalflow.cli.comparison_fields import COMPARE, GATE
from evalscope_evalflow.cli.show_fields import SHOW
from evalscope_evalflow.results.json_output import error_of

if TYPE_CHECKING:
    from evalscope_evalflow.backends import DatasetResult
    from evalscope_evalflow.cli.doctor import Finding
    from evalscope_evalflow.processes.registry import Entry
    from evalscope_evalflow.results.outcome import FlowResult, ModelResult
    from evalscope_evalflow.run.purchase import Amount, Purchase
    from evalscope_evalflow.sweep.cluster.cluster_list import ListedJob
    from evalscope_evalflow.sweep.plan import ModelPlan, Plan

ENVELOPE = {
    "schema": "`evalflow.COMMAND/VERSION`; a field that is renamed, removed or means something else is a new version",
    "exit_code": "what the command ends with",
    "error": "null, or what ended the command; then the command's own fields are missing",
    "error.kind": "`ConfigError`, `EngineError`, `WorkerError`, `Stopped`, `EvalFlowError`, `KeyboardInterrupt`, or a "
    "Python exception that should not have been",
    "error.message": "it in words, as on standard error",
    "error.problems[].where": "of a wrong configuration: the setting, flag, file or line",
    "error.problems[].what": "what is wrong with it",
    "error.problems[].todo": "what to do about it; empty where that is plain",
}
# `[]` stands for the items of a list. What is in a field with "by name" has names of the user's own.
FIELDS: dict[str, dict[str, str]] = {
    "run": {
        "work_dir": "where the results are",
        "models[].name": "the model's name",
        "models[].folder": "its run folder",
        "models[].complete": "whether every score covers all of its samples",
        "models[].error": "null, or what ended this model: `kind`, `message` and `problems`, as in the envelope",
        "models[].left[]": "what of its engine could not be released, a line each",
        "models[].datasets[].dataset": "the dataset's name",
        "models[].datasets[].score.value": "the score of the table; null where there is none that could be trusted",
        "models[].datasets[].score.metric": "the name of its metric; empty where there is no report",
        "models[].datasets[].score.interval": "its interval of 95 %, as [low, high]; null where there is none",
        "models[].datasets[].score.n": "samples that the value covers",
        "models[].datasets[].score.requested": "samples that were to be answered",
        "models[].datasets[].score.answered": "samples that were answered",
        "models[].datasets[].score.failed": "samples without an answer, or that could not be scored",
        "models[].datasets[].score.judged": "samples with a verdict of the judge's own; null without a judge",
        "models[].datasets[].score.unjudged": "samples without a usable verdict; the value does not cover them",
        "models[].datasets[].score.cut_off": "answers that `max_tokens` cut off; the value covers them",
        "models[].datasets[].score.empty": "answers without any text; the value covers them",
        "models[].datasets[].score.complete": "whether the value covers every sample, each judged as it should be",
        "models[].datasets[].score.why_not": "why the value is missing or incomplete; else empty",
        "models[].datasets[].score.remarks[]": "what stands beside the value, such as answers of two engine versions",
        "models[].datasets[].metrics[].name": "a metric's name; the first is the table's",
        "models[].datasets[].metrics[].value": "its value, or null",
        "skipped": "why a match of a pattern was not evaluated, by name",
    },
    "check": {
        "backend": "the stock backend: `Native`, `VLMEvalKit` or a plug-in's",
        "executor": "what runs the models: `local`, or another executor's name",
        "datasets[]": "the task's datasets",
        "exporters[]": "what exports the results",
        "notes[]": "what is no obstacle, but should be known",
        "models[].name": "the model's name",
        "models[].folder": "its run folder",
        "models[].phases[]": "what would be run: `infer`, `judge`, both, or nothing where nothing is left to do",
        "models[].serving": "how it would be served; null where no engine is needed",
        "models[].serving.engine": "the engine's name",
        "models[].serving.url": "an API's address, without user and query; null for a local engine",
        "models[].serving.devices": "devices that it would be given; null: all that the engine finds",
        "models[].serving.command[]": "the engine's command, without keys; port 0 stands for one that is free",
        "models[].serving.turn": "when its turn comes, from 1; null where no other model waits",
        "models[].serving.notes[]": "more about its place, such as the memory that it needs",
        "models[].buys": "what the rest would ask for; null where nothing is left to do",
        "models[].buys.answers": "answers of the model: `number`, `exact`, and `unknown_for`: datasets not in it",
        "models[].buys.tokens": "their tokens, prompts included, by what earlier answers took; null: not known",
        "models[].buys.verdicts": "the judge's verdicts, likewise; null without a judge",
        "models[].budget[]": "how much of each budget is used, a line each",
        "models[].datasets[].dataset": "the dataset's name",
        "models[].datasets[].state": "`done`, `answered` (to be judged), `started` or `to do`",
        "models[].datasets[].answers": "answers that are saved",
        "models[].datasets[].failed_permanently": "samples that are not asked again",
        "models[].datasets[].change": "how the dataset differs from what is answered; empty where it does not",
        "models[].datasets[].remarks[]": "what is unusual about the saved answers",
        "engines[]": "which models use one engine, one after the other, and why others cannot, a line each",
        "schedule[].model": "whose turn; `judge NAME`: a judge that is deployed; none where other machines run them",
        "schedule[].devices[]": "on which devices, or what stands for them; empty: it is only judged",
        "schedule[].begins_s": "when it gets an engine, in seconds from the start, by estimates",
        "schedule[].answered_s": "when its last answer has come, likewise",
        "schedule[].ends_s": "when its answers are judged, likewise",
        "schedule[].engine_of": "the model whose engine it takes over; empty: it has one of its own",
    },
    "ps": {
        "runs[].run_id": "the run's id, for `evalflow stop` and `evalflow logs`",
        "runs[].model": "the model's name",
        "runs[].engine": "the engine's name",
        "runs[].api_url": "where it serves; empty while it loads",
        "runs[].devices": "its devices",
        "runs[].phase": "what it does: loading, evaluating, judging, …",
        "runs[].phase_since": "since when, in UTC",
        "runs[].progress": "how far its dataset is; null while nothing is counted",
        "runs[].progress.dataset": "the dataset that is answered, or judged",
        "runs[].progress.judging": "whether answers are judged; else the model is asked",
        "runs[].progress.done": "samples that are answered, or judged, those that were saved before included",
        "runs[].progress.total": "samples that are to be; null: nobody knows",
        "runs[].progress.failed": "samples that were tried in vain",
        "runs[].progress.new": "those of `done` that this run has added",
        "runs[].progress.number": "which of its datasets it is, from 1",
        "runs[].progress.datasets": "how many there are",
        "runs[].progress.answers_per_s": "answers, or verdicts, a second of late; null: not known yet",
        "runs[].progress.output_tokens_per_s": "tokens a second that were written, likewise",
        "runs[].progress.left_s": "seconds until this dataset is done, likewise",
        "runs[].since": "when the run began, in UTC",
        "runs[].state": "`running`, or `ending`: its owner died, and its guards clean up",
        "runs[].owner_pid": "the process that owns it",
        "runs[].work_dir": "its run folder; null where it has none",
        "cleaned[]": "what was cleaned up after runs that had died, a line each",
        "jobs[].id": "the scheduler's id of a cluster job",
        "jobs[].name": "its name, as the scheduler lists it",
        "jobs[].executor": "the executor that submitted it",
        "jobs[].models[]": "its models that are not answered yet",
        "jobs[].node": "the host that it runs on; empty while it is queued",
        "jobs[].model": "the model whose turn it is",
        "jobs[].phase": "`queued`, or what it does: loading, evaluating, …",
        "jobs[].since": "when it was queued, or began to run, in UTC",
        "jobs[].done": "samples of that model's dataset that are answered; null while nothing is counted",
        "jobs[].total": "samples that are to be; null: nobody knows",
        "jobs[].resubmitted": "how often it was lost and submitted again",
        "jobs[].followed_by": "host and PID of the process that follows it; empty: nobody does",
        "jobs[].work_dir": "the task's folder",
    },
    "doctor": {
        "findings[].state": "`ok`, `note` or `bad`; the exit code is 1 where one is bad",
        "findings[].what": "what was looked at",
        "findings[].found": "how it is",
        "findings[].todo": "what to do about it; else empty",
    },
    "show": SHOW,
    "compare": COMPARE,
    "gate": GATE,
}

FIELDS["watch"] = {**FIELDS["run"], "blocked": "whether the gate has had training stopped"}


def run_document(result: FlowResult) -> dict[str, Any]:
    """The results of a task."""
    return {
        "work_dir": result.task.work_dir,
        "models": [_model(item) for item in result.models],
        "skipped": result.skipped,
    }


def _model(item: ModelResult) -> dict[str, Any]:
    return {
        "name": item.model.name,
        "folder": item.folder,
        "complete": item.complete,
        "error": None if item.error is None else error_of(item.error),
        "left": item.left,
        "datasets": [_dataset(dataset) for dataset in item.datasets],
    }


def _dataset(found: DatasetResult) -> dict[str, Any]:
    score = found.score
    names = "value metric interval n requested answered failed judged unjudged cut_off empty complete why_not remarks"
    return {
        "dataset": found.dataset,
        "score": {name: getattr(score, name) for name in names.split()},
        "metrics": [{"name": metric.name, "value": found.value_of(metric)} for metric in found.metrics],
    }


def check_document(plan: Plan) -> dict[str, Any]:
    """What a task would do."""
    return {
        "backend": plan.backend,
        "executor": plan.executor,
        "datasets": plan.datasets,
        "exporters": plan.exporters,
        "notes": plan.notes,
        "models": [_planned(model) for model in plan.models],
        "engines": plan.engines,
        "schedule": plan.schedule,
    }


def _planned(model: ModelPlan) -> dict[str, Any]:
    serving = model.serving
    return {
        "name": model.name,
        "folder": model.folder,
        "phases": model.phases,
        "serving": None
        if serving is None
        else {
            "engine": serving.engine,
            "url": serving.url or None,
            "devices": serving.devices,
            "command": serving.command,
            "turn": serving.turn or None,
            "notes": serving.notes,
        },
        "buys": None if model.purchase is None else _buys(model.purchase),
        "budget": model.budget,
        "datasets": [
            {
                "dataset": cell.dataset,
                "state": cell.state,
                "answers": cell.answers,
                "failed_permanently": cell.permanent,
                "change": cell.change,
                "remarks": cell.remarks,
            }
            for cell in model.datasets
        ],
    }


def _buys(bought: Purchase) -> dict[str, Any]:
    return {
        "answers": _amount(bought.answers),
        "tokens": bought.tokens,
        "verdicts": None if bought.verdicts is None else _amount(bought.verdicts),
    }


def _amount(amount: Amount) -> dict[str, Any]:
    return {"number": amount.number, "exact": amount.exact, "unknown_for": amount.more}


def ps_document(entries: Iterable[Entry], cleaned: Iterable[object], jobs: Iterable[ListedJob] = ()) -> dict[str, Any]:
    """The runs of this user on this machine, and cluster jobs."""
    from datetime import datetime, timezone

    return {
        "runs": [
            {
                "run_id": entry.run_id,
                "model": entry.model,
                "engine": entry.engine,
                "api_url": entry.api_url,
                "devices": entry.devices,
                "phase": entry.phase,
                "progress": _progress(entry),
                "phase_since": datetime.fromtimestamp(entry.phase_since, timezone.utc),
                "since": datetime.fromtimestamp(entry.since, timezone.utc),
                "state": entry.state,
                "owner_pid": entry.owner.pid,
                "work_dir": entry.work_dir,
            }
            for entry in entries
        ],
        "cleaned": [str(item) for item in cleaned],
        "jobs": [
            {
                "id": job.written.id,
                "name": job.written.name,
                "executor": job.executor,
                "models": list(job.left),
                "node": job.node.host if job.node else "",
                "model": job.node.model if job.node else "",
                "phase": job.phase,
                "since": datetime.fromtimestamp(job.since, timezone.utc),
                "done": job.progress.done if job.progress else None,
                "total": job.progress.total if job.progress else None,
                "resubmitted": job.written.resubmitted,
                "followed_by": f"{job.submitter.host}:{job.submitter.pid}" if job.submitter else "",
                "work_dir": job.work_dir,
            }
            for job in jobs
        ],
    }


def _progress(entry: Entry) -> dict[str, Any] | None:
    from evalscope_evalflow.display.run_list import progress_of

    found = progress_of(entry)
    names = [name.rpartition(".")[2] for name in FIELDS["ps"] if name.startswith("runs[].progress.")]
    return None if found is None else {name: getattr(found, name) for name in names}


def doctor_document(findings: Iterable[Finding]) -> dict[str, Any]:
    """What `evalflow doctor` found."""
    return {"findings": list(findings)}
