"""Plain PyTorch: stepped, layer by layer, and compiled."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.problem import Candidate, Layer, Layered, Neuron, Problem, Runner, Stepped

State = dict[str, tuple[Tensor, Tensor, Tensor]]
"""v, i and the last spikes of every population."""

UNROLLED = 20
"""Steps that a compiled time loop takes at a time where the whole loop would be too long to compile."""


def compile_for_every_shape() -> None:
    """Let torch.compile make as many specialisations of one function as there are populations."""
    torch._dynamo.config.recompile_limit = 256


def candidates(problem: Problem) -> Iterable[Candidate]:
    yield Candidate("plain torch, stepped", "torch", _stepped)
    if problem.recurrent and not problem.one_call_a_step:
        yield Candidate("plain torch, layer by layer", "torch", _braille_layers, batches_over_time=True)
    elif not problem.separate and not problem.one_call_a_step:
        yield Candidate("plain torch, layer by layer", "torch", _layers, batches_over_time=True)
    if problem.separate:
        yield Candidate("torch.compile, whole loop", "compiled", _compiled_layers, batches_over_time=True)
        return
    yield Candidate("torch.compile, step", "compiled", _compiled_step)
    if problem.recurrent and not problem.one_call_a_step:
        many = _unrolled_steps(problem.steps)
        yield Candidate(f"torch.compile, {many} steps", "compiled", _compiled_braille, batches_over_time=True)
    elif not problem.one_call_a_step:
        yield Candidate("torch.compile, layer by layer", "compiled", _compiled_layers, batches_over_time=True)


class PlainNeuron:
    """One population, stepped; as one would write it by hand."""

    def __init__(self, neuron: Neuron) -> None:
        self.decay, self.threshold, self.synapse = neuron.decay, neuron.threshold, neuron.decay_synapse
        self.reset()

    def reset(self) -> None:
        self.v: Tensor | float = 0.0
        self.i: Tensor | float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        if self.synapse is not None:
            x = self.i = self.i * self.synapse + x
        u = self.v * self.decay + x
        if self.threshold is None:
            self.v = u
            return u
        spikes = u > self.threshold
        self.v = u.masked_fill(spikes, 0.0)
        return spikes.float()


def _stepped(problem: Problem) -> Runner:
    neurons = {name: PlainNeuron(neuron) for name, neuron in problem.neurons.items()}
    stepped = Stepped(problem, neurons, partial(_reset, neurons.values()))
    return Runner(stepped.run, stepped.signals)


def _reset(neurons: Iterable[PlainNeuron]) -> None:
    for neuron in neurons:
        neuron.reset()


def _layers(problem: Problem) -> Runner:
    neurons = {name: partial(_over_time, PlainNeuron(neuron)) for name, neuron in problem.neurons.items()}
    return _layered(problem, neurons, problem.layers)


def _over_time(neuron: PlainNeuron, x: Tensor) -> Tensor:
    neuron.reset()
    return torch.stack([neuron(x_t) for x_t in x])


def _layered(
    problem: Problem, neurons: Mapping[str, Callable[[Tensor], Tensor]], layers: Mapping[str, Layer]
) -> Runner:
    """Populations on [T, B, *], layers on frames [T * B, *]."""
    over = {name: partial(_on_steps, problem.steps, neuron) for name, neuron in neurons.items()}
    layered = Layered(
        problem,
        over,
        lambda: None,
        layers,
        lambda x: x.flatten(0, 1),
        lambda y: torch.unflatten(y, 0, (problem.steps, -1)),
    )
    return Runner(layered.run, layered.signals)


def _on_steps(steps: int, neuron: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    return neuron(torch.unflatten(frames, 0, (steps, -1))).flatten(0, 1)


def _update(neuron: Neuron, x: Tensor, v: Tensor, i: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output, v and i of the population after one step."""
    i = x if neuron.decay_synapse is None else i * neuron.decay_synapse + x
    u = v * neuron.decay + i
    if neuron.threshold is None:
        return u, u, i
    spikes = u > neuron.threshold
    return spikes.float(), u.masked_fill(spikes, 0.0), i


def _compiled_step(problem: Problem) -> Runner:
    """The whole network for one step, compiled; the loop over time is Python's."""
    network, layers, neurons = problem.network, problem.layers, problem.neurons

    def step(x: Tensor, state: State) -> tuple[Tensor, State]:
        after: State = {}

        def fire(name: str, current: Tensor) -> Tensor:
            v, i, _ = state[name]
            emitted, v, i = _update(neurons[name], current, v, i)
            after[name] = (v, i if neurons[name].decay_synapse is not None else v, emitted)
            return emitted

        return network(layers, fire, lambda name: state[name][2], x), after

    # Called once a step, so the way from Python into the code counts: cpp_wrapper makes it shorter.
    compiled = torch.compile(step, dynamic=False, fullgraph=True, options={"cpp_wrapper": True})
    zeros = {name: torch.zeros(problem.batch, *neuron.shape) for name, neuron in neurons.items()}
    rest: State = {name: (zero, zero, zero) for name, zero in zeros.items()}

    def run() -> Tensor:
        state, outputs = rest, []
        for x in problem.x:
            y, state = compiled(x, state)
            outputs.append(y)
        return torch.stack(outputs)

    def signals() -> dict[str, Tensor]:
        state = rest
        pieces: dict[str, list[Tensor]] = {name: [] for name in ["", *neurons]}
        for x in problem.x:
            y, state = compiled(x, state)
            pieces[""].append(y)
            for name in neurons:
                pieces[name].append(state[name][2].clone())
        return {name: torch.stack(steps) for name, steps in pieces.items()}

    return Runner(run, signals)


def _compiled_layers(problem: Problem) -> Runner:
    """Layers over all frames; the time loop of each population unrolled and compiled."""
    neurons = {name: _unrolled(neuron, problem.steps) for name, neuron in problem.neurons.items()}
    return _layered(problem, neurons, problem.layers)


def _unrolled(neuron: Neuron, steps: int) -> Callable[[Tensor], Tensor]:
    """The time loop of a population: whole if it is short, otherwise a number of steps at a time."""
    many = steps if steps <= 100 else _unrolled_steps(steps)

    def loop(x: Tensor, v: Tensor, i: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        emitted = []
        for x_t in x:
            y, v, i = _update(neuron, x_t, v, i)
            emitted.append(y)
        return torch.stack(emitted), v, i

    compiled = torch.compile(loop, dynamic=False, fullgraph=True)

    def over_time(x: Tensor) -> Tensor:
        v = i = torch.zeros_like(x[0])
        pieces = []
        for part in torch.split(x, many):
            emitted, v, i = compiled(part, v, i)
            pieces.append(emitted)
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    return over_time


def _unrolled_steps(steps: int) -> int:
    return max(n for n in range(1, UNROLLED + 1) if steps % n == 0)


def _braille_layers(problem: Problem) -> Runner:
    """Feed-forward parts run over all steps at once, the recurrent population step by step."""
    first, second = problem.neurons.values()
    return _braille(problem, partial(_recur, PlainNeuron(first)), partial(_over_time, PlainNeuron(second)))


def _recur(neuron: PlainNeuron, weight: nn.Module, x: Tensor, last: Tensor) -> Tensor:
    neuron.reset()
    emitted = []
    for x_t in x:
        last = neuron(x_t + weight(last))
        emitted.append(last)
    return torch.stack(emitted)


def _compiled_braille(problem: Problem) -> Runner:
    """As layer by layer, a number of steps of the recurrent population unrolled and compiled together."""
    first, second = problem.neurons.values()

    def loop(weight: nn.Module, x: Tensor, last: Tensor, v: Tensor, i: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        emitted = []
        for x_t in x:
            last, v, i = _update(first, x_t + weight(last), v, i)
            emitted.append(last)
        return torch.stack(emitted), last, v, i

    compiled = torch.compile(loop, dynamic=False, fullgraph=True)
    many = _unrolled_steps(problem.steps)

    def recur(weight: nn.Module, x: Tensor, last: Tensor) -> Tensor:
        v = i = last
        pieces = []
        for part in torch.split(x, many):
            emitted, last, v, i = compiled(weight, part, last, v, i)
            pieces.append(emitted)
        return torch.cat(pieces)

    return _braille(problem, recur, _unrolled(second, problem.steps))


def _braille(
    problem: Problem,
    recur: Callable[[nn.Module, Tensor, Tensor], Tensor],
    over_time: Callable[[Tensor], Tensor],
) -> Runner:
    (first, _), *_ = pairwise(problem.neurons)
    silence = torch.zeros(problem.batch, *problem.neurons[first].shape)

    def signals() -> dict[str, Tensor]:
        hidden = recur(problem.layers["lif1.w_rec"], problem.layers["fc1"](problem.x), silence)
        output = over_time(problem.layers["fc2"](hidden))
        return {"": output, "lif1.lif": hidden, "lif2": output}

    return Runner(lambda: signals()[""], signals)
