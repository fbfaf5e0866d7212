"""Compares recordings bit for bit, and names the first difference: node, time step, both values."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nir_files
import numpy as np
import oracle
import torch
from devices import here

import neurocuda
from neurocuda import Discretization, Executor, Graph

Recordings = dict[tuple[str, str], np.ndarray]


def graph_of(raw: dict[str, Any]) -> Graph:
    """Writes a raw graph to a file and reads it as a `Graph`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.nir"
        nir_files.write_raw(raw, path)
        return neurocuda.read(path)


def record_all(net: Executor) -> dict[str, list[str]]:
    """All quantities of all nodes, as the oracle records them."""
    names = net.graph.nodes
    kinds = {"I": ["v"], "IF": ["v"], "LI": ["v"], "LIF": ["v"], "CubaLI": ["v", "i"], "CubaLIF": ["v", "i"]}
    return {name: ["input", "output", *kinds.get(node.type, [])] for name, node in names.items()}


def tensors(x: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Arrays as tensors; an array expanded over time becomes an expanded tensor."""
    return {
        name: torch.from_numpy(np.array(signal[:1])).expand(signal.shape)
        if signal.strides[0] == 0
        else torch.from_numpy(np.ascontiguousarray(signal))
        for name, signal in x.items()
    }


def by_output(net: Executor, output: Any) -> dict[str, torch.Tensor]:
    return output if isinstance(output, dict) else {net.graph.outputs[0]: output}


def recorded(net: Executor, x: Mapping[str, np.ndarray]) -> Recordings:
    """All quantities that the executor computes for x on the device of the test.

    "result" is the output of a call without recordings, which fuses operators.
    """
    x_there = {name: signal.to(here()) for name, signal in tensors(x).items()}
    net_there = net if here().type == "cpu" else copy.deepcopy(net).to(here())
    with torch.no_grad():
        result = net_there.run(x_there, record=record_all(net))
        output, state = net_there(x_there)
        alone = net_there.output(x_there)
    for name, value in state.tensors.items():
        kept = result.state.tensors[name].cpu().numpy()
        assert np.array_equal(value.cpu().numpy(), kept, equal_nan=True), f"state {name}\n{net}"
    for name, value in by_output(net, alone).items():
        owed = by_output(net, output)[name].cpu().numpy()
        assert np.array_equal(value.cpu().numpy(), owed, equal_nan=True), f"output {name} without a state\n{net}"
    found = {
        (node, quantity): values.cpu().numpy()
        for node, quantities in result.recordings.items()
        for quantity, values in quantities.items()
    }
    return found | {(name, "result"): value.cpu().numpy() for name, value in by_output(net, output).items()}


def told(expected: oracle.OracleResult) -> Recordings:
    """The oracle's result as `Recordings`."""
    parts = {
        "output": expected.node_outputs,
        "input": expected.node_inputs,
        "v": expected.v,
        "i": expected.i,
        "result": expected.outputs,
    }
    return {(node, quantity): values for quantity, nodes in parts.items() for node, values in nodes.items()}


def assert_equal(found: Recordings, expected: Recordings, order: list[str], graph: object) -> None:
    """Asserts equal values (NaN equals NaN), and names the earliest time step and first node of `order` that differ."""
    assert set(found) <= set(expected), sorted(set(found) - set(expected))
    rank = {name: number for number, name in enumerate(order)}
    differences = []
    for node, quantity in found:
        ours, theirs = found[node, quantity], expected[node, quantity]
        assert ours.shape == theirs.shape, f"{node} {quantity}: shape {ours.shape}, expected {theirs.shape}\n{graph}"
        wrong = (ours != theirs) & ~(np.isnan(ours) & np.isnan(theirs))
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            differences.append((where[0], rank[node], node, quantity, where, ours[where], theirs[where]))
    if differences:
        step, _, node, quantity, where, ours_, theirs_ = min(differences, key=lambda d: d[:2])
        raise AssertionError(
            f"node {node!r}, {quantity} at step {step}, index {where}: {ours_!r}, expected {theirs_!r}\n{graph}"
        )


def order_of(net: Executor) -> list[str]:
    """The names of the nodes in execution order."""
    return [entry.node.name for stage in net.schedule.stages for entry in stage.nodes]


def assert_as_oracle(raw: dict[str, Any], x: Mapping[str, np.ndarray], options: dict[str, Any], **how: Any) -> Executor:
    """Runs a raw graph in the executor and the oracle, compares all quantities, and returns the network."""
    net = Executor(graph_of(raw), Discretization(**options), **how)
    expected = told(oracle.run(raw, dict(x), options))
    assert_equal(recorded(net, x), expected, order_of(net), f"{net}\n{net.graph}")
    return net


def network(case: Any, **how: object) -> Executor:
    return Executor(graph_of(case.raw), Discretization(**case.discretization), **how)
