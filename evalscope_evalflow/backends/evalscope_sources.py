"""The places of EvalScope that the worker replaces or relies on, with the sources that were tested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evalscope_evalflow.backends.known_sources import Places, changed_places, shown
from evalscope_evalflow.errors import Problem

# By file and name: hashes of the source (`known_sources.source_hash`), with the versions of EvalScope that have it.
PLACES: Places = {
    "run.py:run_single_task": {"2d87c708acd0": "1.11.0 to 1.14.1"},
    "evaluation_versioning.py:build_evaluation_identity": {
        "1710d0bbfd15": "1.11.0",
        "6124e2d0bc4f": "1.11.1 to 1.14.1",
    },
    "evaluation_versioning.py:validate_cached_evaluation_identity": {
        "cf1deec86c3d": "1.11.0 to 1.14.0",
        "cddcc0756439": "1.14.1",
    },
    "evaluation_versioning.py:build_generated_evaluation_metadata": {
        "1a805cb4b652": "1.11.0",
        "c7dd6858b095": "1.11.1 to 1.14.0",
        "d324b68e16f1": "1.14.1",
    },
    "evaluator/evaluator.py:DefaultEvaluator.eval": {"cc6bb6b56d11": "1.11.0 to 1.14.0", "30c9ade1934f": "1.14.1"},
    "evaluator/evaluator.py:DefaultEvaluator._persist_result": {"807b449bed9e": "1.11.0 to 1.14.1"},
    "evaluator/evaluator.py:DefaultEvaluator._predict_sample": {"404035383356": "1.11.0 to 1.14.1"},
    "evaluator/evaluator.py:DefaultEvaluator._review_task_state": {"c990bd9850a8": "1.11.0 to 1.14.1"},
    "evaluator/evaluator.py:DefaultEvaluator._aggregate_scores": {
        "8a074094f317": "1.11.0 to 1.13.0",
        "e31fd5e8e9c2": "1.14.0",
        "63d11c3a92ec": "1.14.1",
    },
    "evaluator/evaluator.py:DefaultEvaluator.get_report": {
        "964e74db5709": "1.11.0",
        "98c06f2dc311": "1.11.1 to 1.14.1",
    },
    "evaluator/evaluator.py:DefaultEvaluator._collect_work_items": {"5606c13da3c6": "1.11.0 to 1.14.1"},
    "evaluator/evaluator.py:DefaultEvaluator._run_pool": {"fcf7dd0d6d62": "1.11.0", "8aaab9773e2c": "1.11.1 to 1.14.1"},
    "evaluator/evaluator.py:DefaultEvaluator._process_work_item": {
        "e80e2885142b": "1.11.0",
        "d52eb259310d": "1.11.1 to 1.14.1",
    },
    "evaluator/evaluator.py:DefaultEvaluator.finalize": {"bc0f3d99f127": "1.11.0 to 1.14.1"},
    "api/registry.py:create_evaluator": {"f2e62548838c": "1.11.0 to 1.14.1"},
    "api/model/model.py:get_model_with_task_config": {"3df996bb2d80": "1.11.0 to 1.14.1"},
    "api/model/model.py:Model.generate": {"50d1d23daac9": "1.11.0 to 1.14.1"},
    "api/model/model.py:Model.generate_async": {"34002eff7cdb": "1.11.0 to 1.14.1"},
    "api/mixin/llm_judge_mixin.py:LLMJudgeMixin.validate_judge_strategy": {"cd451a836bdf": "1.11.0 to 1.14.1"},
    "api/dataset/loader.py:LocalDataLoader.load": {
        "329448caa152": "1.11.0",
        "6da0189a7941": "1.11.1 to 1.12.0",
        "b05d569a2d75": "1.13.0",
        "82bc4299502e": "1.14.0 to 1.14.1",
    },
    "api/dataset/utils.py:data_to_samples": {"828e3e4dec4b": "1.11.0 to 1.14.1"},
    "metrics/judge/llm_judge.py:LLMJudge._init_server_adapter": {"7334651513f1": "1.11.0 to 1.14.1"},
    "metrics/judge/llm_judge.py:LLMJudge.generate": {"c3ff30ec754d": "1.11.0 to 1.14.1"},
    "models/openai_compatible.py:OpenAICompatibleAPI.generate": {
        "018eaee0a6f4": "1.11.0",
        "69e14a4b8957": "1.11.1 to 1.14.1",
    },
    "utils/function_utils.py:retry_call": {"fc02db4f727e": "1.11.0", "1e99a7a57754": "1.11.1 to 1.14.1"},
    "utils/function_utils.py:async_retry_call": {"c7958827e553": "1.11.0", "3b2084803cb6": "1.11.1 to 1.14.1"},
    "utils/io_utils.py:JsonlWriter": {"bce9a0ef8103": "1.11.0 to 1.14.1"},
}
VERSIONS = ("1.11.0", "1.11.1", "1.12.0", "1.13.0", "1.14.0", "1.14.1")


def source_problems(folder: Path) -> Iterator[Problem]:
    """Whether this EvalScope is one that the worker's patches were written for.

    Args:
        folder: of the `evalscope` package.
    """
    changed = changed_places(folder, PLACES) if (folder / "run.py").is_file() else []
    if changed:
        yield Problem(
            "worker_env",
            f"EvalScope in {folder.parent} is none of the versions that EvalFlow was written for: {shown(changed)} "
            "changed. Scores could be wrong",
            f"pip install evalscope=={VERSIONS[-1]} there; {VERSIONS[0]} to {VERSIONS[-1]} work.",
        )
