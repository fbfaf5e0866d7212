"""The parameters of a network: registered on its module, or constants of a frozen network, which are not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from neurocuda.discretization.coefficients import delay_steps, initial_potential, neuron_parameters
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError
from neurocuda.graph import Graph, Node, Shape, align
from neurocuda.ops import vendor

Field = tuple[str, str]
"""A node and the name of one of its fields."""

_WEIGHTS = ("weight", "bias", "scale")


class ParameterStore:
    """Names, registers and reads the parameters of one network.

    A parameter is named `node:field`, a dot of the node's name written '/'. Fields of neurons and thresholds are
    float64 buffers (parameters where `learn` names them), weights, biases and scales float32 parameters, delays int64
    buffers of steps. A frozen network registers nothing: `constants` is a module of its own, and the weights of the
    layers that the vendor library computes are built from the graph when they are first read.
    """

    def __init__(
        self, network: nn.Module, graph: Graph, d: Discretization, learn: Collection[str], lazy: Collection[str] | None
    ) -> None:
        """Registers the parameters and buffers.

        Args:
            network: Registers the parameters, unless frozen.
            learn: Fields of neurons to register as parameters.
            lazy: Layers of a frozen network whose weights are built when first read; None: not frozen.

        Raises:
            ArgumentError: No neuron has a field to learn.
        """
        self.graph = graph
        self.exact: dict[Field, str] = {}
        self.weights: dict[Field, str] = {}
        self.delays: dict[str, str] = {}
        self.delay_counts: dict[str, tuple[int, ...]] = {}
        self.frozen, self._d = lazy is not None, d
        self.constants = nn.Module() if self.frozen else None
        self.device = torch.device("cpu")  # of the constants
        self._prepacked: dict[str, Tensor] = {}
        module = network if self.constants is None else self.constants
        for node in graph.nodes.values():
            self._register(module, node, d, learn, node.name in (lazy or ()))
        names = (*self.weights.values(), *self.exact.values(), *self.delays.values())
        # Parameters of the network, unless a parametrization or pruning computes one from others at every call.
        self.registered = frozenset(() if self.frozen else names)
        nodes = [node for node in graph.nodes.values() if node.primitive.is_neuron]
        starts = {node.name: initial_potential(node, neuron_parameters(node), d) for node in nodes}
        self.starts = frozenset(name for name, start in starts.items() if start is not None)  # elsewhere than at zero
        known = {entry for _, entry in self.exact}
        if unknown := sorted(set(learn) - known):
            raise ArgumentError(f"learn: expected neuron parameters of this graph {sorted(known)}, found {unknown}")
        if self.constants is not None:
            self.constants.requires_grad_(False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepacked": {}}  # the vendor library's layout cannot be copied

    def _register(self, module: nn.Module, node: Node, d: Discretization, learn: Collection[str], lazy: bool) -> None:
        prefix = node.name.replace("~", "~0").replace("/", "~1").replace(".", "/")
        if node.primitive.is_delay:
            steps = delay_steps(node, d)
            self.delays[node.name] = f"{prefix}:steps"
            self.delay_counts[node.name] = tuple(sorted(set(steps.flatten().tolist())))
            module.register_buffer(self.delays[node.name], steps, persistent=False)
        exact = node.primitive.is_neuron or node.primitive.emits_spikes
        for entry, value in neuron_parameters(node).items() if exact else ():
            key = self.exact[node.name, entry] = f"{prefix}:{entry}"
            if entry in learn:
                module.register_parameter(key, nn.Parameter(value))
            else:
                module.register_buffer(key, value)
        for entry in [name for name in _WEIGHTS if name in node.parameters]:
            key = self.weights[node.name, entry] = f"{prefix}:{entry}"
            if not (lazy and entry == "weight"):
                module.register_parameter(key, nn.Parameter(weight_of(node, entry)))

    def name(self, node: str, field: str) -> str | None:
        """The name of the parameter or buffer of a field, None if there is none."""
        return None if self.frozen else self.weights.get((node, field), self.exact.get((node, field)))

    def by_field(self, network: nn.Module) -> dict[Field, Tensor]:
        """Parameters and buffers of the nodes by field; {} where frozen."""
        if self.frozen:
            return {}
        tensors = {**network._parameters, **network._buffers}  # faster than one attribute after the other
        found = {}
        for key, name in (*self.weights.items(), *self.exact.items()):
            value = tensors.get(name)
            found[key] = getattr(network, name) if value is None else value
        return found

    def neurons(self, network: nn.Module) -> dict[str, dict[str, Tensor]]:
        """float64 parameters of the neurons, by node and field."""
        module = self._module(network)
        found: dict[str, dict[str, Tensor]] = {}
        for (name, entry), key in self.exact.items():
            if self.graph.nodes[name].primitive.is_neuron:
                found.setdefault(name, {})[entry] = getattr(module, key)
        return found

    def initial_state(self, network: nn.Module, entries: Mapping[str, Shape], batch: int) -> dict[str, Tensor]:
        """The state before the first step, by entry, [batch, *shape]; differentiable."""
        nodes, rest = self.graph.nodes, {}
        for name, p in self.neurons(network).items():
            if name in self.starts:
                rest[f"{name}.v"] = initial_potential(nodes[name], p, self._d)
        device = next(t.device for t in rest.values() if t is not None)
        found = {}
        for entry, shape in entries.items():
            start = rest.get(entry)
            zero = torch.zeros((), device=device)
            found[entry] = (zero if start is None else start).expand(batch, *shape).contiguous()
        return found

    def float_weights(self, network: nn.Module) -> dict[Field, Tensor]:
        """float32 weights, biases, scales and thresholds by field; where frozen, lazy weights are made when read."""
        module = self._module(network)
        if self.constants is None:
            weights = {key: getattr(module, name).float() for key, name in self.weights.items()}
        else:
            if torch.compiler.is_compiling():
                _make_all(self)
            made = self.constants._parameters
            present: dict[Field, Any] = {key: made[name] for key, name in self.weights.items() if name in made}
            weights = _LazyWeights(self._make, present)
        for (name, entry), key in self.exact.items():
            if not self.graph.nodes[name].primitive.is_neuron:
                weights[name, entry] = getattr(module, key).float()
        return weights

    def steps_of_delay(self, network: nn.Module, node: str) -> Tensor:
        """The delay of each element in time steps, int64."""
        steps: Tensor = getattr(self._module(network), self.delays[node])
        return steps

    def vendor_weight(self, node: Node, padding: Sequence[int]) -> Tensor:
        """A frozen network's weights of a convolution, prepacked for the vendor library on CPUs."""
        prepacked = self._prepacked.get(node.name)
        if prepacked is None:
            with _disable_current_modes():  # a tape must not record it
                stride, dilation, groups = node.numbers("stride"), node.numbers("dilation"), node.number("groups")
                weight = weight_of(node, "weight")
                prepacked = vendor.prepack(weight, node.input_shape, stride, padding, dilation, groups)
            self._prepacked[node.name] = prepacked
        return prepacked

    def move(self, network: nn.Module, fn: Callable[[Tensor], Tensor], apply: Callable[[], object]) -> None:
        """Moves the parameters with `apply`, the module's method, which calls `fn` for each.

        float64 and int64 ones keep their dtype. The constants of a frozen network only follow `fn` to a device.
        """
        if self.constants is None:
            keep_types(network, [*self.exact.values(), *self.delays.values()], apply)
        else:
            self.device = fn(torch.empty(0, device=self.device)).device
            self.constants.to(self.device)
            self._prepacked = {}

    def _module(self, network: nn.Module) -> nn.Module:
        return network if self.constants is None else self.constants

    def _make(self, key: Field) -> Tensor:
        assert self.constants is not None
        with _disable_current_modes(), torch.inference_mode(False):
            value = weight_of(self.graph.nodes[key[0]], key[1]).to(self.device)
            self.constants.register_parameter(self.weights[key], nn.Parameter(value, requires_grad=False))
        return value


def weight_of(node: Node, entry: str) -> Tensor:
    """A weight, bias or scale of a node as float32, a scale aligned with its signal."""
    array = node.array(entry)
    if entry == "scale":
        array = align(array, len(node.input_shape))
    if entry == "bias" and array.size == 1:
        array = array.reshape((1,) * len(node.bias_shape))
    return torch.from_numpy(array.astype(np.float32))


def keep_types(module: nn.Module, names: Collection[str], move: Callable[[], object]) -> None:
    """Calls `move`, which may convert a module; the named tensors and their gradients keep their dtypes."""
    tensors = {name: getattr(module, name) for name in names}
    before = {
        name: (tensor.detach().clone(), None if tensor.grad is None else tensor.grad.clone())
        for name, tensor in tensors.items()
    }
    move()
    for name, (value, gradient) in before.items():
        after = getattr(module, name)
        if after.dtype != value.dtype:
            after.grad = None
            after.data = value.to(after.device)
            after.grad = None if gradient is None else gradient.to(after.device)


def _make_all(store: ParameterStore) -> bool:
    """Builds all lazy weights, as torch.compile cannot read arrays while it traces."""
    assert store.constants is not None
    for key, name in store.weights.items():
        if name not in store.constants._parameters:
            store._make(key)
    return True


# What torch.compiler.assume_constant_result does, which would import all of the compiler here.
_make_all._dynamo_marked_constant = True  # type: ignore[attr-defined]


class _LazyWeights(dict[Field, Tensor]):
    def __init__(self, make: Callable[[Field], Tensor], present: Mapping[Field, Tensor]) -> None:
        super().__init__(present)
        self._make = make

    def __missing__(self, key: Field) -> Tensor:
        self[key] = self._make(key)
        return self[key]
