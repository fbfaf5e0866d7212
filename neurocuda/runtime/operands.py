"""Builds the operands (weights, neuron coefficients, delays) of the operators from module parameters or constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from operator import attrgetter, is_
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from neurocuda.compiler.lowering import LoweredNode, LoweredSchedule
from neurocuda.discretization.coefficients import coefficients, coefficients_together
from neurocuda.discretization.settings import Discretization
from neurocuda.graph import Node
from neurocuda.ops import NeuronCoefficients, Surrogate, bound, native, reference, vendor
from neurocuda.ops.backends import operators
from neurocuda.ops.coefficients import SpikeWhen
from neurocuda.ops.int8 import IntegerWeight
from neurocuda.runtime.guards import Guards, Speculation
from neurocuda.runtime.parameters import Field, ParameterStore

VendorWeight = Callable[[Node, Sequence[int]], Tensor]
"""A convolution and its padding to its weights, prepacked for the vendor library on CPUs."""


@dataclass(frozen=True)
class Delays:
    """steps: the delay of each element in time steps. counts: the distinct delays, ascending, known on the host."""

    steps: Tensor
    counts: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Operands:
    """What the operators of a network read besides signals and state, on one device.

    weights: float32, by node and field. bound: operators of neurons, ordered layers and pools with their operands
    (`ops.bound`), by node. prepacked: weights for the native operators. int8: weights of the layers that run in
    integers. bytes: populations whose spikes are uint8, for int8 layers. vendor_weight: returns cached weights that are
    prepacked for the vendor library. derived: tensors computed from parameters, in a fixed order.
    """

    operators: ModuleType
    weights: Mapping[Field, Tensor]
    coefficients: Mapping[str, NeuronCoefficients]
    bound: Mapping[str, Callable[..., Any]]
    prepacked: Mapping[str, Tensor]
    delays: Mapping[str, Delays]
    spike_when: SpikeWhen
    surrogate: Surrogate
    vendor_weight: VendorWeight | None = None
    int8: Mapping[str, IntegerWeight] = field(default_factory=dict)
    bytes: frozenset[str] = frozenset()
    derived: Sequence[Tensor] = ()


@dataclass(frozen=True)
class OperandBuilder:
    """Builds operands for one network; cached between calls that nothing observes.

    Cached operands are speculative: their guards compare the parameters with a snapshot. If one differs, the derived
    tensors are computed again in the same memory, which programs and CUDA graphs read.
    """

    store: ParameterStore
    lowered: LoweredSchedule
    discretization: Discretization
    surrogate: Surrogate

    def build(self, network: nn.Module, device: torch.device, cached: bool = False) -> Operands:
        """Operands of the current parameters, differentiable. cached: for later calls as well."""
        ops, store = operators(device), self.store
        neurons = store.neurons(network)
        if device.type == "cpu":
            nodes = store.graph.nodes
            c = {name: coefficients(nodes[name], p, self.discretization) for name, p in neurons.items()}
        else:
            c = coefficients_together(store.graph.nodes, neurons, self.discretization)
        weights = store.float_weights(network)
        ordered = self.lowered.packed_layers if ops is native else ()
        prepacked = {name: native.prepack(weights[name, "weight"], store.graph.nodes[name].groups) for name in ordered}
        delays = {name: Delays(store.steps_of_delay(network, name), store.delay_counts[name]) for name in store.delays}
        bound_ = {}
        for entry in [entry for stage in self.lowered.stages for entry in stage.nodes]:
            operator = self._bind(entry, ops, weights, c, prepacked)
            if operator is not None:
                bound_[entry.node.name] = operator
        tensors = [getattr(of_one, entry.name) for of_one in c.values() for entry in fields(of_one)]
        parameters = store.by_field(network)
        converted = [t for key, t in weights.items() if key in parameters and t is not parameters[key]]
        derived = [t for t in (*tensors, *prepacked.values(), *converted) if isinstance(t, Tensor)]
        vendor_weight = store.vendor_weight if cached and store.frozen and device.type == "cpu" else None
        return Operands(
            ops,
            weights,
            c,
            bound_,
            prepacked,
            delays,
            self.discretization.spike_when,
            self.surrogate,
            vendor_weight if vendor_weight is not None and vendor.can_prepack() else None,
            derived=derived,
        )

    def _bind(
        self,
        entry: LoweredNode,
        ops: ModuleType,
        weights: Mapping[Field, Tensor],
        c: Mapping[str, NeuronCoefficients],
        prepacked: Mapping[str, Tensor],
    ) -> Callable[..., Any] | None:
        node, name = entry.node, entry.node.name
        if name in c:
            return bound.neuron(ops, c[name], self.surrogate, len(self.lowered.schedule.edges[name]))
        if node.primitive.is_pool:
            window = (node.numbers(entry) for entry in ("kernel_size", "stride", "padding"))
            return bound.pool(ops, node.primitive.averages, *window)
        if entry.how != "ordered":
            return None
        weight, bias, packed = weights[name, "weight"], weights.get((name, "bias")), prepacked.get(name)
        if node.groups is None:
            return bound.linear(ops, weight, bias, packed)
        assert bias is not None
        stride, dilation = node.numbers("stride"), node.numbers("dilation")
        return bound.convolution(ops, weight, bias, stride, convolution_pads(node), dilation, node.groups, packed)

    def sources(self, network: nn.Module) -> list[Tensor]:
        """The parameters that derived tensors are computed from: all but float32 weights that operators read."""
        store, ordered = self.store, {(name, "weight") for name in self.lowered.packed_layers}
        by_field = store.by_field(network).items()
        return [t for key, t in by_field if key in store.exact or key in ordered or t.dtype != torch.float32]


class OperandCache:
    """The operands of the last call that nothing observed, and the parameters that they were computed from."""

    def __init__(self, builder: OperandBuilder) -> None:
        self._builder = builder
        self.operands: Operands | None = None
        self._device: torch.device | None = None
        self._parameters: list[Tensor] = []
        self._dtypes: list[torch.dtype] = []
        self._guards = Guards()

    def speculate(self, network: nn.Module, device: torch.device) -> Speculation[Operands]:
        """Operands for a call on the native operators. The guards of a CPU are checked at once."""
        parameters = [t for t in (*network._parameters.values(), *network._buffers.values()) if t is not None]
        dtypes = list(map(attrgetter("dtype"), parameters))
        same = dtypes == self._dtypes and all(map(is_, parameters, self._parameters))
        operands = self.operands
        if operands is None or not same or self._device != device:
            self._parameters, self._dtypes, self._device = parameters, dtypes, device
            operands = self._rebuild(network, device)
        guards = self._guards
        if not guards.current:
            return Speculation(operands)
        check = import_module("neurocuda._C").Answer()
        check.ask_same_bits(guards.current, guards.snapshot)
        if device.type != "cpu":
            return Speculation(operands, lambda: check.wait() or self._update(network, device) is None, guards)
        if not check.wait():
            operands = self._update(network, device)
        return Speculation(operands, guards=self._guards)

    def _rebuild(self, network: nn.Module, device: torch.device) -> Operands:
        with torch.inference_mode(False), torch.no_grad():
            current = self._builder.sources(network)
            operands = self._builder.build(network, device, cached=True)
            self.operands, self._guards = operands, Guards(current, [t.detach().clone() for t in current])
        _synchronize(device)
        return operands

    def _update(self, network: nn.Module, device: torch.device) -> Operands:
        """Computes the derived tensors again, in the memory that programs and graphs read."""
        assert self.operands is not None
        with torch.inference_mode(False), torch.no_grad():
            new = self._builder.build(network, device, cached=True)
            old, values = [*self.operands.derived, *self._guards.snapshot], [*new.derived, *self._guards.current]
            if [(t.shape, t.dtype) for t in old] != [(t.shape, t.dtype) for t in values]:
                return self._rebuild(network, device)
            torch._foreach_copy_(old, values)
        _synchronize(device)
        return self.operands


def _synchronize(device: torch.device) -> None:
    """Waits for the current stream, as the next call may run on another."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def convolution_pads(node: Node) -> reference.Pads:
    """Zeros before and after each axis of a convolution; 'same' puts the odd one after, as torch does."""
    padding = node.parameters["padding"]
    if isinstance(padding, tuple):
        return tuple((zeros, zeros) for zeros in padding)
    if padding == "valid":
        return tuple((0, 0) for _ in node.numbers("stride"))
    kernel = node.array("weight").shape[2:]
    totals = [gap * (k - 1) for k, gap in zip(kernel, node.numbers("dilation"), strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)
