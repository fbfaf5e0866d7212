"""nirtorch: its interpreter of NIR graphs (nir_to_torch), with neurons of plain torch and its own mapping of layers.

It brings no neurons; its Affine loses the bias and its Flatten the batch, so those are mapped here. The bias of
a recurrent weight is missing at the first step.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import nir
import nirtorch
import torch
from torch import Tensor, nn

from benchmarks.frameworks.plain import PlainNeuron
from benchmarks.problem import Candidate, Neuron, Problem, Runner


def candidates(problem: Problem) -> Iterable[Candidate]:
    yield Candidate("nirtorch", "peer", _interpreted)


class _Population(nn.Module):
    """A population whose state nirtorch carries."""

    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        self.neuron = PlainNeuron(neuron)
        self.spikes = torch.zeros(())

    def forward(self, x: Tensor, state: tuple[Tensor | float, Tensor | float] | None = None) -> object:
        self.neuron.v, self.neuron.i = (0.0, 0.0) if state is None else state
        self.spikes = self.neuron(x)
        return self.spikes, (self.neuron.v, self.neuron.i)


def _interpreted(problem: Problem) -> Runner:
    names = {id(node): name for name, node in _flat(problem.nir)}
    populations: dict[str, _Population] = {}

    def population(node: nir.NIRNode) -> nn.Module:
        name = names[id(node)]
        populations[name] = _Population(problem.neurons[name])
        return populations[name]

    def layer(node: nir.NIRNode) -> nn.Module:
        return problem.layers[names[id(node)]]

    kinds = (nir.IF, nir.LIF, nir.LI, nir.CubaLIF)
    own: dict[type[nir.NIRNode], Callable[[nir.NIRNode], nn.Module]] = dict.fromkeys(kinds, population)
    own |= dict.fromkeys((nir.Affine, nir.Linear, nir.Conv2d, nir.SumPool2d, nir.Flatten), layer)
    net = nirtorch.nir_to_torch(problem.nir, own, device=problem.x.device)

    def run() -> Tensor:
        state, outputs = None, []
        for x in problem.x:
            y, state = net(x, state)
            outputs.append(y)
        return torch.stack(outputs)

    def signals() -> dict[str, Tensor]:
        state = None
        pieces: dict[str, list[Tensor]] = {name: [] for name in ["", *problem.neurons]}
        for x in problem.x:
            y, state = net(x, state)
            pieces[""].append(y)
            for name, kept in populations.items():
                pieces[name].append(kept.spikes)
        return {name: torch.stack(steps) for name, steps in pieces.items()}

    meaning = replace(problem.discretization, feedback="weight-output") if problem.recurrent else None
    return Runner(run, signals, meaning)


def _flat(graph: nir.NIRGraph, prefix: str = "") -> Iterable[tuple[str, nir.NIRNode]]:
    for name, node in graph.nodes.items():
        if isinstance(node, nir.NIRGraph):
            yield from _flat(node, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", node
