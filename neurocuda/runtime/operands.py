"""Builds the operands (weights, neuron coefficients, delays) of the operators from module parameters or constants."""

from __future__ import annotations

import threading
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
        converted = [t for key, t in weights.items() if key in parameters]
        own = set(map(id, parameters.values()))  # a float32 buffer, set by a user, may be a coefficient
        derived = [t for t in (*tensors, *prepacked.values(), *converted) if isinstance(t, Tensor) and id(t) not in own]
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


@dataclass(frozen=True)
class _Cached:
    """Operands, the parameters and dtypes that they were built for, and guards on the values of these."""

    operands: Operands
    device: torch.device
    parameters: Sequence[Tensor]
    dtypes: Sequence[torch.dtype]
    guards: Guards

    def fits(self, parameters: Sequence[Tensor], dtypes: Sequence[torch.dtype], device: torch.device) -> bool:
        return dtypes == self.dtypes and all(map(is_, parameters, self.parameters)) and device == self.device


class OperandCache:
    """The operands of the last call that nothing observed, and the parameters that they were computed from.

    Threads may call while another one edits parameters: one thread at a time updates, and a snapshot is taken before
    the operands are computed, so that a later edit fails the guards.
    """

    def __init__(self, builder: OperandBuilder) -> None:
        self._builder = builder
        self._cached: _Cached | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[OperandCache], tuple[OperandBuilder]]:
        return OperandCache, (self._builder,)  # a copy builds anew

    @property
    def operands(self) -> Operands | None:
        return None if self._cached is None else self._cached.operands

    def speculate(self, network: nn.Module, device: torch.device) -> Speculation[Operands]:
        """Operands for a call on the native operators. The guards of a CPU are checked at once."""
        parameters = [t for t in (*network._parameters.values(), *network._buffers.values()) if t is not None]
        dtypes = list(map(attrgetter("dtype"), parameters))
        known = self._cached
        if known is not None and known.fits(parameters, dtypes, device):
            cached = known
        else:
            cached = self._rebuild(network, parameters, dtypes, device)
        guards = cached.guards
        if not guards.current:
            return Speculation(cached.operands)
        check = import_module("neurocuda._C").Answer()
        check.ask_same_bits(guards.current, guards.snapshot)
        if device.type != "cpu":
            return Speculation(cached.operands, lambda: check.wait() or self._update(network, cached) is None, guards)
        if not check.wait():
            cached = self._update(network, cached)
        return Speculation(cached.operands, guards=cached.guards)

    def _rebuild(
        self, network: nn.Module, parameters: Sequence[Tensor], dtypes: Sequence[torch.dtype], device: torch.device
    ) -> _Cached:
        with torch.inference_mode(False), torch.no_grad():
            current = self._builder.sources(network)
            snapshot = [t.detach().clone() for t in current]
            operands = self._builder.build(network, device, cached=True)
        _synchronize(device)
        self._cached = _Cached(operands, device, parameters, dtypes, Guards(current, snapshot))
        return self._cached

    def _update(self, network: nn.Module, cached: _Cached) -> _Cached:
        """Computes the derived tensors again, in the memory that programs and graphs read."""
        guards, device = cached.guards, cached.device
        with self._lock, torch.inference_mode(False), torch.no_grad():
            if import_module("neurocuda._C").same_bits(guards.current, guards.snapshot):
                return cached  # another thread has updated it
            snapshot = [t.detach().clone() for t in guards.current]
            new = self._builder.build(network, device, cached=True)
            old, values = [*cached.operands.derived, *guards.snapshot], [*new.derived, *snapshot]
            if [(t.shape, t.dtype) for t in old] != [(t.shape, t.dtype) for t in values]:
                return self._rebuild(network, cached.parameters, cached.dtypes, device)
            torch._foreach_copy_(old, values)  # in this order: a thread that sees the snapshot sees all
            _synchronize(device)
        return cached


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
