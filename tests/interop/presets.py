"""Writes docs/presets.md: `python tests/interop/presets.py FOLDER` after `record` and `live.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from recordings import Recorded, Result, imported, live, native, recordings

PAGE = Path(__file__).parents[2] / "docs/presets.md"

HEAD = """# Presets and simulators

What a preset of `Discretization` computes, compared with the simulator of its name. `make presets` builds and runs
networks in each simulator and writes this page; `make interop-env` installs the simulators, in their own environment.

Each network is Linear, neurons, Linear, neurons. Weights and inputs are on a grid, so that float32 sums are exact; each
population fires in 5 to 50 % of the steps. A cell compares 25,600 outputs: 16 steps, 25 samples, 64 neurons.

| column | the simulator runs | NeuroCUDA runs |
|---|---|---|
| native | the network built there | that network, written by hand in NIR, with the native preset and *changes* |
| its file | the network built there | the file of its exporter, with the same: what differs here alone is lost |
| from_module | the network built there | `neurocuda.from_module(network, x)` |
| import | its import of the hand-written file | the hand-written file, with the preset |
| import of its file | its import of the file of its exporter | that file, with the preset |

The native preset is `Discretization.preset(simulator, native=True)`, the preset `Discretization.preset(simulator)`.

- **equal**: all outputs are equal, and all membrane potentials. *equal, membranes within n*: they differ by up to n
  units in the last place. *equal, outputs*: the simulator does not return the potentials.
- A number of differing outputs, and the first difference: the simulator's output, and NeuroCUDA's.
- Otherwise the message with which the simulator, or NeuroCUDA, refuses the network.
"""

NOTES = {
    "snntorch": (
        "snnTorch 1.0.0",
        """The exporter loses `reset_mechanism`, `reset_delay` and `graded_spikes_factor`. The importer resets to
zero in the step of the spike, takes one threshold for all neurons, ignores `v_reset`, and does not run the files of
`RLeaky` and `RSynaptic` with nirtorch 2.6. Two options have no counterpart here: `Synaptic(reset_mechanism="zero")`
and `RLeaky` with it also lose the input of the step after a spike (`Leaky` keeps it), and `reset_delay=False` with
subtraction lowers the potential once more before it fires, if it is still above the threshold after a reset.""",
    ),
    "norse": (
        "Norse 1.1.0",
        """The exporter writes tau * dt for tau, and loses `v_reset`; it omits w_in of
`LIFCell`, which the native preset does not read, and has no form of `LIFRecurrentCell`. The importer resets to zero
and ignores r of IF and LIF; its CubaLIF pulls the synaptic current to `v_leak` too, and starts it there.""",
    ),
    "sinabs": (
        "sinabs 3.1.3",
        """The exporter loses `tau_syn`, `norm_input`, `min_v_mem`, `spike_fn` and `reset_fn`; it has no form of
recurrent layers. The importer multiplies an input by 1 and clamps IF, and IF alone, at -threshold; it has no
CubaLIF. A clamp is `relu(v - min) + min`, which rounds potentials that are not on a grid. Recurrent layers do not
record their potentials rightly.""",
    ),
    "spikingjelly": (
        "SpikingJelly 2.0.0",
        """The exporter loses nothing and refuses a reset by subtraction. Its networks start at `v_reset`, imported
or not.""",
    ),
    "spyx": (
        "Spyx 1.0.0",
        """The exporter connects the input of a recurrent layer to the recurrent weight instead of the neurons, and
writes r = beta, which its importer ignores, as it ignores w_in, `v_leak` and `v_reset`. Imported networks are
compiled by XLA, which fuses a multiplication and an addition.""",
    ),
    "rockpool": (
        "Rockpool 3.1.0",
        """The exporter loses `bias`, dt and, without a word, recurrent weights. The importer takes dt = tau_mem /
(1 + r), which is not the dt of an exported network, and adds `v_leak` in each step as it is.""",
    ),
}
"""The title of each simulator, and what its exporter and importer do to a network."""


def page(folder: Path) -> str:
    """The page, from the recorded networks."""
    return HEAD + "".join(part for tool in NOTES for part in _table(tool, recordings(folder, tool)))


def _table(tool: str, networks: list[Recorded]) -> Iterator[str]:
    title, note = NOTES[tool]
    yield f"\n## {title}\n\n{note}\n\n"
    yield "| network | changes | native | its file | from_module | import | import of its file |\n"
    yield "|---" * 7 + "|\n"
    for network in networks:
        about = network.about
        changes = ", ".join(f"`{name}={value!r}`" for name, value in about["changes"].items())
        results = (
            native(network, "written"),
            native(network, "exported"),
            live(network),
            imported(network, "written"),
            imported(network, "exported"),
        )
        yield f"| `{about['name']}` | {changes} | {' | '.join(map(_cell, results))} |\n"


def _cell(result: Result) -> str:
    if result.outputs == 0:
        return result.message.replace("|", "/")
    if not result.equal:
        return f"{result.different} differ; {result.message}"
    return {None: "equal, outputs", 0: "equal"}.get(result.ulp, f"equal, membranes within {result.ulp}")


if __name__ == "__main__":
    PAGE.write_text(page(Path(sys.argv[1])))
