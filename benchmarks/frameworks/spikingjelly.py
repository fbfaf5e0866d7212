"""SpikingJelly: its multi-step mode, single steps where the network recurs or steps come alone, and NIR files.

On a GPU its neurons have kernels of CUDA and of Triton (since 2.0; before, of CuPy), each a candidate.
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based.layer import LinearRecurrentContainer, SeqToANNContainer
from spikingjelly.activation_based.nir_exchange.from_nir import import_from_nir
from torch import Tensor, nn

from benchmarks.problem import Candidate, Layered, Neuron, Problem, Runner, Stepped
from neurocuda import Discretization


def candidates(problem: Problem) -> Iterable[Candidate]:
    if problem.recurrent or problem.one_call_a_step:
        yield Candidate("SpikingJelly, single steps", "peer", _stepped)
    elif problem.x.is_cuda:
        for kernels in ("cuda", "triton"):
            build = partial(_multi_step, kernels=kernels)
            yield Candidate(f"SpikingJelly, multi-step, {kernels}", "peer", build, batches_over_time=True)
    else:
        yield Candidate("SpikingJelly, multi-step", "peer", _multi_step, batches_over_time=True)
    if problem.recurrent and not problem.one_call_a_step:
        yield Candidate("SpikingJelly, container", "peer", _container, batches_over_time=True)
    if problem.recurrent:
        yield Candidate("SpikingJelly, from NIR", "peer", _from_nir)


def _stepped(problem: Problem) -> Runner:
    neurons = {name: _neuron(population, "s") for name, population in problem.neurons.items()}
    reset = partial(functional.reset_net, nn.ModuleList(neurons.values()).eval())
    stepped = Stepped(problem, neurons, reset)
    return Runner(stepped.run, stepped.signals, _meaning(problem))


def _multi_step(problem: Problem, kernels: str | None = None) -> Runner:
    neurons = {name: _neuron(population, "m") for name, population in problem.neurons.items()}
    reset = partial(functional.reset_net, nn.ModuleList(neurons.values()).eval())
    layers = {name: SeqToANNContainer(layer) for name, layer in problem.layers.items()}
    layered = Layered(problem, neurons, reset, layers, lambda x: x, lambda y: y)
    if kernels is None:
        return Runner(layered.run, layered.signals, _meaning(problem))
    run, signals = (_with_kernels(kernels, function) for function in (layered.run, layered.signals))
    return Runner(run, signals, _meaning(problem))


def _with_kernels(kernels: str, function: Callable[[], Any]) -> Callable[[], Any]:
    """The function with these kernels, of those that SpikingJelly would choose from by itself.

    What it chose it keeps, and offers an environment variable, read once: here it is put in its place.
    """
    modules = [importlib.import_module(f"spikingjelly._ops.{name}") for name in ("if_", "lif")]
    selections = [(module._selection, {}) for module in modules]

    def call() -> Any:
        for selection, chosen in selections:
            selection._requested, selection._selections = kernels, chosen
        return function()

    return call


def _neuron(population: Neuron, mode: str) -> Any:
    options = {"v_threshold": population.threshold}
    if population.threshold is None:
        node = _NonSpiking(population)
    elif population.decay_synapse is not None:
        node = neuron.CUBALIFNode(c_decay=population.decay_synapse, v_decay=population.decay, **options)
    elif population.decay == 1:
        node = neuron.IFNode(**options)
    else:
        node = neuron.LIFNode(tau=1 / (1 - population.decay), decay_input=False, **options)
    node.step_mode = mode
    return node


class _NonSpiking(neuron.LIFNode):
    """A leaky integrator with a gain of 1 that carries its state: SpikingJelly's own starts anew at every call.

    Of many steps at once, its potentials are those that its kernels keep of a neuron that never fires.
    """

    v: Tensor
    v_seq: Tensor

    def __init__(self, population: Neuron) -> None:
        never = torch.finfo(torch.float32).max  # its kernels for GPUs want a finite one
        super().__init__(tau=1 / (1 - population.decay), decay_input=False, v_threshold=never, store_v_seq=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.step_mode == "m":
            super().forward(x)
            return self.v_seq
        self.v = self.v - self.v / self.tau + x
        return self.v


def _container(problem: Problem) -> Runner:
    """The Braille network, its recurrence in SpikingJelly's container, which feeds [x, y] through one weight."""
    first, second = problem.neurons.values()
    (size,) = first.shape
    container = LinearRecurrentContainer(_neuron(first, "s"), size, size, step_mode="m")
    recurrent = problem.layers["lif1.w_rec"]
    assert isinstance(recurrent, nn.Linear)
    container.rc.weight.data = torch.cat([torch.eye(size), recurrent.weight], 1)
    container.rc.bias.data = recurrent.bias.clone()
    output = _neuron(second, "m")
    modules = nn.ModuleList([container, output]).eval()
    layers: dict[str, Callable[[Tensor], Tensor]] = {
        name: SeqToANNContainer(problem.layers[name]) for name in ("fc1", "fc2")
    }

    def signals() -> dict[str, Tensor]:
        functional.reset_net(modules)
        hidden = container(layers["fc1"](problem.x))
        spikes = output(layers["fc2"](hidden))
        return {"": spikes, first.name: hidden, second.name: spikes}

    return Runner(lambda: signals()[""], signals, _meaning(problem))


def _from_nir(problem: Problem) -> Runner:
    net = import_from_nir(problem.nir, dt=problem.discretization.dt).to(problem.x.device)

    def run() -> Tensor:
        state, outputs = None, []
        for x in problem.x:
            y, state = net(x, state)
            outputs.append(y)
        return torch.stack(outputs)

    def signals() -> dict[str, Tensor]:
        modules = dict(net.named_modules())
        hooks = []
        pieces: dict[str, list[Tensor]] = {name: [] for name in problem.neurons}
        for name, kept in pieces.items():
            hook = partial(_keep, kept)
            hooks.append(modules[name.replace(".", "_")].register_forward_hook(hook))
        output = run()
        for handle in hooks:
            handle.remove()
        return {"": output, **{name: torch.stack(steps) for name, steps in pieces.items()}}

    return Runner(run, signals, replace(_meaning(problem), feedback="weight-output"))


def _meaning(problem: Problem) -> Discretization:
    return replace(problem.discretization, spike_when="reaching")


def _keep(kept: list[Tensor], module: nn.Module, inputs: Any, output: tuple[Tensor, Any]) -> None:
    kept.append(output[0])
