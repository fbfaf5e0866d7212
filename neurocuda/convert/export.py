"""`to_nir`: a converted network, an executor or a model of neuron modules as a NIR file."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace

import nir
import numpy as np
import torch
from torch import Tensor, nn

from neurocuda.convert.snn import SNN
from neurocuda.convert.tracing.tracer import trace
from neurocuda.discretization.coefficients import INITIAL_V, coefficients, neuron_parameters, stated_potential
from neurocuda.discretization.metadata import written
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError, NeuroCUDAWarning
from neurocuda.graph import Graph, Node, SoftReset, align, soft_resets
from neurocuda.graph.model import collapse
from neurocuda.graph.patterns import replaced
from neurocuda.graph.serialization import write
from neurocuda.quantization.quantize import QUANTIZED
from neurocuda.runtime.nir_executor import Executor
from neurocuda.version import __version__

RESETS = ("loop", "if")


def to_nir(
    network: nn.Module,
    path: str | os.PathLike[str],
    example_input: Tensor | None = None,
    *,
    reset: str = "loop",
    dense_groups: bool = False,
) -> Graph:
    """Writes a network as a NIR file.

    The metadata state the discretization, with which `load` runs the file, versions and read-out steps, and of a
    quantized network the bits of its weights and the grid of its input, to which callers must round. The same network
    results in the same bytes.

    Args:
        network: An `SNN`, an `Executor`, or a model of `neurocuda.nn` neurons and layers.
        path: The file; an existing one is replaced once all is written.
        example_input: [T, B, *shape] on which a model is traced; needed for a model alone.
        reset: "loop" writes a soft-reset neuron as I, Threshold and a Scale back, in standard NIR, without loss; "if"
            as `nir.IF`, for tools that reset by subtraction, with a warning of what that assumes.
        dense_groups: Writes grouped convolutions as dense ones, and kernels as squares, by zeros, as the nir package's
            type check requires.

    Returns:
        The graph that was written.

    Raises:
        ArgumentError: An argument does not fit, such as reset="if" beside neurons that reset to a value.
        UnsupportedModuleError: The model cannot be traced.
        FileError: The file cannot be written.

    Example:
        >>> import neurocuda, tempfile, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
        >>> snn = neurocuda.convert(model, torch.rand(16, 4), report=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     graph = neurocuda.to_nir(snn, f"{folder}/model.nir")
        >>> graph.inputs
        ('input',)
    """
    if reset not in RESETS:
        raise ArgumentError(f"reset: expected one of {', '.join(map(repr, RESETS))}, found {reset!r}")
    graph, d, extra = _graph(network, example_input)
    if reset == "if":
        d = _subtracting(graph, d)
        graph = _with_if(graph)
    if dense_groups:
        graph = replace(graph, nodes={name: _dense(node) for name, node in graph.nodes.items()})
    versions = {"neurocuda": __version__, "torch": str(torch.__version__), "nir": str(nir.version)}
    quantized = {QUANTIZED: extra.pop(QUANTIZED)} if QUANTIZED in extra else {}
    graph = replace(graph, metadata=written(d, {**extra, "versions": versions, "reset": reset}) | quantized)
    write(graph, path)
    return graph


def _graph(network: nn.Module, example_input: Tensor | None) -> tuple[Graph, Discretization, dict[str, object]]:
    if isinstance(network, SNN):
        extra: dict[str, object] = {"timesteps": network.timesteps, "readout_delay": network.readout_delay}
        if network.quantized is not None:
            extra |= {QUANTIZED: network.graph.metadata[QUANTIZED]}
        return current(network.network), network.network.discretization, extra
    if isinstance(network, Executor):
        return current(network), network.discretization, {}
    if not isinstance(network, nn.Module):
        raise ArgumentError(f"network: expected an SNN, an Executor or a module, found a {type(network).__name__}")
    if not isinstance(example_input, Tensor):
        found = "none" if example_input is None else f"a {type(example_input).__name__}"
        raise ArgumentError(f"example_input: expected a tensor [T, B, *shape], to trace the model on, found {found}")
    graph = trace(network, example_input)
    rectifiers = [name for name, node in graph.nodes.items() if node.primitive.is_rectifier]
    if rectifiers:
        raise ArgumentError(
            f"network, {rectifiers[0]!r}: expected spiking neurons, found a ReLU; "
            "neurocuda.convert makes a spiking network of such a model"
        )
    return graph, _discretization(network), {}


def _discretization(network: nn.Module) -> Discretization:
    """The common discretization of the neuron modules."""
    found = {name: m.discretization for name, m in network.named_modules() if hasattr(m, "discretization")}
    names = list(found)
    for name in names[1:]:
        if found[name] != found[names[0]]:
            raise ArgumentError(
                f"network: expected one discretization for all neurons, found {found[names[0]]} in {names[0]!r} "
                f"and {found[name]} in {name!r}"
            )
    return found[names[0]] if names else Discretization()


def current(net: Executor) -> Graph:
    """The graph of an executor with its current parameters, such as after training."""
    nodes = {}
    for name, node in net.graph.nodes.items():
        fresh: dict[str, np.ndarray] = {}
        for field, value in node.parameters.items():
            key = net.parameter_name(name, field)
            if key is None or not isinstance(value, np.ndarray):
                continue
            now = getattr(net, key).detach().cpu().numpy()
            before = value.astype(now.dtype)
            if now.size != before.size or not np.array_equal(now.reshape(-1), before.reshape(-1)):
                weight = field in ("weight", "bias")
                fresh[field] = now.copy() if weight else collapse(now, len(node.input_shape))
        nodes[name] = replace(node, parameters={**node.parameters, **fresh}) if fresh else node
    return replace(net.graph, nodes=nodes)


def _subtracting(graph: Graph, d: Discretization) -> Discretization:
    """The Discretization in which a `nir.IF` computes what a loop computes with `d`.

    Raises `ArgumentError` if it changes other neurons of the graph.
    """
    if not soft_resets(graph):
        return d
    own = {"IF": 0, **{name: d.reset_delay_of(name) for name in ("LIF", "CubaLIF")}}
    bounds = {"IF": "none", **{name: d.clamp_of(name) for name in ("LIF", "CubaLIF")}}
    result = replace(d, reset="subtract", spikes_per_step="one", reset_delay=own, clamp=bounds)
    for name, node in graph.nodes.items():
        if node.primitive.is_neuron and node.primitive.is_spiking and _firing(node, d) != _firing(node, result):
            raise ArgumentError(
                f"reset: expected 'loop' for a network with the neuron {name!r}, which fires or resets otherwise "
                "than a soft-reset neuron (one Discretization holds for all neurons of a file), found 'if'"
            )
    return result


def _firing(node: Node, d: Discretization) -> tuple[object, ...]:
    c = coefficients(node, neuron_parameters(node), d)
    return c.reset, c.spikes_per_step, c.reset_delay, c.v_min is None


def _with_if(graph: Graph) -> Graph:
    """The same graph with `nir.IF` in place of loops."""

    def neuron(loop: SoftReset) -> Node:
        node, rank = graph.nodes[loop.integrator], len(graph.nodes[loop.integrator].input_shape)
        theta = np.asarray(-graph.nodes[loop.scale].array("scale"), np.float64)
        level = np.asarray(graph.nodes[loop.threshold].array("threshold"), np.float64)
        start = collapse(align(theta, rank) - align(level, rank), rank)
        parameters = {"r": node.array("r"), "v_threshold": theta, "v_reset": np.zeros_like(theta)}
        if INITIAL_V in node.metadata:
            start = start + stated_potential(node).numpy()
        metadata = {**node.metadata, INITIAL_V: start} if start.any() else node.metadata
        return replace(node, type="IF", parameters=parameters, metadata=metadata)

    result = replaced(graph, neuron)
    warnings.warn(
        f"reset='if': {len(soft_resets(graph))} populations are written as nir.IF, which by NIR resets to v_reset; "
        "the file is right only for a tool that subtracts the threshold in place of that, such as sinabs, or with "
        "neurocuda.load, which reads that and their initial potential from the metadata. Other tools start them at 0, "
        "so that results settle later",
        NeuroCUDAWarning,
        stacklevel=3,
    )
    return result


def _dense(node: Node) -> Node:
    """A convolution as one with one group and a square kernel, by zero weights."""
    if not node.primitive.is_convolution:
        return node
    groups, weight = node.number("groups"), node.array("weight")
    out, each = weight.shape[0] // groups, weight.shape[1]
    dense = np.zeros((weight.shape[0], each * groups, *weight.shape[2:]), weight.dtype)
    for group in range(groups):
        rows = slice(group * out, (group + 1) * out)
        dense[rows, group * each : (group + 1) * each] = weight[rows]
    return _square(replace(node, parameters={**node.parameters, "weight": dense, "groups": 1}))


def _square(node: Node) -> Node:
    """The same convolution with a kernel of one size along all axes, where padding can compensate for it."""
    weight, padding = node.array("weight"), node.parameters["padding"]
    kernel = weight.shape[2:]
    if len(set(kernel)) == 1 or not isinstance(padding, tuple):
        return node
    for size in range(max(kernel), max(kernel) + 3):
        wider = [_wider(node, axis, size) for axis in range(len(kernel))]
        if None not in wider:
            pads = tuple(pad for pad in wider if pad is not None)
            gaps = node.numbers("dilation")
            before = [(new - old) // gap for new, old, gap in zip(pads, padding, gaps, strict=True)]
            after = [size - k - b for k, b in zip(kernel, before, strict=True)]
            square = np.pad(weight, [(0, 0), (0, 0), *zip(before, after, strict=True)])
            return replace(node, parameters={**node.parameters, "weight": square, "padding": pads})
    return node


def _wider(node: Node, axis: int, size: int) -> int | None:
    """The padding with which a kernel grown to `size` along an axis has as many windows in the same places, if any."""
    kernel, padding = node.array("weight").shape[2 + axis], node.numbers("padding")[axis]
    gap, stride, length = node.numbers("dilation")[axis], node.numbers("stride")[axis], node.input_shape[1 + axis]
    for more in range(size - kernel + 1):
        wider = padding + more * gap
        if (length + 2 * wider - gap * (size - 1) - 1) // stride + 1 == node.output_shape[1 + axis]:
            return wider
    return None
