"""Presets against the simulators of their names: networks that are built, run, exported and imported there.

`make interop-env` installs the simulators; the tests record the networks there. docs/presets.md is the whole result.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from presets import PAGE, page  # noqa: E402
from recordings import Recorded, Result, divergence, imported, live, native, recordings  # noqa: E402

PYTHON = ROOT / ".venv-interop/bin/python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no simulators: make interop-env"),
    pytest.mark.filterwarnings("ignore::neurocuda.NeuroCUDAWarning"),
]

NOT_EXPRESSED = {
    "native": {
        "snntorch Leaky(reset_delay=False)": "a second subtraction before the next spike",
        "snntorch Synaptic(zero)": "the input of the step after a spike is lost",
    },
    "import": {
        "norse LIFCell(v_leak, v_reset)": "CubaLIF adds v_leak to the synapse",
        "norse LIFRecurrentCell(v_leak, v_reset)": "CubaLIF adds v_leak to the synapse",
        "rockpool LIFTorch(bias=0.125)": "v_leak is added as it is",
    },
}
"""The networks that differ, and why. The import is that of the hand-written file."""

OFF_GRID = {"norse LIFBoxCell(tau=10 dt)", "sinabs LIF(tau_mem=9.7)", "spikingjelly LIFNode(tau=10)"}
"""Networks whose decay is no power of two: the simulator rounds in another order, or its coefficients otherwise."""

ULP = 128
"""The largest difference of their potentials, and of those that XLA computes, in units of the last place."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded networks."""
    path = tmp_path_factory.mktemp("interop")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for command in (["-m", "record"], ["live.py"]):
        subprocess.run([PYTHON, *command, path], cwd=HERE, env=environment, check=True, capture_output=True)
    return path


def results(folder: Path, compare: Callable[[Recorded], Result]) -> dict[str, Result]:
    """Of each network that neither side refuses."""
    compared = {f"{r.about['tool']} {r.about['name']}": compare(r) for r in recordings(folder)}
    return {name: result for name, result in compared.items() if result.outputs}


def membranes_agree(found: dict[str, Result], rounded: set[str]) -> None:
    """The potentials of equal networks are equal, and those of `rounded` nearly."""
    for name, result in found.items():
        if result.equal:
            assert (result.ulp or 0) <= (ULP if name in rounded else 0), (name, result.ulp)


def test_the_page_is_what_the_simulators_compute(folder: Path) -> None:
    assert page(folder) == PAGE.read_text()


def test_every_population_fires(folder: Path) -> None:
    for network in recordings(folder):
        assert all(0.05 <= rate <= 0.5 for rate in network.about["rates"]), network.about


def test_native_networks(folder: Path) -> None:
    found = results(folder, lambda network: native(network, "written"))
    assert len(found) == len(recordings(folder))
    assert {name for name, result in found.items() if not result.equal} == set(NOT_EXPRESSED["native"])
    membranes_agree(found, OFF_GRID)


def test_from_module(folder: Path) -> None:
    """Each network is equal, or refused by name."""
    found = results(folder, live)
    assert len(found) >= 33
    assert all(result.equal for result in found.values()), found
    membranes_agree(found, OFF_GRID)


def test_imports(folder: Path) -> None:
    found = results(folder, lambda network: imported(network, "written"))
    assert len(found) >= 40
    assert {name for name, result in found.items() if not result.equal} == set(NOT_EXPRESSED["import"])
    membranes_agree(found, OFF_GRID | {name for name in found if name.startswith("spyx")})


def test_float_weights(folder: Path) -> None:
    """Weights that are not on the grid: the first difference, if any, is a potential next to the threshold."""
    for network in recordings(folder):
        if f"{network.about['tool']} {network.about['name']}" not in NOT_EXPRESSED["native"]:
            found = divergence(network)
            assert found.different == 0 or (found.ulp is not None and found.ulp <= 2), network.about["name"]
