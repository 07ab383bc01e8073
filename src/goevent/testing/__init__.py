"""What tests need: a recorder, waiting until a bus is idle, and a suite for drivers."""

from ._conformance.suite import DriverConformance as DriverConformance
from ._recorder import Recorder as Recorder, Run as Run, record as record, wait_idle as wait_idle
