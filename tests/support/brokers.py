"""Missing brokers: their tests are skipped, or fail where brokers are required.

CI sets `GOEVENT_REQUIRE_BROKERS=1`, because a skip there would hide that nothing was tested.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it where brokers are required.

    Args:
        what: The reason.
    """
    if os.environ.get("GOEVENT_REQUIRE_BROKERS"):
        pytest.fail(f"a broker is required, and {what}")
    pytest.skip(what)
