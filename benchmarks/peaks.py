"""Peak memory of every candidate of some rows, as JSON: MiB by row and candidate.

python -m benchmarks.peaks --rows lif,braille [--threads 1] [--quick] [--paper FOLDER]

Measured is from a heap without holes, into which what a candidate takes would fall by chance, megabytes more or less
each time: `measured` has the system give every block of 64 KiB and more, and take it back when it is freed.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks import frameworks, memory
from benchmarks.frameworks.plain import compile_for_every_shape
from benchmarks.problem import Candidate, Problem
from benchmarks.workloads import PAPER, ROWS
from neurocuda import NeuroCUDAWarning

_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
"""What glibc's malloc reads when a process starts."""

Peaks = dict[str, dict[str, float]]


def measured(rows: Sequence[str], threads: int, quick: bool, paper: Path) -> Peaks:
    """MiB by row and candidate. Single steps, and candidates that cannot be measured, are left out."""
    command = [sys.executable, "-m", "benchmarks.peaks", "--rows", ",".join(rows), "--threads", str(threads)]
    command += ["--paper", str(paper), *(["--quick"] if quick else [])]
    done = subprocess.run(command, env={**os.environ, **_BLOCKS}, stdout=subprocess.PIPE, text=True, check=True)
    peaks: Peaks = json.loads(done.stdout.splitlines()[-1])
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ROWS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--paper", type=Path, default=PAPER)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", NeuroCUDAWarning)
    logging.disable(logging.WARNING)
    compile_for_every_shape()
    torch.set_num_threads(1)  # no threads before the measurements, which fork
    tools, _ = frameworks.available()
    peaks: Peaks = {}
    for row in arguments.rows if memory.measurable() else ():
        with torch.no_grad():
            problem = ROWS[row](arguments.paper, arguments.quick)
            candidates = [c for tool in tools.values() for c in tool(problem)]
            peaks[row] = {} if problem.one_call_a_step else _peaks(problem, candidates, arguments.threads)
    print(json.dumps(peaks))


def _peaks(problem: Problem, candidates: list[Candidate], threads: int) -> dict[str, float]:
    found = {}
    for candidate in candidates:
        if candidate.kind == "floor":
            continue
        peak = memory.peak_of(partial(run_of, candidate, problem), threads, compiles=candidate.kind == "compiled")
        if peak is not None:
            found[candidate.name] = peak / memory.MiB
    return found


def run_of(candidate: Candidate, problem: Problem) -> Callable[[], object]:
    return candidate.build(problem).run


if __name__ == "__main__":
    main()
