"""The exporter `mlflow`: a run for each model in an MLflow tracking store, or one for a series of checkpoints."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import Field

from evalscope_evalflow.config.api_url import public_url
from evalscope_evalflow.config.install_hint import install_command
from evalscope_evalflow.config.keys import mask_text
from evalscope_evalflow.config.plugin_options import PluginOptions
from evalscope_evalflow.errors import EvalFlowError, Problem
from evalscope_evalflow.results.exporters.base import Exporter
from evalscope_evalflow.results.exporters.exported_results import ExportedResults
from evalscope_evalflow.results.exporters.tracked_runs import TrackedRun, tracked_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"
FOLDER_TAG = "evalflow.folder"
MISSING_TAG = "evalflow.missing"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_MOST_AT_ONCE = 1000  # metrics of one request; params and tags: 100
_LONGEST_VALUE = 500  # characters of a param, as older servers take them


class MlflowExporter(Exporter):
    """Writes scores, intervals and settings into an MLflow store. The same folder again replaces its earlier runs."""

    name = "mlflow"
    interface_version = 1

    class Options(PluginOptions):
        tracking_uri: str | None = Field(
            None,
            description="the store; default: MLFLOW_TRACKING_URI, or else sqlite:///WORK_DIR/mlflow.db. A user and a "
            "password belong in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
        experiment: str = Field("evalflow", min_length=1, description="the experiment's name; it is made if need be")

    options: Options

    def check(self, where: str) -> Iterable[Problem]:
        given = self.options.tracking_uri
        if given and urlsplit(given).password:
            yield Problem(
                f"{where}.tracking_uri",
                "holds a password, which would be written down with the task",
                f"Put it in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the address in {URI_VARIABLE}.",
            )
        uri = given or os.environ.get(URI_VARIABLE) or "sqlite:"
        needed = ["mlflow", *(["sqlalchemy", "alembic"] if uri.startswith(_DATABASES) else [])]
        if missing := [name for name in needed if find_spec(name) is None]:
            yield Problem(
                where, f"the exporter mlflow needs {', '.join(missing)}, not installed", install_command("mlflow")
            )

    def export(self, result: ExportedResults, folder: Path) -> str:
        # Nothing of a user's evaluation is reported to anybody that the user did not name.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        uri = self.options.tracking_uri or os.environ.get(URI_VARIABLE)
        local = f"sqlite:///{result.work_dir.resolve()}/mlflow.db"
        try:
            with _quiet_logs():
                number = self._export(uri or local, result)
        except Exception as error:  # noqa: BLE001 - whatever it is, it may name the store with its password
            raise EvalFlowError(_without_secrets(str(error) or type(error).__name__, uri)) from None
        return f"{number} run(s) in experiment {self.options.experiment!r} of {_shown(uri or local)}"

    def _export(self, uri: str, result: ExportedResults) -> int:
        from mlflow import MlflowClient
        from mlflow.entities import ViewType

        client = MlflowClient(tracking_uri=uri)
        experiment = self._experiment(client, result.work_dir)
        # Of this machine: another one may have a folder of the same path.
        owner = f"{platform.node()}:{result.work_dir.resolve()}"
        before = list(_runs_of(client, experiment, owner, ViewType.ACTIVE_ONLY))
        found = tracked_runs(result)
        for run in found:
            _write(client, experiment, owner, run)
        for run_id in before:  # MLflow keeps them among its deleted runs
            client.delete_run(run_id)
        return len(found)

    def _experiment(self, client: MlflowClient, work_dir: Path) -> str:
        known = client.get_experiment_by_name(self.options.experiment)
        if known is not None:
            return str(known.experiment_id)
        return str(client.create_experiment(self.options.experiment, artifact_location=self._artifacts(work_dir)))

    def _artifacts(self, work_dir: Path) -> str | None:
        """Where a new experiment of a store in `work_dir` keeps files; MLflow would take the current folder."""
        own = not (self.options.tracking_uri or os.environ.get(URI_VARIABLE))
        return (work_dir.resolve() / "mlartifacts").as_uri() if own else None


def _runs_of(client: MlflowClient, experiment: str, owner: str, view: int) -> Iterator[str]:
    """The ids of the runs that an earlier export of this folder has made."""
    token = None
    while True:
        page = client.search_runs([experiment], "", run_view_type=view, max_results=1000, page_token=token)
        yield from (run.info.run_id for run in page if run.data.tags.get(FOLDER_TAG) == owner)
        token = page.token
        if not token:
            return


def _write(client: MlflowClient, experiment: str, owner: str, run: TrackedRun) -> None:
    from mlflow.entities import Metric, Param, RunTag

    made = client.create_run(experiment, run_name=run.name, tags={FOLDER_TAG: owner}).info.run_id
    now = int(time.time() * 1000)
    metrics = [
        Metric(name, value, now, point.step or 0) for point in run.points for name, value in point.metrics.items()
    ]
    params = [Param(name[:250], str(value)[:_LONGEST_VALUE]) for name, value in run.settings.items()]
    missing = [(point.model, *item) for point in run.points for item in point.missing]
    tags = [
        RunTag(f"{MISSING_TAG}.{number}", json.dumps([model, dataset, why[:300]], ensure_ascii=False))
        for number, (model, dataset, why) in enumerate(missing)
    ]
    for batch in _batches(metrics, _MOST_AT_ONCE):
        client.log_batch(made, metrics=batch)
    for batch in _batches(params, 100):
        client.log_batch(made, params=batch)
    for batch in _batches(tags, 100):
        client.log_batch(made, tags=batch)
    client.set_terminated(made, "FAILED" if run.failed else "FINISHED")


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    yield from (items[start : start + size] for start in range(0, len(items), size))


class _quiet_logs:
    """MLflow announces each table that it makes in a new database."""

    _NAMES = ("mlflow", "alembic")

    def __enter__(self) -> None:
        import mlflow  # noqa: F401 - sets the levels of its loggers

        self._before = [logging.getLogger(name).level for name in self._NAMES]
        for name in self._NAMES:
            logging.getLogger(name).setLevel(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        for name, level in zip(self._NAMES, self._before, strict=True):
            logging.getLogger(name).setLevel(level)


def _without_secrets(text: str, uri: str | None) -> str:
    names = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    known = [os.environ.get(name, "") for name in names]
    return mask_text(text, [*known, (urlsplit(uri).password or "") if uri else ""])


def _shown(uri: str) -> str:
    """The store's address without user and query."""
    return public_url(uri) if "://" in uri and not uri.startswith("sqlite:") else uri
