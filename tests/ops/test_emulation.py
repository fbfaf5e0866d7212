"""The emulation of CUDA on the CPU finds faults: each that is planted here is found by name, its absence is silent."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from places import ROOT

COMPILER = shutil.which("g++")
FLAGS = "-std=c++17 -O1 -g -DNEUROCUDA_EMULATED -ffp-contract=off -Wno-unknown-pragmas".split()
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer".split()


class Fault(NamedTuple):
    name: str
    report: str
    sanitized: bool


class Program(NamedTuple):
    path: Path
    sanitized: bool

    def run(self, name: str, planted: str, order: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
        environment |= {"NEUROCUDA_EMULATION_ORDER": order}
        environment |= {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
        command = [str(self.path), name, planted]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


FAULTS = [
    Fault("out_of_bounds", "heap-buffer-overflow", True),
    Fault("out_of_shared", "heap-buffer-overflow", True),
    Fault("out_of_tile", "index 24 out of bounds", True),
    Fault("misaligned", "misaligned address", True),
    Fault("missed_barrier", "(62, 0, 0) waits at __syncthreads", False),
    Fault("two_barriers", "(63, 0, 0) waits at __syncthreads", False),
    Fault("missing_lane", "(0, 0, 0) waits at __shfl_down_sync", False),
    Fault("no_barrier", "a wrong result", False),
]


def sanitizers() -> bool:
    assert COMPILER is not None
    probe = [COMPILER, "-x", "c++", *SANITIZERS, "-o", os.devnull, "-"]
    return subprocess.run(probe, input="int main() {}", text=True, capture_output=True).returncode == 0


def build(source: Path, program: Path, *flags: str) -> None:
    command = [str(COMPILER), *FLAGS, *flags, f"-I{ROOT / 'csrc'}", str(source), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    if COMPILER is None:
        pytest.skip("no g++")
    path, sanitized = tmp_path_factory.mktemp("planted") / "faults", sanitizers()
    build(ROOT / "tests/planted/faults.cpp", path, *(SANITIZERS if sanitized else []))
    return Program(path, sanitized)


@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_faults_are_found_by_name(program: Program, fault: Fault, order: str) -> None:
    if fault.sanitized and not program.sanitized:
        pytest.skip("g++ comes without sanitizers")
    sound = program.run(fault.name, "0", order)
    assert sound.returncode == 0, sound.stderr
    assert sound.stdout == "no fault\n"
    faulty = program.run(fault.name, "1", order)
    assert faulty.returncode != 0
    assert fault.report in faulty.stderr
    assert f"planted_{fault.name}" in faulty.stderr


def test_a_step_of_a_neuron_moves_the_bytes_of_the_traits(tmp_path: Path) -> None:
    """The traits of the kernels say so, and the accesses that a wide kernel makes add up to it."""
    if COMPILER is None:
        pytest.skip("no g++")
    build(ROOT / "tests/support/traffic.cpp", tmp_path / "traffic")
    found = subprocess.run([str(tmp_path / "traffic")], capture_output=True, text=True, check=True).stdout
    assert [line.split(",") for line in found.splitlines()] == [
        [name, number, number]
        for name, number in {
            "float32 to float32": "8",
            "float32 to uint8": "5",
            "float16 to float16": "4",
            "float16 to uint8": "3",
            "float16 to packed": "2.125",
            "float32 residual to float32": "12",
        }.items()
    ]
