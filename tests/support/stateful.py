"""A network with every kind of state, for tests of the state and of the module."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from devices import here
from raw_nodes import Raw, chain, node, ramp

from neurocuda import Executor, Graph
from neurocuda.graph import build


def busy() -> Raw:
    """in -> w_in -> a (CubaLIF) <-> w_rec, a -> delay -> li <-> damp, a -> held <-> back (a Delay) -> out."""
    nodes = {
        "w_in": node("Affine", weight=ramp(4, 3) + 0.25, bias=np.full(4, 0.25, np.float32)),
        "a": node("CubaLIF", tau_syn=2e-4, tau_mem=np.array([2e-4, 3e-4, 4e-4, 8e-4]), v_threshold=0.25),
        "w_rec": node("Linear", weight=-ramp(4, 4)),
        "delay": node("Delay", delay=np.array([0, 1e-4, 3e-4, 2e-4])),
        "li": node("LI", tau=4e-4, r=2.0),
        "damp": node("Scale", scale=-0.25),
        "held": node("I", r=1e3),
        "back": node("Delay", delay=2e-4),
    }
    edges = "in>w_in w_in>a a>w_rec w_rec>a a>delay delay>li li>damp damp>li li>out a>held held>back back>held held>out"
    raw = chain(nodes)
    raw["nodes"]["out"]["shape"] = np.array([4])
    return {**raw, "edges": [tuple(edge.split(">")) for edge in edges.split()]}


def built(raw: Raw) -> Graph:
    graph, problems = build(raw, "graph", None)
    assert graph is not None, "\n".join(map(str, problems))
    return graph


def network(raw: Raw, **how: Any) -> Executor:
    net = Executor(built(raw), **how)
    return net if here().type == "cpu" else net.to(here())


def drive(steps: int = 30, batch: int = 5, shape: tuple[int, ...] = (3,), seed: int = 0) -> torch.Tensor:
    """Whole numbers from -1 to 3."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 4, (steps, batch, *shape), generator=draw).float().to(here())
