"""The layers of a network that run as whole numbers, for as long as the proof holds that lets them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurocuda.compiler.certificate import Certificate
from neurocuda.compiler.lowering import LoweredNode, LoweredSchedule
from neurocuda.ops import int8, native
from neurocuda.ops.int8 import IntegerWeight
from neurocuda.runtime.guards import Guards, Speculation

Parameters = Mapping[tuple[str, str], Tensor]
"""By node and field."""

Int8Weights = dict[str, IntegerWeight]
"""By node."""


class Int8Layers:
    """Their weights as int8, and what the parameters were that the certificate speaks of.

    A changed parameter ends it: from then on these layers run in float32, until the network is loaded anew. Without
    parameters, all are constants, and none is looked at.
    """

    def __init__(self, lowered: LoweredSchedule, certificate: Certificate, parameters: Parameters | None) -> None:
        self._constant = parameters is None
        self._layers: dict[str, LoweredNode] = {entry.node.name: entry for entry in lowered.integer_layers}
        self._grids = certificate.inputs
        self._rests_on = frozenset[str]().union(*(_inputs(entry) for entry in self._layers.values()))
        given = parameters if parameters and self._layers else {}
        self._rest = {key: t.detach().cpu().clone() for key, t in given.items() if not self._is_whole(key)}
        self._weights: dict[str, IntegerWeight] = {}
        self._on_gpu: _OnGpu | None = None

    def __getstate__(self) -> dict[str, Any]:
        # the library's own form of them cannot be copied, and a copy may lie elsewhere
        return {**self.__dict__, "_weights": {}, "_on_gpu": None}

    def forget(self) -> None:
        """Forget the weights, which are made anew from the graph when they are asked for, wherever that is."""
        self._weights, self._on_gpu = {}, None

    def _is_whole(self, key: tuple[str, str]) -> bool:
        return key[0] in self._layers and key[1] == "weight"

    def usable(self, inputs: Mapping[str, Tensor], parameters: Parameters) -> dict[str, IntegerWeight]:
        """The weights of the layers that may run as whole numbers in this call on a CPU, by name."""
        if not self._layers or not inputs or not _serves(inputs.values(), "cpu") or not self._holds(parameters):
            return {}
        return self._weights

    def of_chunk(self, weights: dict[str, IntegerWeight], inputs: Mapping[str, Tensor]) -> dict[str, IntegerWeight]:
        """Of the usable weights those for a chunk: all, if the inputs that they rest on keep their promise."""
        kept = not weights or all(
            int8.on_grid(inputs[name], grid.step, grid.low, grid.high)
            for name, grid in self._grids.items()
            if name in self._rests_on
        )
        if kept:
            return weights
        return {name: weight for name, weight in weights.items() if not _inputs(self._layers[name])}

    def guards(self, inputs: Mapping[str, Tensor], parameters: Parameters) -> tuple[tuple[str, ...], Guards]:
        """The layers that ran as whole numbers in a call of one chunk on a CPU, just now, and what shows that they may
        in another of its kind.
        """
        if not self._weights or not _serves(inputs.values(), "cpu"):
            return (), Guards()
        if self.of_chunk(self._weights, inputs) is not self._weights:
            return (), Guards()
        grids = _looked_at(self._promised(self._rests_on, inputs))
        if self._constant:
            return tuple(self._weights), Guards(grids=grids)
        integers = self._weights.values()
        guards = Guards(
            [parameters[key] for key in self._rest],
            [*self._rest.values()],
            [parameters[name, "weight"] for name in self._weights],
            [int8.values_of(weight) for weight in integers],
            [weight.scales for weight in integers],
            grids,
        )
        return tuple(self._weights), guards

    def _promised(
        self, names: Collection[str], inputs: Mapping[str, Tensor]
    ) -> list[tuple[Tensor, float, float, float]]:
        found = [(inputs[name], self._grids[name]) for name in sorted(names)]
        return [(x, grid.step, grid.low, grid.high) for x, grid in found]

    def speculate(
        self, inputs: Mapping[str, Tensor], by_field: Callable[[], Parameters]
    ) -> Speculation[Int8Weights] | None:
        """The weights of the layers that run as whole numbers in a call on a GPU, supposing that no parameter has
        changed and that the inputs keep their promise. Where that is not so, they become fewer.

        None on a CPU, which looks first (`usable`) and chooses chunk by chunk (`of_chunk`).
        """
        if not all(x.is_cuda for x in inputs.values()):
            return None
        if not self._layers or not inputs or not _serves(inputs.values(), "cuda"):
            return Speculation({})
        parameters = by_field()
        device = next(iter(inputs.values())).device
        if self._on_gpu is None or self._on_gpu.device != device:
            if not self._holds({key: value.detach().cpu() for key, value in parameters.items()}):
                return Speculation({})
            self._on_gpu = self._laid_out(parameters, device)
        there = self._on_gpu
        now, then = [parameters[key].detach() for key in there.then], list(there.then.values())
        rests_on = frozenset[str]().union(*(_inputs(self._layers[name]) for name in there.weights))
        grids = self._promised(rests_on, inputs)
        same, on_grid = native.device_checks(), native.device_checks()
        same.ask_same_bits(now, then)
        int8.start_grid_check(on_grid, grids)

        def so() -> bool:
            if not same.wait():
                self._end()
                return False
            if not on_grid.wait():
                for name in [name for name in there.weights if _inputs(self._layers[name])]:
                    del there.weights[name]
                return False
            return True

        return Speculation(dict(there.weights), so, Guards(now, then, grids=_looked_at(grids)))

    def _laid_out(self, parameters: Parameters, device: torch.device) -> _OnGpu:
        weights = {}
        for name, weight in self._weights.items():
            node, numbers = self._layers[name].node, self._layers[name].integers
            assert numbers is not None
            if "groups" not in node.parameters or node.number("groups") == 1:
                int8.prepack_for_gpu(weight, 2.0**numbers.signal_step, device)
                weights[name] = weight
        then = {} if self._constant else {key: value.detach().clone() for key, value in parameters.items()}
        return _OnGpu(device, weights, then)

    def _holds(self, parameters: Parameters) -> bool:
        if not self._weights:
            made = {}
            for name, entry in self._layers.items():
                assert entry.integers is not None
                weight = torch.from_numpy(entry.node.array("weight").astype(np.float32))
                made[name] = int8.from_float32(weight, entry.integers.weight_steps, keep_values=not self._constant)
            self._weights = made  # all at once, for other threads
        if self._constant:
            return True
        now = [parameters[name, "weight"] for name in self._weights]
        rest = [parameters[key] for key in self._rest]
        same_bits = importlib.import_module("neurocuda._C").same_bits
        if int8.weights_equal(now, list(self._weights.values())) and same_bits(rest, list(self._rest.values())):
            return True
        self._end()
        return False

    def _end(self) -> None:
        self._layers, self._weights, self._rest, self._on_gpu = {}, {}, {}, None


@dataclass(frozen=True)
class _OnGpu:
    """The layers that run as whole numbers on a GPU, and all parameters as they were when the proof held."""

    device: torch.device
    weights: dict[str, IntegerWeight]
    then: dict[tuple[str, str], Tensor]


def _looked_at(promised: Collection[tuple[Tensor, float, float, float]]) -> list[tuple[float, float, float]]:
    """The grids on which values of the input's type need not be."""
    return [(step, low, high) for x, step, low, high in promised if not int8.always_on_grid(x, step, low, high)]


def _inputs(entry: LoweredNode) -> frozenset[str]:
    """The inputs on whose promise a layer rests."""
    return frozenset() if entry.proof is None else entry.proof.inputs


def _serves(inputs: Collection[Tensor], device: str) -> bool:
    return int8.is_fast(device)
