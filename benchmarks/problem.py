"""A problem (one row of the comparison), its candidates and their runners."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import nir
import torch
from torch import Tensor, nn

from neurocuda import Discretization, Graph

Layer = Callable[[Tensor], Tensor]
Fire = Callable[[str, Tensor], Tensor]
"""The output of a neuron population, by name, for its input."""
Recall = Callable[[str], Tensor]
"""What a population emitted one step before."""
Network = Callable[[Mapping[str, Layer], Fire, Recall, Tensor], Tensor]
"""Layers by name, two ways to reach the neurons, an input: the output."""

Kind = Literal["ours", "floor", "torch", "compiled", "peer"]


@dataclass(frozen=True)
class Neuron:
    """u = v * decay + current; a spike where u is above the threshold, and v is zero after it.

    The current is the input, or with `decay_synapse` i = i * decay_synapse + input. Gains stand in the weights
    (`layers` of the problem). A read-out has no threshold and emits u.
    """

    name: str
    shape: tuple[int, ...]
    decay: float
    threshold: float | None
    decay_synapse: float | None = None


@dataclass(frozen=True)
class Problem:
    """One row: a network, an input and what they mean.

    x: [T, B, *]. `one_call_a_step`: steps arrive one at a time, so nothing may be batched over time, and times are
    given for one step. `separate`: no neuron sees another, so that each is its own sample when spikes are compared.
    `output_layer`: the output is not that of a population but of a layer.
    """

    row: str
    title: str
    nir: nir.NIRGraph
    graph: Graph
    discretization: Discretization
    x: Tensor
    network: Network
    layers: Mapping[str, nn.Module]
    neurons: Mapping[str, Neuron]
    one_call_a_step: bool = False
    separate: bool = False

    @property
    def steps(self) -> int:
        return self.x.shape[0]

    @property
    def batch(self) -> int:
        return self.x.shape[1]

    @property
    def recurrent(self) -> bool:
        return any(name.endswith("w_rec") for name in self.layers)

    def scaled_into(self, factors: Mapping[str, float]) -> dict[str, nn.Module]:
        """The layers, with weights and biases of those that feed a population times its factor, for a tool whose
        neurons have another gain.
        """
        layers = dict(self.layers)
        for source, target in self.graph.edges:
            if target in factors:
                layers[source] = copy.deepcopy(self.layers[source])
                for parameter in layers[source].parameters():
                    parameter.mul_(factors[target])
        return layers


@dataclass(frozen=True)
class Runner:
    """A candidate ready to run.

    `run` goes once through the input, from rest. `signals` does too, and gives what every population emitted,
    [T, B, *shape] by name, and the output under "". `discretization` is what it computes, if not the problem's.
    """

    run: Callable[[], object]
    signals: Callable[[], dict[str, Tensor]] | None = None
    discretization: Discretization | None = None


@dataclass(frozen=True)
class Candidate:
    """Something that runs the problem, or its floor. `build` may raise; it is then named and left out.

    `batches_over_time`: layers see the frames of many steps at once, which takes memory for all of them.
    """

    name: str
    kind: Kind
    build: Callable[[Problem], Runner] = field(repr=False)
    batches_over_time: bool = False


Candidates = Callable[[Problem], Iterable[Candidate]]


class Stepped:
    """A network run one step after the other; `neurons` keep their own state until `reset`."""

    def __init__(
        self,
        problem: Problem,
        neurons: Mapping[str, Callable[[Tensor], Tensor]],
        reset: Callable[[], object],
        layers: Mapping[str, Layer] | None = None,
    ) -> None:
        self.network, self.x = problem.network, problem.x
        self.layers = dict(problem.layers) if layers is None else dict(layers)
        self.neurons, self.reset_neurons = dict(neurons), reset
        shapes = {name: (problem.batch, *neuron.shape) for name, neuron in problem.neurons.items()}
        self.silence = {name: torch.zeros(shape) for name, shape in shapes.items()}
        self.last = dict(self.silence)

    def reset(self) -> None:
        self.last.update(self.silence)
        self.reset_neurons()

    def fire(self, name: str, current: Tensor) -> Tensor:
        spikes = self.last[name] = self.neurons[name](current)
        return spikes

    def step(self, x: Tensor) -> Tensor:
        return self.network(self.layers, self.fire, self.last.__getitem__, x)

    def run(self) -> Tensor:
        self.reset()
        return torch.stack([self.step(x) for x in self.x])

    def signals(self) -> dict[str, Tensor]:
        self.reset()
        pieces: dict[str, list[Tensor]] = {name: [] for name in ["", *self.neurons]}
        for x in self.x:
            pieces[""].append(self.step(x))
            for name, spikes in self.last.items():
                pieces[name].append(spikes.clone())
        return {name: torch.stack(steps) for name, steps in pieces.items()}


class Layered:
    """A network run layer by layer over all its steps; `frames` brings [T, B, *] into the layout of the layers."""

    def __init__(
        self,
        problem: Problem,
        neurons: Mapping[str, Callable[[Tensor], Tensor]],
        reset: Callable[[], object],
        layers: Mapping[str, Layer],
        into: Callable[[Tensor], Tensor],
        back: Callable[[Tensor], Tensor],
    ) -> None:
        self.network, self.reset, self.back = problem.network, reset, back
        self.x = into(problem.x).contiguous()
        self.layers, self.neurons = dict(layers), dict(neurons)

    def run(self) -> Tensor:
        self.reset()
        return self.network(self.layers, lambda name, current: self.neurons[name](current), _no_recall, self.x)

    def signals(self) -> dict[str, Tensor]:
        emitted: dict[str, Tensor] = {}

        def fire(name: str, current: Tensor) -> Tensor:
            emitted[name] = self.neurons[name](current)
            return emitted[name]

        self.reset()
        emitted[""] = self.network(self.layers, fire, _no_recall, self.x)
        return {name: self.back(signal) for name, signal in emitted.items()}


def _no_recall(name: str) -> Tensor:
    raise RuntimeError(f"{name}: a recurrent network does not run layer by layer")
