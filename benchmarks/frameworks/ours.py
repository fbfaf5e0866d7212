"""NeuroCUDA itself."""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks.problem import Candidate, Problem, Runner
from neurocuda import Executor, State, Surrogate
from neurocuda.compiler.lowering import How
from neurocuda.discretization.coefficients import coefficients, neuron_parameters
from neurocuda.ops import NeuronState, native
from neurocuda.ops.backends import AVAILABLE, backends

_FORCED: Mapping[str, Mapping[str, How]] = {
    "cnn": {"library layers": "library"},
    "cnn-8bit": {"library layers": "library", "exact int8 layers": "integer"},
    "resnet": {"float32 library layers": "library", "float32 ordered layers": "ordered"},
    "step-resnet": {"float32 library layers": "library"},
}


def candidates(problem: Problem) -> Iterable[Candidate]:
    for frozen, suffix in ((False, ""), (True, ", frozen")):
        yield Candidate(f"neurocuda{suffix}", "ours", partial(_run, how=None, frozen=frozen), batches_over_time=True)
        if not problem.one_call_a_step:
            start = partial(_run, how=None, frozen=frozen, state=False)
            yield Candidate(f"neurocuda, output alone{suffix}", "ours", start, batches_over_time=True)
        for name, how in _FORCED.get(problem.row, {}).items():
            start = partial(_run, how=how, frozen=frozen)
            yield Candidate(f"neurocuda, {name}{suffix}", "ours", start, batches_over_time=True)
    if problem.separate and backends()["cpu"] == AVAILABLE:
        for name, dtype, packed in (
            ("neurocuda operator", torch.float32, False),
            ("neurocuda operator, uint8 spikes", torch.uint8, False),
            ("neurocuda operator, packed bits", torch.uint8, True),
        ):
            yield Candidate(name, "ours", partial(_operator, dtype=dtype, packed=packed), batches_over_time=True)


def _operator(problem: Problem, dtype: torch.dtype, packed: bool) -> Runner:
    """The native operator alone, without the executor, and in narrower dtypes."""
    ((name, neuron),) = problem.neurons.items()
    node = problem.graph.nodes[name]
    c = coefficients(node, neuron_parameters(node), problem.discretization)
    rest = torch.zeros(problem.batch, *neuron.shape)

    def run() -> Tensor:
        spikes, _, _ = native.neuron([problem.x], c, NeuronState(rest), Surrogate(), dtype=dtype, packed=packed)
        return spikes

    def signals() -> dict[str, Tensor]:
        spikes = native.unpack_spikes(run(), rest.shape) if packed else run().float()
        return {"": spikes, name: spikes}

    return Runner(run, signals)


def _run(problem: Problem, how: How | None, frozen: bool, state: bool = True) -> Runner:
    """The network with default layers, or one implementation for all layers if possible; a call returns the
    state beside the output, or the output alone.
    """
    net = Executor(problem.graph, problem.discretization, frozen=frozen)
    if how is not None:
        proofs = {proof.node: proof for proof in net.certificate.proofs}
        weighted = [name for name, layer in problem.layers.items() if hasattr(layer, "weight")]
        force = {name: how for name in weighted if how != "integer" or proofs[name].integers is not None}
        net = Executor(problem.graph, problem.discretization, force=force, frozen=frozen)

    def step_by_step() -> None:
        carried: State | None = None
        for x in torch.split(problem.x, 1):
            _, carried = net(x, carried)

    def signals() -> dict[str, Tensor]:
        recorded = net.run(problem.x, record=dict.fromkeys(problem.neurons, "output")).recordings
        if problem.one_call_a_step:
            carried, pieces = None, []
            for x in torch.split(problem.x, 1):
                y, carried = net(x, carried)
                pieces.append(y.clone())
            output = torch.cat(pieces)
        else:
            output = net(problem.x)[0] if state else net.output(problem.x)
        return {"": output, **{name: by_quantity["output"] for name, by_quantity in recorded.items()}}

    at_once = partial(net if state else net.output, problem.x)
    return Runner(step_by_step if problem.one_call_a_step else at_once, signals)
