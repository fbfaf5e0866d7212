"""The digits network in plain PyTorch, stepped one time step after the other.

    input ─ conv1 ─ lif1 ─┬─ conv2 ─(+)─ lif2 ─ conv3 ─ lif3 ─┬─ conv4 ─(+)─ lif4 ─ pool ─ flatten ─ affine
                          └──────────┘                        └──────────┘                             │
                                                                                         output ─ li ──┘
The input is the grey value of each pixel (0..16), held for all steps; the output is the membrane
potential of ten leaky integrators, one for each digit; the largest at the last step is the prediction.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

FILE = Path(__file__).with_name("digits.nir")
TIMESTEPS = 16
DT = 1e-4  # seconds
GRID = 64  # every weight and bias is k/64, every weight within ±127/64
HELD_OUT = 360  # of scikit-learn's 1797 images: as many of each digit as its share, drawn with seed 0
LAYERS = ("conv1", "conv2", "conv3", "conv4", "affine")
TAU_LIF, TAU_LI = 4 * DT, 16 * DT
R = {"lif1": 0.25, "lif2": 4.0, "lif3": 4.0, "lif4": 4.0, "li": 16.0}  # lif1 sees grey values up to 16
SHAPES = {"lif1": (16, 8, 8), "lif2": (16, 8, 8), "lif3": (32, 4, 4), "lif4": (32, 4, 4), "li": (10,)}
THRESHOLD, V_RESET, V_LEAK = 1.0, 0.0, 0.0


def digits(held_out: bool) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 8, 8] (float32, integers 0..16) and labels [N] of the held-out or the training part."""
    images, labels = load_digits(return_X_y=True)
    x_train, x_held_out, y_train, y_held_out = train_test_split(
        images, labels, test_size=HELD_OUT, random_state=0, stratify=labels
    )
    x, y = (x_held_out, y_held_out) if held_out else (x_train, y_train)
    return torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y)


def constant_current(images: Tensor) -> Tensor:
    """Images [B, 1, 8, 8] as a constant input over time: [T, B, 1, 8, 8]."""
    return images.expand(TIMESTEPS, *images.shape)


class Spike(torch.autograd.Function):
    """One where u is above the threshold; the gradient is that of a fast sigmoid of slope 10."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > THRESHOLD).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return gradients[0] / (1 + 10 * (u - THRESHOLD).abs()) ** 2


class DigitsNetwork(nn.Module):
    """Weights of the five layers; `forward` loops over time in Python.

    With `rounded`, the forward pass sees the weights rounded to the grid and the gradient passes the
    rounding unchanged (straight through): that is how the network is trained.
    """

    def __init__(self, rounded: bool = False) -> None:
        super().__init__()
        self.rounded = rounded
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.conv3 = nn.Conv2d(16, 32, 3, padding=1, stride=2)
        self.conv4 = nn.Conv2d(32, 32, 3, padding=1)
        self.affine = nn.Linear(128, 10)

    def weights(self, layer: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of a layer, as the forward pass uses them."""
        module = self.get_submodule(layer)
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor)
        assert isinstance(bias, Tensor)
        return (on_grid(weight), on_grid(bias)) if self.rounded else (weight, bias)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The read-out's membrane [T, B, 10] and the spikes of each layer [T, B, *shape], for x [T, B, 1, 8, 8]."""
        weights = {layer: self.weights(layer) for layer in LAYERS}
        v = {name: x.new_zeros(x.shape[1], *shape) for name, shape in SHAPES.items()}
        spikes: dict[str, list[Tensor]] = {name: [] for name in SHAPES if name != "li"}
        output = []
        for x_t in x:
            s1, v["lif1"] = lif(F.conv2d(x_t, *weights["conv1"], padding=1), v["lif1"], R["lif1"])
            s2, v["lif2"] = lif(F.conv2d(s1, *weights["conv2"], padding=1) + s1, v["lif2"], R["lif2"])
            s3, v["lif3"] = lif(F.conv2d(s2, *weights["conv3"], padding=1, stride=2), v["lif3"], R["lif3"])
            s4, v["lif4"] = lif(F.conv2d(s3, *weights["conv4"], padding=1) + s3, v["lif4"], R["lif4"])
            pooled = F.avg_pool2d(s4, 2, divisor_override=1)
            v["li"] = integrate(F.linear(pooled.flatten(1), *weights["affine"]), v["li"], TAU_LI, R["li"])
            output.append(v["li"])
            for name, s in zip(spikes, (s1, s2, s3, s4), strict=True):
                spikes[name].append(s)
        return torch.stack(output), {name: torch.stack(steps) for name, steps in spikes.items()}


def on_grid(weight: Tensor) -> Tensor:
    """The weight rounded to the grid, with the gradient of the identity."""
    rounded = (weight.detach() * GRID).round().clamp(-127, 127) / GRID
    return rounded + (weight - weight.detach())


def integrate(i: Tensor, v: Tensor, tau: float, r: float) -> Tensor:
    """One Euler step of tau v' = (v_leak - v) + r i; coefficients in float64, rounded once to float32."""
    decay, gain, bias = (float(np.float32(c)) for c in (1 - DT / tau, r * (DT / tau), V_LEAK * (DT / tau)))
    return v * decay + (i * gain + bias)


def lif(i: Tensor, v: Tensor, r: float) -> tuple[Tensor, Tensor]:
    """One step of a leaky integrate-and-fire layer: its spikes, and its membrane after the reset."""
    u = integrate(i, v, TAU_LIF, r)
    return Spike.apply(u), torch.where(u > THRESHOLD, V_RESET, u)


def to_nir(network: DigitsNetwork) -> nir.NIRGraph:
    """The network as a NIR graph, with the weights that its forward pass uses."""
    nodes: dict[str, nir.NIRNode] = {"input": nir.Input(input_type={"input": np.array((1, 8, 8))})}
    for name, shape in SHAPES.items():
        tau = np.full(shape, TAU_LI if name == "li" else TAU_LIF)
        r, v_leak = np.full(shape, R[name]), np.full(shape, V_LEAK)
        if name == "li":
            nodes[name] = nir.LI(tau=tau, r=r, v_leak=v_leak)
        else:
            threshold, v_reset = np.full(shape, THRESHOLD), np.full(shape, V_RESET)
            nodes[name] = nir.LIF(tau=tau, r=r, v_leak=v_leak, v_threshold=threshold, v_reset=v_reset)
    for name, stride, side in (("conv1", 1, 8), ("conv2", 1, 8), ("conv3", 2, 8), ("conv4", 1, 4)):
        weight, bias = (p.detach().numpy() for p in network.weights(name))
        nodes[name] = nir.Conv2d(
            input_shape=(side, side), weight=weight, stride=stride, padding=1, dilation=1, groups=1, bias=bias
        )
    nodes["pool"] = nir.SumPool2d(kernel_size=np.array((2, 2)), stride=np.array((2, 2)), padding=np.array((0, 0)))
    nodes["flatten"] = nir.Flatten(input_type={"input": np.array((32, 2, 2))}, start_dim=0, end_dim=-1)
    weight, bias = (p.detach().numpy() for p in network.weights("affine"))
    nodes["affine"] = nir.Affine(weight=weight, bias=bias)
    nodes["output"] = nir.Output(output_type={"output": np.array((10,))})
    chain = "input conv1 lif1 conv2 lif2 conv3 lif3 conv4 lif4 pool flatten affine li output".split()
    skips = [("lif1", "lif2"), ("lif3", "lif4")]
    return nir.NIRGraph(nodes=nodes, edges=[*pairwise(chain), *skips])


def from_nir(path: Path = FILE) -> DigitsNetwork:
    """The plain PyTorch network with the weights of the file."""
    nodes = nir.read(path).nodes
    network = DigitsNetwork()
    network.load_state_dict(
        {f"{n}.{p}": torch.tensor(getattr(nodes[n], p)) for n in LAYERS for p in ("weight", "bias")}
    )
    return network.requires_grad_(False).eval()
