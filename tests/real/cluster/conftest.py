"""One real Slurm for all tests of it in a run: it starts in a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from slurm_cluster import NODES, SlurmCluster


@pytest.fixture(scope="session")
def shared_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """The cluster."""
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def slurm(shared_slurm: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster, empty before a test and after it, with nothing left of any job."""
    yield shared_slurm
    for node in NODES:
        shared_slurm.bring_back(node)
    shared_slurm.wait_until_empty()
    left = [process.cmdline() for node in NODES for process in shared_slurm.processes(node)]
    assert left == []
