"""Fixtures of the tests that need a Docker engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.docker import leftovers


@pytest.fixture
def client(docker_host: str) -> Iterator[Any]:
    """The SDK's client; when the test is over, the engine holds what it held before."""
    import docker

    client = docker.DockerClient(base_url=docker_host, timeout=60)
    before = leftovers(client)
    yield client
    after = leftovers(client)
    client.close()
    assert after == before
