"""What holds for all tests."""

from hypothesis import settings

# A machine that is busy is no defect.
settings.register_profile("goevent", deadline=None)
settings.load_profile("goevent")
