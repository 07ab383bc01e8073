"""The fixtures of the tests for RabbitMQ."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from tests.support.rabbit_node import RabbitNode, rabbit_node


@pytest.fixture(scope="session")
def node() -> Generator[RabbitNode]:
    """A server of the tests' own, which they share."""
    with rabbit_node() as node:
        yield node
