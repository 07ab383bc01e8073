"""Helpers for tests: a recorder, a wait until a bus is idle, and a conformance suite for drivers.

The pytest plugin in `pytest_plugin` adds the fixtures `bus`, `bus_config` and `recorder`. This
package uses the public names of goevent, and three private hooks of the bus.
"""

from ..drivers.packaging import publish_names as _publish_names
from ._conformance.suite import DriverConformance as DriverConformance
from ._recorder import Recorder as Recorder, Run as Run, record as record, wait_idle as wait_idle

__all__ = [
    "DriverConformance",
    "Recorder",
    "Run",
    "record",
    "wait_idle",
]
_publish_names(globals())
