"""What tests of an application need: a recorder, and waiting until a bus is idle."""

from ._recorder import Recorder as Recorder, Run as Run, record as record, wait_idle as wait_idle
