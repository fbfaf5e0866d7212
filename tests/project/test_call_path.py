"""A call of a network stays easy to follow: few files, few Python calls, few moves between files."""

from __future__ import annotations

import pytest

from benchmarks.call_path import counts, measured
from neurocuda.ops import backends

LIMITS = {
    "first call, cpu": (8, 250, 20),
    "replayed call, cpu": (3, 10, 5),
    "first call, simulated cuda": (11, 250, 34),
    "replayed call, simulated cuda": (3, 10, 5),
}


@pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="no native operators")
@pytest.mark.parametrize("device", ["cpu", "simulated cuda"])
def test_a_call_enters_few_files(device: str) -> None:
    for name, trace in measured(device).items():
        found = counts(trace)
        assert all(count <= limit for count, limit in zip(found, LIMITS[name], strict=True)), (name, found, trace)
