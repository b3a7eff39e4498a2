"""Serving a model: processes that are never left behind, readiness, diagnosis, release."""

from evalscope_evalflow.serving.block import deploy
from evalscope_evalflow.serving.deployment import Deployment
from evalscope_evalflow.serving.endpoint import Endpoint
from evalscope_evalflow.serving.process import Guarded
from evalscope_evalflow.serving.registry import new_run_id
from evalscope_evalflow.serving.release import DeviceRelease, Release
from evalscope_evalflow.serving.remote import check_api
from evalscope_evalflow.serving.warm import release_kept
from evalscope_evalflow.serving.watch import Watch

__all__ = [
    "Deployment",
    "DeviceRelease",
    "Endpoint",
    "Guarded",
    "Release",
    "Watch",
    "check_api",
    "deploy",
    "new_run_id",
    "release_kept",
]
