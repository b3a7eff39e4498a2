"""Serving a model: processes that are never left behind, readiness, diagnosis, release."""

from evalscope_evalflow.processes.registry import new_run_id
from evalscope_evalflow.processes.supervised import SupervisedProcess
from evalscope_evalflow.serving.deploy_block import deploy
from evalscope_evalflow.serving.deployment import Deployment
from evalscope_evalflow.serving.endpoint import Endpoint
from evalscope_evalflow.serving.health import Hang, Symptom, Unhealthy, Watch
from evalscope_evalflow.serving.release import DeviceRelease, Release
from evalscope_evalflow.serving.remote_api import check_api
from evalscope_evalflow.serving.warm_pool import release_kept

__all__ = [
    "Deployment",
    "DeviceRelease",
    "Endpoint",
    "Hang",
    "Release",
    "SupervisedProcess",
    "Symptom",
    "Unhealthy",
    "Watch",
    "check_api",
    "deploy",
    "new_run_id",
    "release_kept",
]
