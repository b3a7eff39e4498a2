"""The exporter `wandb`: a Weights & Biases run for each model, or one for a series of checkpoints."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from evalscope_evalflow.config.install_hint import install_command
from evalscope_evalflow.config.keys import mask_text
from evalscope_evalflow.config.plugin_options import PluginOptions
from evalscope_evalflow.config.user_paths import user_path
from evalscope_evalflow.errors import EvalFlowError, Problem
from evalscope_evalflow.results.exporters.base import Exporter
from evalscope_evalflow.results.exporters.exported_results import ExportedResults
from evalscope_evalflow.results.exporters.tracked_runs import TrackedRun, tracked_runs

MODE_VARIABLE, FOLDER_VARIABLE, KEY_VARIABLE = "WANDB_MODE", "WANDB_DIR", "WANDB_API_KEY"
_PUBLIC_HOST = "https://api.wandb.ai"


class WandbExporter(Exporter):
    """Writes scores, intervals and settings as W&B runs; offline runs are files that `wandb sync` uploads later."""

    name = "wandb"
    interface_version = 1

    class Options(PluginOptions):
        project: str = Field("evalflow", min_length=1, description="the project's name")
        entity: str | None = Field(None, description="the user or team; default: W&B's own")
        mode: Literal["online", "offline"] | None = Field(
            None, description="offline: files for `wandb sync`; default: WANDB_MODE, or else online"
        )

    options: Options

    @property
    def mode(self) -> str:
        """`online`, `offline`, or another of W&B's."""
        return self.options.mode or os.environ.get(MODE_VARIABLE) or "online"

    def check(self, where: str) -> Iterable[Problem]:
        if find_spec("wandb") is None:
            yield Problem(where, "the exporter wandb needs wandb, which is not installed", install_command("wandb"))
        elif self.mode == "online" and not _has_key():
            yield Problem(
                where,
                "the exporter wandb has no key",
                f"Set {KEY_VARIABLE}, run `wandb login`, or choose mode: offline.",
            )

    def export(self, result: ExportedResults, folder: Path) -> str:
        ours = "wandb" not in sys.modules  # else the caller's own session lives on
        try:
            import wandb

            place = Path(os.environ.get(FOLDER_VARIABLE) or result.work_dir)
            place.mkdir(parents=True, exist_ok=True)
            found = tracked_runs(result)
            try:
                for run in found:
                    self._write(wandb, run, result.work_dir.resolve(), place)
            finally:
                if ours:
                    wandb.teardown()
        except Exception as error:  # noqa: BLE001 - whatever it is, it may hold the key
            text = str(error) or type(error).__name__
            raise EvalFlowError(mask_text(text, [os.environ.get(KEY_VARIABLE, "")])) from None
        sync = f"; upload: wandb sync {place / 'wandb'}/offline-run-*" if self.mode == "offline" else ""
        return f"{len(found)} {self.mode} run(s) of project {self.options.project!r}{sync}"

    def _write(self, wandb: Any, run: TrackedRun, work_dir: Path, place: Path) -> None:
        settings = wandb.Settings(
            mode=self.mode,
            silent=True,
            console="off",
            # The program's arguments, code and machine are no part of the results, and an argument may be a key.
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
        )
        made = wandb.init(
            project=self.options.project,
            entity=self.options.entity,
            name=run.name,
            group=work_dir.name or None,
            dir=str(place),
            config={**run.settings, "evalflow.folder": str(work_dir)},
            settings=settings,
            reinit="create_new",  # a run of the caller's own goes on
        )
        with made:
            for point in run.points:
                if point.metrics:
                    made.log(point.metrics, step=point.step)
            made.summary["evalflow.missing"] = [
                [point.model, dataset, why] for point in run.points for dataset, why in point.missing
            ]
            if run.failed:
                made.finish(exit_code=1)


def _has_key() -> bool:
    """Whether W&B will find a key without asking for one: in its variable, or where `wandb login` puts it."""
    if os.environ.get(KEY_VARIABLE):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or _PUBLIC_HOST).hostname or ""
    path = user_path(os.environ.get("NETRC") or "~/.netrc")
    try:
        return netrc(str(path)).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False
