"""The switch that limits the kernels to an older instruction set, for tests of all versions."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from neurocuda.ops import backends

pytestmark = pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there")
LEVELS = ["baseline", "avx2", "avx512"]


def found(asked: str | None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "NEUROCUDA_INSTRUCTIONS"}
    program = "import torch, neurocuda._C; print(neurocuda._C.instructions)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | ({} if asked is None else {"NEUROCUDA_INSTRUCTIONS": asked}),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("asked", [*LEVELS, "unheard-of"])
def test_the_switch_lowers_and_never_raises_the_level(asked: str) -> None:
    best = found(None)
    owed = asked if asked in LEVELS[: LEVELS.index(best)] else best
    assert found(asked) == owed
