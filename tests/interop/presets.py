"""Writes docs/presets.md: `python tests/interop/presets.py FOLDER` after `record`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from comparison import Recorded, Result, imported, native

PAGE = Path(__file__).parents[2] / "docs/presets.md"

HEAD = """# Presets and the simulators that they are named after

Written by `tests/interop/presets.py` from networks built and run in each simulator (`make interop-env`). Every network
is Linear, neurons, Linear, neurons, with weights on a grid; each population fires in 5 to 50 % of the steps. A cell
compares all 25,600 outputs of 16 steps, 25 samples and 64 neurons.

- **native**: the network in the simulator, against the same network written by hand in NIR, with
  `Discretization.preset(simulator, native=True)` and the changes in the column *changes*.
- **its file**: the network in the simulator, against the file of its exporter, with the same discretization. What
  differs here and not under *native* is what the exporter loses.
- **import**: what the simulator's importer makes of the hand-written file, against that file, with
  `Discretization.preset(simulator)`.
- **import of its file**: the same for the file of the exporter.

*equal* means that all outputs are equal; "membranes" tells the largest difference of the membrane potentials in
float32 steps where the simulator tells them. Otherwise: the number of outputs that differ, and the first one, with the
simulator's value and NeuroCUDA's. Refusals are the simulator's messages.
"""


def page(folder: Path) -> str:
    """The page, from the recorded networks."""
    recorded = [Recorded(path) for path in sorted(folder.glob("*.npz"))]
    return HEAD + "".join(_table(recorded))


def _table(recorded: list[Recorded]) -> Iterator[str]:
    tool = ""
    for network in recorded:
        about = network.about
        if about["tool"] != tool:
            tool = about["tool"]
            yield f"\n## {tool}\n\n| network | changes | native | its file | import | import of its file |\n|---|---|---|---|---|---|\n"
        changes = ", ".join(f"`{name}={value!r}`" for name, value in about["changes"].items())
        results = native(network, "written"), native(network, "exported"), imported(network, "written"), imported(network, "exported")
        yield f"| `{about['name']}` | {changes} | {' | '.join(map(_cell, results))} |\n"


def _cell(result: Result) -> str:
    if result.outputs == 0:
        return result.message.replace("|", "/")
    ulp = "" if result.ulp is None else ", membranes too" if result.ulp == 0 else f", membranes within {result.ulp}"
    if result.equal:
        return f"equal{ulp}"
    return f"{result.different} differ; {result.message}"


if __name__ == "__main__":
    PAGE.write_text(page(Path(sys.argv[1])))
