"""snnTorch: one step after the other, the neurons keeping their state (init_hidden)."""

from collections.abc import Callable, Iterable
from typing import Any

import snntorch
from torch import Tensor

from benchmarks.problem import Candidate, Neuron, Problem, Runner, Stepped


def candidates(problem: Problem) -> Iterable[Candidate]:
    yield Candidate("snnTorch, stepped", "peer", _stepped)


def _stepped(problem: Problem) -> Runner:
    modules = {name: _neuron(neuron) for name, neuron in problem.neurons.items()}
    emitting = {name: _emitting(problem.neurons[name], module) for name, module in modules.items()}
    stepped = Stepped(problem, emitting, lambda: [module.reset_mem() for module in modules.values()])
    return Runner(stepped.run, stepped.signals)


def _neuron(neuron: Neuron) -> snntorch.SpikingNeuron:
    options: dict[str, Any] = {"init_hidden": True, "surrogate_disable": True}  # no gradient is asked for
    if neuron.threshold is None:
        return snntorch.Leaky(beta=neuron.decay, reset_mechanism="none", output=True, **options)
    options |= {"threshold": neuron.threshold, "reset_mechanism": "zero"}
    if neuron.decay_synapse is None:
        return snntorch.Leaky(beta=neuron.decay, **options)
    # Without reset_delay=False, a reset to zero would drop the input of the next step too.
    return snntorch.Synaptic(alpha=neuron.decay_synapse, beta=neuron.decay, reset_delay=False, **options)


def _emitting(neuron: Neuron, module: snntorch.SpikingNeuron) -> Callable[[Tensor], Tensor]:
    spikes: Callable[[Tensor], Tensor] = module
    if neuron.threshold is not None:
        return spikes

    def membrane(x: Tensor) -> Tensor:
        v: Tensor
        _, v = module(x)
        return v

    return membrane
