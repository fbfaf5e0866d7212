"""The layers of a network that run as whole numbers, for as long as the proof holds that lets them."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurocuda.certificate import Certificate
from neurocuda.lowering import LoweredNode, LoweredSchedule
from neurocuda.ops import compiled, integer
from neurocuda.ops.backends import operators
from neurocuda.ops.integer import IntegerWeight
from neurocuda.ops.recording import recordable

Parameters = Mapping[tuple[str, str], Tensor]
"""By node and field."""


class IntegerLayers:
    """Their weights as int8, and what the parameters were that the certificate speaks of.

    A changed parameter ends it: from then on these layers run in float32, until the network is loaded anew.
    """

    def __init__(self, lowered: LoweredSchedule, certificate: Certificate, parameters: Parameters) -> None:
        self._layers: dict[str, LoweredNode] = {entry.node.name: entry for entry in lowered.integer_layers}
        self._grids = certificate.inputs
        self._rests_on = frozenset[str]().union(*(_inputs(entry) for entry in self._layers.values()))
        self._rest = {
            key: value.detach().clone() for key, value in parameters.items() if self._layers and not self._is_whole(key)
        }
        self._weights: dict[str, IntegerWeight] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_weights": {}}  # the library's own form of them cannot be copied

    def _is_whole(self, key: tuple[str, str]) -> bool:
        return key[0] in self._layers and key[1] == "weight"

    def usable(self, inputs: Mapping[str, Tensor], parameters: Parameters) -> dict[str, IntegerWeight]:
        """The weights of the layers that may run as whole numbers in this call, by name."""
        if not self._layers or not inputs or not _serves(inputs.values()) or not self._holds(parameters):
            return {}
        return self._weights

    def of_chunk(self, weights: dict[str, IntegerWeight], inputs: Mapping[str, Tensor]) -> dict[str, IntegerWeight]:
        """Of the usable weights those for a chunk: all, if the inputs that they rest on keep their promise."""
        kept = not weights or all(
            integer.on_grid(inputs[name], grid.step, grid.low, grid.high)
            for name, grid in self._grids.items()
            if name in self._rests_on
        )
        if kept:
            return weights
        return {name: weight for name, weight in weights.items() if not _inputs(self._layers[name])}

    def _holds(self, parameters: Parameters) -> bool:
        if not self._weights:
            made = {}
            for name, entry in self._layers.items():
                assert entry.integers is not None
                weight = torch.from_numpy(entry.node.array("weight").astype(np.float32))
                made[name] = integer.whole(weight, entry.integers.weight_steps)
            self._weights = made  # all at once, for other threads
        now = [parameters[name, "weight"].detach() for name in self._weights]
        rest = [parameters[key].detach() for key in self._rest]
        same_bits = importlib.import_module("neurocuda._C").same_bits
        if integer.same(now, list(self._weights.values())) and same_bits(rest, list(self._rest.values())):
            return True
        self._layers, self._weights, self._rest = {}, {}, {}
        return False


def _inputs(entry: LoweredNode) -> frozenset[str]:
    """The inputs on whose promise a layer rests."""
    return frozenset() if entry.proof is None else entry.proof.inputs


def _serves(inputs: Collection[Tensor]) -> bool:
    """Whether nothing watches the call, which would see the choice of one chunk for that of all."""
    return (
        recordable(inputs)
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and all(x.is_cpu for x in inputs)
        and integer.gains()
        and operators(next(iter(inputs)).device) is compiled
    )
