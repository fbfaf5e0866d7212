"""Runs a graph with the primitive of docs/adding-a-primitive.md, in the copy of the package that it was added to.

`python added_primitive.py NAME`, with that copy and its tests/support first in PYTHONPATH.
"""

from __future__ import annotations

import importlib
import sys

import numpy as np
import oracle
import strategies
import torch

import neurocuda
from neurocuda.compiler.exactness import certify
from neurocuda.graph import PRIMITIVES, build


def main(name: str) -> None:
    for module in ("relu_network", "relu_to_spiking", "training.trainable"):
        importlib.import_module(f"neurocuda.convert.{module}")
    assert PRIMITIVES.keys() - {"Identity"} == strategies.DRAWN, f"tests/support/strategies.py: no {name} in DRAWN"
    eighths = np.random.default_rng(0).integers(-8, 9, (5, 4)) / 8
    nodes = {
        "input": {"type": "Input", "shape": np.array([4])},
        "added": {"type": name},
        "fc": {"type": "Affine", "weight": eighths, "bias": np.full(5, 3.0)},
        "lif": {"type": "LIF", **dict.fromkeys(("tau", "r", "v_threshold"), np.array(2e-4)), "v_leak": np.array(0.0)},
        "output": {"type": "Output", "shape": np.array([5])},
    }
    edges = [("input", "added"), ("added", "fc"), ("fc", "lif"), ("lif", "output"), ("fc", "output")]
    raw = {"type": "NIRGraph", "nodes": nodes, "edges": edges}
    graph, problems = build(raw, "graph", None)
    if graph is None:
        raise SystemExit("\n".join(map(str, problems)))
    certificate = certify(graph)
    assert certificate.exact, f"{name}, neurocuda/compiler/range_rules.py:\n{certificate}"
    x = np.random.default_rng(1).integers(0, 4, (6, 2, 4)).astype(np.float32)
    expected = oracle.run(raw, {"input": x}, {})
    with neurocuda.use_backend("reference"), torch.no_grad():
        result = neurocuda.Executor(graph).run(torch.from_numpy(x), record=dict.fromkeys(nodes, "output"))
    for node, output in expected.node_outputs.items():
        np.testing.assert_array_equal(result.recordings[node]["output"].numpy(), output, f"{name}, node {node!r}")
    assert expected.node_outputs["lif"].any()
    print(f"{name}: {len(nodes)} nodes equal the oracle, from {neurocuda.__file__}")


if __name__ == "__main__":
    main(sys.argv[1])
