"""sinabs: layer by layer over [B, T, *] (its Squeeze layers over B * T frames), its recurrent layer, single steps.

Its current is decay * (i + x); where ours is decay * i + x, the weights into it are divided by the decay.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import sinabs.layers
import torch
from sinabs.activation import MembraneReset, SingleSpike
from torch import Tensor, nn

from benchmarks.problem import Candidate, Layered, Neuron, Problem, Runner, Stepped
from neurocuda import Discretization


def candidates(problem: Problem) -> Iterable[Candidate]:
    if problem.one_call_a_step:
        yield Candidate("sinabs, single steps", "peer", _stepped)
    elif problem.recurrent:
        yield Candidate("sinabs, recurrent layer", "peer", _recurrent, batches_over_time=True)
    else:
        yield Candidate("sinabs, layer by layer", "peer", _layer_by_layer, batches_over_time=True)


def _layer_by_layer(problem: Problem) -> Runner:
    neurons = {name: _neuron(neuron, problem.batch) for name, neuron in problem.neurons.items()}

    def back(frames: Tensor) -> Tensor:
        return torch.unflatten(frames, 0, (problem.batch, -1)).transpose(0, 1)

    layered = Layered(problem, neurons, _reset(neurons.values()), _layers(problem), _batch_first, back)
    return Runner(layered.run, layered.signals, _meaning(problem))


def _stepped(problem: Problem) -> Runner:
    neurons = {name: _neuron(neuron, problem.batch) for name, neuron in problem.neurons.items()}
    stepped = Stepped(problem, neurons, _reset(neurons.values()), _layers(problem))
    return Runner(stepped.run, stepped.signals, _meaning(problem))


def _recurrent(problem: Problem) -> Runner:
    """The Braille network, its recurrent weight inside sinabs' layer: its bias is missing at the first step."""
    layers = _layers(problem)
    first, second = problem.neurons.values()
    recurrent = sinabs.layers.LIFRecurrent(rec_connect=layers["lif1.w_rec"], **_options(first))
    output = sinabs.layers.LIF(**_options(second))
    reset = _reset([_exactly(recurrent, first), _exactly(output, second)])
    x = problem.x.transpose(0, 1).contiguous()

    def signals() -> dict[str, Tensor]:
        reset()
        hidden = recurrent(layers["fc1"](x))
        spikes = output(layers["fc2"](hidden))
        return {"": spikes.transpose(0, 1), first.name: hidden.transpose(0, 1), second.name: spikes.transpose(0, 1)}

    return Runner(lambda: signals()[""], signals, replace(_meaning(problem), feedback="weight-output"))


def _meaning(problem: Problem) -> Discretization:
    return replace(problem.discretization, spike_when="reaching")


def _layers(problem: Problem) -> dict[str, nn.Module]:
    decays = {name: neuron.decay_synapse for name, neuron in problem.neurons.items()}
    return problem.scaled_into({name: 1 / decay for name, decay in decays.items() if decay is not None})


def _neuron(neuron: Neuron, batch: int) -> sinabs.layers.StatefulLayer:
    if neuron.decay == 1:
        spikes = {"spike_fn": SingleSpike, "reset_fn": MembraneReset()}
        return sinabs.layers.IAFSqueeze(batch_size=batch, spike_threshold=torch.tensor(neuron.threshold), **spikes)
    if neuron.threshold is None:
        leak = sinabs.layers.ExpLeakSqueeze(
            batch_size=batch, tau_mem=_tau(neuron.decay), norm_input=False, train_alphas=True
        )
        return _exactly(leak, neuron)
    return _exactly(sinabs.layers.LIFSqueeze(batch_size=batch, **_options(neuron)), neuron)


def _options(neuron: Neuron) -> dict[str, object]:
    return {
        "tau_mem": _tau(neuron.decay),
        "tau_syn": None if neuron.decay_synapse is None else _tau(neuron.decay_synapse),
        "spike_threshold": torch.tensor(neuron.threshold),
        "spike_fn": SingleSpike,
        "reset_fn": MembraneReset(),
        "norm_input": False,
        "train_alphas": True,
    }


def _tau(decay: float) -> float:
    return -1 / math.log(decay)


def _exactly(layer: sinabs.layers.StatefulLayer, neuron: Neuron) -> sinabs.layers.StatefulLayer:
    """The layer with its decays as they are, not as exp(-1 / tau) rounds them."""
    layer.alpha_mem.data.fill_(neuron.decay)
    if neuron.decay_synapse is not None:
        layer.alpha_syn.data.fill_(neuron.decay_synapse)
    return layer


def _reset(layers: Iterable[sinabs.layers.StatefulLayer]) -> Callable[[], None]:
    every = list(layers)

    def reset() -> None:
        for layer in every:
            layer.reset_states()

    return reset


def _batch_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(0, 1)
