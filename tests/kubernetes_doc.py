"""Objects for Kubernetes in the docs: the fields of theirs that examples use, by the APIs' references.

Kubernetes drops a field that it does not know, or refuses it; either way an example with a misspelt one would not do
what it says. The sources: the references of `batch/v1` and `v1` on kubernetes.io, and of `ray.io/v1` in KubeRay's
ray-operator/config/crd/bases/ray.io_rayjobs.yaml.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, StringConstraints, model_validator
from typing_extensions import Self

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Quantity = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?(m|[KMGT]i?)?$")]


class Part(BaseModel):
    """A part of an object: of fields that are known, and of these types without conversion."""

    model_config = ConfigDict(extra="forbid", strict=True)


class KeyRef(Part):
    name: Name
    key: str


class ValueFrom(Part):
    secretKeyRef: KeyRef


class Env(Part):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    value: str | None = None
    valueFrom: ValueFrom | None = None


class Limits(RootModel[dict[Literal["cpu", "memory", "nvidia.com/gpu"], Quantity]]):
    pass


class Resources(Part):
    limits: Limits
    requests: Limits | None = None


class Mount(Part):
    name: Name
    mountPath: Annotated[str, StringConstraints(pattern="^/")]


class Container(Part):
    name: Name
    image: str
    command: list[str] = []
    env: list[Env] = []
    resources: Resources
    volumeMounts: list[Mount] = []


class Claim(Part):
    claimName: Name


class EmptyDir(Part):
    medium: Literal["", "Memory"]
    sizeLimit: Quantity


class Volume(Part):
    name: Name
    persistentVolumeClaim: Claim | None = None
    emptyDir: EmptyDir | None = None


class PodSpec(Part):
    containers: Annotated[list[Container], Field(min_length=1)]
    volumes: list[Volume] = []
    restartPolicy: Literal["Never", "OnFailure", "Always"] = "Always"

    @model_validator(mode="after")
    def _mounts_are_volumes(self) -> Self:
        mounted = {mount.name for container in self.containers for mount in container.volumeMounts}
        assert mounted == {volume.name for volume in self.volumes}
        return self


class Template(Part):
    spec: PodSpec


class Metadata(Part):
    name: Name


class JobSpec(Part):
    template: Template
    backoffLimit: int = 6

    @model_validator(mode="after")
    def _ends(self) -> Self:
        assert self.template.spec.restartPolicy in ("Never", "OnFailure")  # what a Job accepts
        return self


class Job(Part):
    apiVersion: Literal["batch/v1"]
    kind: Literal["Job"]
    metadata: Metadata
    spec: JobSpec


class HeadGroup(Part):
    rayStartParams: dict[str, str]
    template: Template


class WorkerGroup(HeadGroup):
    groupName: Name
    replicas: int
    minReplicas: int
    maxReplicas: int


class RayCluster(Part):
    rayVersion: str
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]

    @model_validator(mode="after")
    def _shares_one_volume(self) -> Self:
        """The same image, and every claim of the head's in the same place of each worker."""
        head, *workers = (group.template.spec.containers[0] for group in (self.headGroupSpec, *self.workerGroupSpecs))
        for worker in workers:
            assert worker.image == head.image
            assert all(mount in worker.volumeMounts for mount in head.volumeMounts)
        return self


class RayJobSpec(Part):
    entrypoint: str
    shutdownAfterJobFinishes: bool = False
    rayClusterSpec: RayCluster


class RayJob(Part):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


def entrypoint_of(data: Mapping[str, Any]) -> list[str]:
    """The command of an object that an example shows.

    Raises:
        ValidationError: it has a field or a value that Kubernetes or KubeRay does not know, or not in this place.
    """
    if data.get("kind") == "RayJob":
        return shlex.split(RayJob.model_validate(data).spec.entrypoint)
    return Job.model_validate(data).spec.template.spec.containers[0].command
