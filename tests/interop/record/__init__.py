"""Builds and runs networks in other simulators, in their environment; see `__main__`."""
