"""`SNN`: a converted network as a module with the inputs and outputs of the original."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from neurocuda.compiler.grids import InputGrid
from neurocuda.convert.bias_correction import quantized
from neurocuda.convert.relu_network import check_samples
from neurocuda.convert.relu_to_spiking import spiking
from neurocuda.convert.report import Report
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import check_integer
from neurocuda.graph import Graph
from neurocuda.quantization.quantize import Quantized
from neurocuda.runtime.nir_executor import Executor

_CHUNK = 32
_VALUES = 2**28
"""The most values of all nodes that one run may compute: 1 GiB."""


class SNN(nn.Module):
    """A converted network: `y = snn(x)` for x [B, *shape] and y as the original took and returned them.

    The input is a constant current over `readout_delay + timesteps` steps; y is the mean of the output over the last
    `timesteps` of them. `convert` makes these networks. Under `torch.no_grad()` each population is one fused operator;
    with gradients its nodes run step by step.

    Attributes: `network`, the `Executor`; `rectified`, the graph of ReLU nodes that it approximates; `thresholds`,
    theta by name of the ReLU; `report` and `percentile`, where it comes from `convert`; `quantized` and `input_grid`,
    where the weights have few bits: x is rounded to this grid, and a caller of the NIR file must round it too.

    Args:
        rectified: The graph with ReLU nodes.
        thresholds: Per ReLU, an array that broadcasts against its signal.
        timesteps: Time steps whose mean is the result; can be set later.
        readout_delay: Time steps before these; can be set later.
        dt: Length of a time step in seconds.
        initial: Initial membrane potential in units of the threshold.
        weight_bits: Bits of quantized weights, None for float32.
        input_grid: The grid of the input of a quantized network. Default: the integers 0 .. 255.
        samples: [N, *shape], on which the biases of a quantized network keep the channel means.

    Example:
        >>> import neurocuda, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> snn = neurocuda.convert(model, torch.rand(16, 4), timesteps=8, readout_delay=2, report=False)
        >>> snn.steps(torch.rand(2, 4), 10).shape
        torch.Size([10, 2, 3])
    """

    def __init__(
        self,
        rectified: Graph,
        thresholds: Mapping[str, np.ndarray],
        *,
        timesteps: int,
        readout_delay: int = 0,
        dt: float = 1e-4,
        initial: float = 0.5,
        weight_bits: int | None = None,
        input_grid: InputGrid | None = None,
        samples: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.rectified = rectified
        self.thresholds = {name: np.asarray(theta, np.float64) for name, theta in thresholds.items()}
        self.timesteps = timesteps
        self.readout_delay = readout_delay
        d = Discretization(dt=dt)
        graph = spiking(rectified, thresholds, dt=dt, initial=initial)
        self.quantized: Quantized | None = None
        self.input_grid: InputGrid | None = None
        if weight_bits is not None:
            self.input_grid = InputGrid() if input_grid is None else input_grid
            on_grid = None if samples is None else _on_grid(samples, self.input_grid.step)
            self.quantized = quantized(graph, weight_bits, self.input_grid, d, on_grid)
            graph = self.quantized.graph
        values = sum(math.prod(node.output_shape) for node in graph.nodes.values())
        self._frames = max(1, _VALUES // values)
        self._chunk = min(_CHUNK, self._frames)
        self.network = Executor(graph, d, chunk=self._chunk, input_grid=self.input_grid)
        self.report: Report | None = None
        self.percentile: float | None = None

    @property
    def timesteps(self) -> int:
        """Time steps whose mean output is the result."""
        return self._timesteps

    @timesteps.setter
    def timesteps(self, value: int) -> None:
        self._timesteps = check_integer("timesteps", value, 1)

    @property
    def readout_delay(self) -> int:
        """Time steps before these, in which firing rates settle."""
        return self._readout_delay

    @readout_delay.setter
    def readout_delay(self, value: int) -> None:
        self._readout_delay = check_integer("readout_delay", value, 0)

    @property
    def graph(self) -> Graph:
        """The NIR graph that runs."""
        return self.network.graph

    def forward(self, x: Tensor) -> Tensor:
        """The mean output over the read-out steps.

        Args:
            x: [B, *shape], as the original takes it.

        Returns:
            [B, *], as the original returns it.

        Raises:
            ArgumentError: x has another shape.
        """
        return self.steps(x, self.readout_delay + self.timesteps)[self.readout_delay :].mean(0)

    def steps(self, x: Tensor, number: int) -> Tensor:
        """The output at each time step.

        Args:
            x: [B, *shape].
            number: How many steps.

        Returns:
            [number, B, *]; a call returns the mean over the last `timesteps`.
        """
        signal = self.signal(x, number)
        part = max(1, self._frames // min(self._chunk, number))
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or len(x) <= part:
            return self._run(signal)
        return torch.cat([self._run(samples) for samples in torch.split(signal, part, 1)], 1)

    def _run(self, signal: Tensor) -> Tensor:
        output = self.network.output(signal)
        assert isinstance(output, Tensor)
        return output

    def signal(self, x: Tensor, number: int) -> Tensor:
        """x as a constant current, rounded to the input's grid if there is one.

        Args:
            x: [B, *shape].
            number: How many steps.

        Returns:
            [number, B, *shape], which shares its memory over the steps.

        Raises:
            ArgumentError: x has another shape.
        """
        check_samples("x", x, self.graph)
        if self.input_grid is not None:
            x = _on_grid(x, self.input_grid.step)
        x = x.float() if x.dtype == torch.float64 else x
        return x.expand(number, *x.shape)

    def extra_repr(self) -> str:
        return f"timesteps={self.timesteps}, readout_delay={self.readout_delay}"


def _on_grid(x: Tensor, step: float) -> Tensor:
    """Rounds to multiples of `step`, a power of two, float32, half to even. The gradient is that of the identity."""
    x = x if x.dtype == torch.float64 else x.float()
    rounded = ((x / step).round() * step).float()
    return rounded.detach() + (x - x.detach()).float() if x.requires_grad else rounded
