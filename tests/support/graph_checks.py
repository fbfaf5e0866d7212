"""What tests of files and graphs share: reading a raw graph, the same graph twice, running it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nir_files import write_raw
from raw_nodes import Raw

import neurocuda
from neurocuda import Discretization, Graph


def read(raw: Raw, path: Path, **how: Any) -> Graph:
    write_raw(raw, path, **how)
    return neurocuda.read(path)


def equal(a: Any, b: Any) -> bool:
    """The same values in the same types, arrays bit for bit."""
    if isinstance(a, dict) or isinstance(b, dict):
        return (
            isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
        )
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and np.shape(a) == np.shape(b) and a.tobytes() == b.tobytes()
    return bool(type(a) is type(b) and a == b)


def assert_same(found: Graph, expected: Graph) -> None:
    assert list(found.nodes) == list(expected.nodes)
    assert found.edges == expected.edges
    assert (found.inputs, found.outputs) == (expected.inputs, expected.outputs)
    assert equal(dict(found.metadata), dict(expected.metadata))
    for name, node_ in expected.nodes.items():
        other = found.nodes[name]
        assert (other.type, other.input_shape, other.output_shape) == (
            node_.type,
            node_.input_shape,
            node_.output_shape,
        )
        assert equal(dict(other.parameters), dict(node_.parameters)), (name, other.parameters, node_.parameters)
        assert equal(dict(other.metadata), dict(node_.metadata)), (name, other.metadata, node_.metadata)


def signal(graph_: Graph, steps: int = 9, batch: int = 2) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = {name: graph_.nodes[name].output_shape for name in graph_.inputs}
    return {n: torch.randint(-2, 4, (steps, batch, *s), generator=draw).float() for n, s in shapes.items()}


def outputs(graph_: Graph, x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = neurocuda.load(graph_, Discretization(dt=1e-4))
    with torch.no_grad():
        y, _ = net(x)
    return y if isinstance(y, dict) else {graph_.outputs[0]: y}
