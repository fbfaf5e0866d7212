"""How the tests run: which are chosen, and how many examples hypothesis draws."""

import os
import sys
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import devices
import pytest
import torch
from drawn import counts
from hypothesis import HealthCheck, settings

FULL = os.environ.get("NEUROCUDA_FULL") == "1"
HALF = os.environ.get("NEUROCUDA_HALF") or None
"""0 or 1: that half of the tests, drawn by their names."""

# The fixtures are the same for every example.
HOW: dict[str, Any] = {"deadline": None, "print_blob": True}
HOW["suppress_health_check"] = [HealthCheck.function_scoped_fixture]
settings.register_profile("seeded", max_examples=100, derandomize=True, **HOW)
settings.register_profile("full", max_examples=1000, **HOW)
settings.load_profile("full" if FULL else "seeded")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the long tests out unless asked for, and begins with those of which each takes minutes."""
    if not FULL:
        long = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=long)
    if HALF is not None:
        theirs = [item for item in items if crc32(item.nodeid.encode()) % 2 != int(HALF)]
        items[:] = [item for item in items if crc32(item.nodeid.encode()) % 2 == int(HALF)]
        config.hook.pytest_deselected(items=theirs)
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips the GPU tests where there is no GPU; here, so that the summary tells it in one line."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")


@pytest.fixture(params=devices.DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device of the networks and signals of a test: of the CPU, and of a GPU where there is one."""
    with devices.on(torch.device(request.param)):
        yield devices.here()


@pytest.fixture(params=devices.DEVICES)
def operators_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs the operators that a test calls with CPU tensors there, and on a GPU where there is one."""
    if request.param == "cpu":
        yield
    else:
        with devices.OperatorsOn(torch.device(request.param)):
            yield


def pytest_sessionfinish(session: pytest.Session) -> None:
    module = sys.modules.get("neurocuda._C")
    if module is not None and hasattr(module, "launches"):
        for kernel, number in module.launches().items():
            counts["launches of " + kernel.strip("()").split("<")[0]] += number
    if hasattr(session.config, "workeroutput"):  # of pytest-xdist, which takes it to the first process
        session.config.workeroutput["counts"] = dict(counts)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    counts.update(getattr(node, "workeroutput", {}).get("counts", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much was compared with the reference, bit for bit: tests that were left out are missed here."""
    if counts:
        kernels = getattr(sys.modules.get("neurocuda._C"), "kernels", "")
        order = os.environ.get("NEUROCUDA_EMULATION_ORDER", "forward")
        emulated = f" of CUDA kernels on the CPU, {order} order of threads" if kernels == "emulated" else ""
        terminalreporter.section("cases" + emulated)
        terminalreporter.write_line(", ".join(f"{name}: {number:,}" for name, number in sorted(counts.items())))
