"""What tests of an application need: a recorder, and waiting until a bus is idle."""

from ._recorder import Recorder as Recorder
from ._recorder import Run as Run
from ._recorder import record as record
from ._recorder import wait_idle as wait_idle
