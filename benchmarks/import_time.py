"""Processor time of `import neurocuda` on top of `import torch`: `python -m benchmarks.import_time`.

Each pair starts two new processes, in alternating order; user and system time are counted. Prints the median of the
differences in seconds and of the ratios, for the import, for loading a file, and for the help of the command.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

from benchmarks import machine

PAIRS = 11
TORCH = "import torch"
LOADED = "import neurocuda; neurocuda.load('examples/digits/digits.nir')"
HELP = "import sys, neurocuda.cli; sys.argv[1:] = ['--help']; neurocuda.cli.main()"
CODE = {
    "import neurocuda": "import neurocuda",
    "neurocuda.load of the digits network": LOADED,
    "neurocuda --help": HELP,
}


def processor_seconds(code: str) -> float:
    """User and system time of a new Python process that runs `code`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], cwd=machine.ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    for name, value in machine.describe(1).items():
        print(f"{name}: {value}")
    for name, code in CODE.items():
        pairs = []
        for number in range(PAIRS + 1):  # the first is not counted: it fills the file cache
            order = [TORCH, code] if number % 2 else [code, TORCH]
            seconds = {text: processor_seconds(text) for text in order}
            pairs.append((seconds[code], seconds[TORCH]))
        extra = sorted(ours - torch for ours, torch in pairs[1:])
        ratio = statistics.median(ours / torch for ours, torch in pairs[1:])
        torch = statistics.median(torch for _, torch in pairs[1:])
        print(
            f"{name}: {statistics.median(extra):+.3f} s ({extra[0]:+.3f} to {extra[-1]:+.3f}, {PAIRS} pairs), "
            f"{ratio:.3f} times `import torch` ({torch:.3f} s)"
        )


if __name__ == "__main__":
    main()
