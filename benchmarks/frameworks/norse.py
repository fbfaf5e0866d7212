"""Norse: cells step by step, layer by layer where it has a layer over time (IAF), and graphs read from NIR.

Its leaky cells have a gain of 1 - decay; where ours have 1, their membrane is v times that, and so is the threshold.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import norse.torch
import torch
from norse.torch.functional.leaky_integrator_box import LIBoxParameters
from norse.torch.functional.lif_box import LIFBoxParameters
from norse.torch.module.iaf import IAF, IAFCell, IAFParameters
from norse.torch.module.leaky_integrator_box import LIBoxCell
from norse.torch.module.lif_box import LIFBoxCell
from torch import Tensor, nn

from benchmarks.problem import Candidate, Layered, Neuron, Problem, Runner, Stepped

METHOD = "heaviside"
"""The spike function without a gradient: twice as fast as the default."""


def candidates(problem: Problem) -> Iterable[Candidate]:
    yield Candidate("Norse, stepped", "peer", _stepped)
    integrators = all(neuron.decay == 1 for neuron in problem.neurons.values())
    if integrators and not problem.one_call_a_step:
        yield Candidate("Norse, layer by layer", "peer", _layer_by_layer, batches_over_time=True)
    if problem.recurrent:
        yield Candidate("Norse, from NIR", "peer", _from_nir)


class _Stateful:
    """Norse's cells in a chain, and their states."""

    def __init__(self, cells: Sequence[nn.Module]) -> None:
        self.cells = cells
        self.reset()

    def reset(self) -> None:
        self.states: list[Any] = [None] * len(self.cells)

    def __call__(self, x: Tensor) -> Tensor:
        for number, cell in enumerate(self.cells):
            x, self.states[number] = cell(x, self.states[number])
        return x


def _stepped(problem: Problem) -> Runner:
    neurons = {name: _Stateful(_cells(neuron)) for name, neuron in problem.neurons.items()}
    gains = {name: 1 / (1 - neuron.decay) for name, neuron in problem.neurons.items() if neuron.threshold is None}
    layers = problem.scaled_into(gains)
    stepped = Stepped(problem, neurons, partial(_reset, neurons.values()), layers)
    return Runner(stepped.run, stepped.signals)


def _reset(neurons: Iterable[_Stateful]) -> None:
    for neuron in neurons:
        neuron.reset()


def _cells(neuron: Neuron) -> list[nn.Module]:
    if neuron.decay == 1:
        return [IAFCell(_integrator(neuron))]
    leak = torch.tensor(1 - neuron.decay)
    if neuron.threshold is None:
        return [LIBoxCell(LIBoxParameters(leak), dt=1.0)]
    if neuron.decay_synapse is None:
        return [LIFBoxCell(LIFBoxParameters(leak, v_th=neuron.threshold * leak, method=METHOD), dt=1.0)]
    synapse_leak = torch.tensor(1 - neuron.decay_synapse)
    membrane = LIFBoxParameters(leak, v_th=neuron.threshold * leak * synapse_leak, method=METHOD)
    return [LIBoxCell(LIBoxParameters(synapse_leak), dt=1.0), LIFBoxCell(membrane, dt=1.0)]


def _integrator(neuron: Neuron) -> IAFParameters:
    return IAFParameters(v_th=torch.tensor(neuron.threshold), method=METHOD)


def _layer_by_layer(problem: Problem) -> Runner:
    neurons = {name: _over_time(problem.steps, neuron) for name, neuron in problem.neurons.items()}
    layered = Layered(
        problem,
        neurons,
        lambda: None,
        problem.layers,
        lambda x: x.flatten(0, 1),
        lambda y: torch.unflatten(y, 0, (problem.steps, -1)),
    )
    return Runner(layered.run, layered.signals)


def _over_time(steps: int, neuron: Neuron) -> Any:
    layer = IAF(_integrator(neuron))

    def emit(frames: Tensor) -> Tensor:
        spikes: Tensor
        spikes, _ = layer(torch.unflatten(frames, 0, (steps, -1)))
        return spikes.flatten(0, 1)

    return emit


def _from_nir(problem: Problem) -> Runner:
    net = norse.torch.from_nir(problem.nir, ignore_warnings=True, dt=problem.discretization.dt).to(problem.x.device)

    def signals() -> dict[str, Tensor]:
        state = None
        names = {name: name.replace(".", "_") for name in problem.neurons}
        pieces: dict[str, list[Tensor]] = {name: [] for name in ["", *names]}
        for x in problem.x:
            y, state = net(x, state)
            pieces[""].append(y)
            for name, cached in names.items():
                pieces[name].append(state.cache[cached])
        return {name: torch.stack(steps) for name, steps in pieces.items()}

    def run() -> Tensor:
        state, outputs = None, []
        for x in problem.x:
            y, state = net(x, state)
            outputs.append(y)
        return torch.stack(outputs)

    return Runner(run, signals, replace(problem.discretization, feedback="weight-output"))
