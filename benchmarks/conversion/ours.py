"""Our own conversion: how it is called, and what its network gives at each step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from neurocuda.convert.calibrate import convert
from neurocuda.convert.snn import SNN

BATCH = 50


def converted(network: nn.Module, images: Tensor, timesteps: int, readout_delay: int) -> SNN:
    """The network as a user converts it, from images without labels."""
    return convert(network, images, timesteps=timesteps, readout_delay=readout_delay, samples=None, report=False)


def outputs(snn: SNN, images: Tensor, steps: int) -> Tensor:
    """The sum of the outputs up to each step, [steps, N, classes]."""
    with torch.no_grad():
        return torch.cat([snn.steps(x, steps).double().cumsum(0) for x in images.split(BATCH)], 1)


class Outputs:
    """`outputs`, made once for networks of the same thresholds."""

    def __init__(self, images: Tensor, steps: int) -> None:
        self.images, self.steps = images, steps
        self._made: list[tuple[Mapping[str, object], Tensor]] = []

    def of(self, snn: SNN) -> Tensor:
        for thresholds, made in self._made:
            if all((thresholds[name] == theta).all() for name, theta in snn.thresholds.items()):
                return made
        self._made.append((snn.thresholds, outputs(snn, self.images, self.steps)))
        return self._made[-1][1]
