"""One cluster for all tests of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ray_cluster import TwoNodes, two_nodes


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[TwoNodes]:
    """Two nodes with two pretended GPUs each."""
    with two_nodes() as nodes:
        yield nodes
