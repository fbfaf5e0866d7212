"""The layers that run in integers while the guards of their proofs hold: unchanged parameters, on-grid inputs."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurocuda.compiler.certificate import Certificate
from neurocuda.compiler.lowering import LoweredNode, LoweredSchedule
from neurocuda.ops import int8, native
from neurocuda.ops.int8 import IntegerWeight, is_fast
from neurocuda.runtime.guards import Guards, Speculation

Parameters = Mapping[tuple[str, str], Tensor]
"""By node and field."""

Int8Weights = dict[str, IntegerWeight]
"""By node."""

_Grid = tuple[Tensor, float, float, float]
"""An input, and the spacing, lowest and highest value of the grid that its values must be on."""


class Int8Layers:
    """The int8 weights of the layers that run in integers, and the parameters that the certificate was proved for.

    A changed parameter ends int8: these layers run in float32 from then on, until the network is loaded again. A frozen
    network has constants only, which are not checked.
    """

    def __init__(self, lowered: LoweredSchedule, certificate: Certificate, parameters: Parameters | None) -> None:
        """parameters: None for a frozen network."""
        self._frozen = parameters is None
        self._layers: dict[str, LoweredNode] = {entry.node.name: entry for entry in lowered.integer_layers}
        self._grids = certificate.inputs
        self._needed_inputs = frozenset[str]().union(*(_inputs_of(entry) for entry in self._layers.values()))
        checked = parameters if parameters and self._layers else {}
        others = {key: t for key, t in checked.items() if key[0] not in self._layers or key[1] != "weight"}
        self._others = {key: t.detach().cpu().clone() for key, t in others.items()}
        self._weights: Int8Weights = {}
        self._on_gpu: _OnGpu | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The vendor library's layout cannot be copied, and a copy may be on another device.
        return {**self.__dict__, "_weights": {}, "_on_gpu": None}

    def forget(self) -> None:
        """Drops the weights; they are made again from the graph, on the device of the next call."""
        self._weights, self._on_gpu = {}, None

    def usable(self, inputs: Mapping[str, Tensor], parameters: Parameters) -> Int8Weights:
        """The weights of the layers that may run in integers in this call on a CPU."""
        if not self._layers or not inputs or not is_fast("cpu") or not self._are_unchanged(parameters):
            return {}
        return self._weights

    def of_chunk(self, weights: Int8Weights, inputs: Mapping[str, Tensor]) -> Int8Weights:
        """The usable weights for a chunk: all if the inputs are on their grids, else those that need no input."""
        on_grids = not weights or all(int8.on_grid(*grid) for grid in self._grids_of(self._needed_inputs, inputs))
        if on_grids:
            return weights
        return {name: weight for name, weight in weights.items() if not _inputs_of(self._layers[name])}

    def guards(self, weights: Int8Weights, inputs: Mapping[str, Tensor], parameters: Parameters) -> Guards | None:
        """The guards of a cached CPU call of one chunk that used these weights; None if a later call may use more."""
        proved = bool(self._weights) and is_fast("cpu") and self.of_chunk(self._weights, inputs) is self._weights
        if [*weights] != [*(self._weights if proved else ())]:
            return None
        grids = _to_check(self._grids_of(self._needed_inputs, inputs)) if proved else []
        if self._frozen or not proved:
            return Guards(grids=grids)
        integers = self._weights.values()
        return Guards(
            [parameters[key] for key in self._others],
            [*self._others.values()],
            [parameters[name, "weight"] for name in self._weights],
            [int8.values_of(weight) for weight in integers],
            [weight.scales for weight in integers],
            grids,
        )

    def _grids_of(self, names: Collection[str], inputs: Mapping[str, Tensor]) -> list[_Grid]:
        found = [(inputs[name], self._grids[name]) for name in sorted(names)]
        return [(x, grid.step, grid.low, grid.high) for x, grid in found]

    def speculate(self, inputs: Mapping[str, Tensor], parameters: Parameters) -> Speculation[Int8Weights]:
        """The weights of the layers that run in integers in a call on a GPU.

        Guards: if a parameter changed, no layer runs in integers from then on; if an input is off its grid, only the
        layers that need no input do. A CPU checks before the call instead: see `usable` and `of_chunk`.
        """
        if not self._layers or not inputs or not is_fast("cuda"):
            return Speculation({})
        device = next(iter(inputs.values())).device
        if self._on_gpu is None or self._on_gpu.device != device:
            if not self._are_unchanged({key: value.detach().cpu() for key, value in parameters.items()}):
                return Speculation({})
            self._on_gpu = self._prepacked(parameters, device)
        on_gpu = self._on_gpu
        current, snapshot = [parameters[key].detach() for key in on_gpu.snapshot], list(on_gpu.snapshot.values())
        needed = frozenset[str]().union(*(_inputs_of(self._layers[name]) for name in on_gpu.weights))
        grids = self._grids_of(needed, inputs)
        same, on_grid = native.device_checks(), native.device_checks()
        same.ask_same_bits(current, snapshot)
        int8.start_grid_check(on_grid, grids)

        def validate() -> bool:
            if not same.wait():
                self._end()
                return False
            if not on_grid.wait():
                for name in [name for name in on_gpu.weights if _inputs_of(self._layers[name])]:
                    del on_gpu.weights[name]
                return False
            return True

        return Speculation(dict(on_gpu.weights), validate, Guards(current, snapshot, grids=_to_check(grids)))

    def _prepacked(self, parameters: Parameters, device: torch.device) -> _OnGpu:
        weights = {}
        for name, weight in self._weights.items():
            node, integers = self._layers[name].node, self._layers[name].integers
            assert integers is not None
            if "groups" not in node.parameters or node.number("groups") == 1:
                int8.prepack_for_gpu(weight, 2.0**integers.signal_step, device)
                weights[name] = weight
        snapshot = {} if self._frozen else {key: value.detach().clone() for key, value in parameters.items()}
        return _OnGpu(device, weights, snapshot)

    def _are_unchanged(self, parameters: Parameters) -> bool:
        """Whether the parameters are those of the certificate; makes the int8 weights at the first call."""
        if not self._weights:
            made = {}
            for name, entry in self._layers.items():
                assert entry.integers is not None
                weight = torch.from_numpy(entry.node.array("weight").astype(np.float32))
                made[name] = int8.from_float32(weight, entry.integers.weight_steps, keep_values=not self._frozen)
            self._weights = made  # all at once, for other threads
        if self._frozen:
            return True
        current = [parameters[name, "weight"] for name in self._weights]
        others = [parameters[key] for key in self._others]
        same_bits = importlib.import_module("neurocuda._C").same_bits
        if int8.weights_equal(current, list(self._weights.values())) and same_bits(others, list(self._others.values())):
            return True
        self._end()
        return False

    def _end(self) -> None:
        self._layers, self._weights, self._others, self._on_gpu = {}, {}, {}, None


@dataclass(frozen=True)
class _OnGpu:
    """The int8 weights on a GPU, and a snapshot of all parameters that they were proved for."""

    device: torch.device
    weights: Int8Weights
    snapshot: dict[tuple[str, str], Tensor]


def _to_check(grids: Collection[_Grid]) -> list[tuple[float, float, float]]:
    """The grids that values of the input's dtype can miss."""
    return [(spacing, low, high) for x, spacing, low, high in grids if not int8.always_on_grid(x, spacing, low, high)]


def _inputs_of(entry: LoweredNode) -> frozenset[str]:
    """The inputs whose grids the proof of a layer needs."""
    return frozenset() if entry.proof is None else entry.proof.inputs
