"""The floors: unavoidable work, measured in the same run."""

import copy
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.problem import Candidate, Problem, Runner
from neurocuda import load
from neurocuda.compiler.certificate import Integers
from neurocuda.compiler.exactness import certify
from neurocuda.ops import int8
from neurocuda.runtime.operands import convolution_pads


def candidates(problem: Problem) -> Iterable[Candidate]:
    if problem.separate:
        yield Candidate("floor: read and write once", "floor", _copy)
        yield Candidate("floor: x.clone()", "floor", _clone)
    else:
        yield Candidate("floor: the layers alone", "floor", partial(_layers_alone, layout=torch.contiguous_format))
        if any(isinstance(layer, nn.Conv2d) for layer in problem.layers.values()) and not problem.one_call_a_step:
            last = partial(_layers_alone, layout=torch.channels_last)
            yield Candidate("floor: the same, channels last", "floor", last)
        if integer_layers(problem) and not problem.one_call_a_step:
            yield Candidate("floor: the same as exact int8", "floor", _integers_alone)


def _copy(problem: Problem) -> Runner:
    """As many bytes as the neurons must read and write, into memory that is already there."""
    target = torch.empty_like(problem.x)
    return Runner(lambda: target.copy_(problem.x))


def _clone(problem: Problem) -> Runner:
    return Runner(problem.x.clone)


def _layers_alone(problem: Problem, layout: torch.memory_format) -> Runner:
    """Each layer with weights as a dense vendor-library call on the true signals, all steps in one call if possible."""
    weighted = {name: layer for name, layer in problem.layers.items() if hasattr(layer, "weight")}
    sources = {name: [a for a, b in problem.graph.edges if b == name] for name in weighted}
    read = {source: "output" for names in sources.values() for source in names}
    net = load(problem.graph, problem.discretization).to(problem.x.device)
    recordings = net.run(problem.x, record=read).recordings
    calls: list[tuple[Callable[[Tensor], Tensor], tuple[Tensor, ...]]] = []
    for name, layer in weighted.items():
        (source,) = sources[name]
        signal = recordings[source]["output"]
        stepwise = problem.one_call_a_step or name.endswith("w_rec")
        inputs = tuple(signal) if stepwise else (signal.flatten(0, 1),)
        if isinstance(layer, nn.Conv2d):
            layer = copy.deepcopy(layer)
            layer.weight.data = layer.weight.data.contiguous(memory_format=layout)
            inputs = tuple(x.contiguous(memory_format=layout) for x in inputs)
        calls.append((layer, inputs))

    def run() -> None:
        for layer, inputs in calls:
            for x in inputs:
                layer(x)

    return Runner(run)


def integer_layers(problem: Problem) -> dict[str, Integers]:
    """The layers that are proved to be int8 products, if int8 is faster on this device."""
    gains = int8.is_fast(problem.x.device.type)
    proofs = certify(problem.graph, problem.discretization).proofs if gains else ()
    return {p.node: p.integers for p in proofs if p.integers is not None and p.type == "Conv2d"}


def _integers_alone(problem: Problem) -> Runner:
    """The int8 convolutions alone, with prepacked weights: in the vendor library, on a GPU in our kernel."""
    device = problem.x.device
    net = load(problem.graph, problem.discretization).to(device)
    layers = integer_layers(problem)
    recordings = net.run(problem.x, record=dict.fromkeys(layers, "input")).recordings
    calls: list[Callable[[], Tensor]] = []
    for name, numbers in layers.items():
        node, step = problem.graph.nodes[name], 2.0**numbers.signal_step
        frames = (recordings[name]["input"].flatten(0, 1) / step).to(torch.uint8)
        weight = int8.from_float32(torch.from_numpy(node.array("weight").astype("float32")), numbers.weight_steps)
        if device.type == "cuda":
            int8.prepack_for_gpu(weight, step, device)
        calls.append(
            partial(
                int8.convolution,
                frames.contiguous(memory_format=torch.channels_last),
                weight,
                None,
                step,
                node.numbers("stride"),
                [before for before, _ in convolution_pads(node)],
                node.numbers("dilation"),
                node.number("groups"),
            )
        )

    def run() -> None:
        for call in calls:
            call()

    return Runner(run)
