"""Settings of hypothesis for the tests of the core: the machine may be slow, so no example has a deadline."""

from hypothesis import settings

settings.register_profile("asman", deadline=None)
settings.load_profile("asman")
