"""Our own conversion, as a user calls it, and what its network gives at each step."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from neurocuda.compiler.schedule import in_order
from neurocuda.convert.calibrate import convert
from neurocuda.convert.relu_network import compute
from neurocuda.convert.snn import SNN
from neurocuda.graph import Graph

BATCH = 50


def converted(network: nn.Module, images: Tensor, **how: int) -> SNN:
    """The network as it is converted from images without labels."""
    return convert(network, images, samples=None, report=False, **how)


class Outputs:
    """The sums of the outputs up to each step, [steps, N, classes], made once for networks of the same thresholds."""

    def __init__(self, images: Tensor, steps: int) -> None:
        self.images, self.steps = images, steps
        self._made: list[tuple[Mapping[str, object], Tensor]] = []

    def of(self, snn: SNN) -> Tensor:
        for thresholds, made in self._made:
            if all((thresholds[name] == theta).all() for name, theta in snn.thresholds.items()):
                return made
        with torch.no_grad():
            sums = [snn.steps(x, self.steps).double().cumsum(0) for x in self.images.split(BATCH)]
        self._made.append((snn.thresholds, torch.cat(sums, 1)))
        return self._made[-1][1]


def by_hand(snn: SNN, x: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """The outputs [steps, B, classes] of the same graph, stepped in plain torch: its sums round as they come."""
    nodes, sources = snn.graph.nodes, {name: [] for name in snn.graph.nodes}
    for a, b in snn.graph.edges:
        sources[b].append(a)
    neurons = {name: f"{name}.spikes" for name, node in nodes.items() if node.type == "I"}
    back = {name for name, node in nodes.items() if node.type == "Scale" and sources[name][0] in neurons.values()}
    loops = {a for name in neurons for a in sources[name] if a in back and sources[a] == [neurons[name]]}
    open_graph = _without(snn, loops)
    order = [name for name in in_order(open_graph.nodes, open_graph.edges) if name not in loops]
    v = {name: torch.zeros((), dtype=dtype) for name in neurons}
    last = {name: torch.zeros((), dtype=dtype) for name in neurons}
    outputs = []
    for _ in range(steps):
        now: dict[str, Tensor] = {}
        for name in order:
            node = nodes[name]
            if node.type == "Input":
                now[name] = x.to(dtype)
                continue
            total = sum(now[source] for source in sources[name] if source not in loops)
            if name in neurons:
                now[name] = v[name] = v[name] + (total - last[name])
            elif node.type == "Threshold":
                now[name] = (total > float(node.array("threshold").max())).to(dtype)
                last[sources[name][0]] = now[name]
            else:
                now[name] = compute(node, total)
        outputs.append(now["output"])
    return torch.stack(outputs)


def _without(snn: SNN, loops: set[str]) -> Graph:
    return replace(snn.graph, edges=tuple(edge for edge in snn.graph.edges if not loops & set(edge)))
