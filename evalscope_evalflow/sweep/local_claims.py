"""What a job may be given on this machine: its devices, by this machine's driver, or what stands for them."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from evalscope_evalflow.config.api_url import public_url
from evalscope_evalflow.devices.claims import Claim, claim
from evalscope_evalflow.devices.nvml import cached_reads
from evalscope_evalflow.engines import resolve_engine
from evalscope_evalflow.sweep.job import Job

AT_ONCE = 4  # models of one API, or with nothing to ask: each has a process that imports EvalScope


def claims_here(jobs: Iterable[Job]) -> list[Claim]:
    """The claim of each job, with one reading of the driver for all.

    Raises:
        ConfigError: a model fits nowhere.
    """
    with cached_reads():
        return [claim_here(job) for job in jobs]


def claim_here(job: Job) -> Claim:
    """The devices that a job may be given, or a place at its API, or among the models that are judged.

    Raises:
        ConfigError: it fits nowhere.
    """
    if not job.phases:
        return Claim()
    if not job.asks_model:
        return Claim(tuple(f"judging {number}" for number in range(AT_ONCE)), 1)
    model, deploy = job.model, job.deploy
    engine = resolve_engine(model, deploy)
    if not engine.local:
        api = urlsplit(public_url(model.api_url or "")).netloc
        return Claim(tuple(f"the API at {api} ({number + 1})" for number in range(AT_ONCE)), 1)
    return claim(engine, model, deploy)
