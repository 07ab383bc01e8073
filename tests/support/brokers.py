"""Brokers that tests need: without one its tests are skipped, or fail where it is required.

`GOEVENT_REQUIRE_BROKERS=1` is for CI, where a skip would hide that nothing was tested.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip the test for want of a broker; fail it where brokers are required."""
    if os.environ.get("GOEVENT_REQUIRE_BROKERS"):
        pytest.fail(f"a broker is required, and {what}")
    pytest.skip(what)
