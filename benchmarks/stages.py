"""The time of each stage of a network in a single step."""

from statistics import median

import torch

from benchmarks.problem import Problem
from neurocuda import load

_VIEWS = {"Input", "Output", "Flatten"}
"""Nodes that compute nothing."""


def microseconds(problem: Problem, repeats: int = 300) -> dict[str, float]:
    """The median time of each stage, by the names of its nodes: the recorded operators, clocked one by one.

    Stages without arithmetic are left out, and so is what a call does around its operators. Where a stage takes several
    operators, it is by their names.
    """
    net = load(problem.nir, problem.discretization)
    with torch.no_grad():
        x = problem.x[:1]
        _, state = net(x)
        for _ in range(3):
            _, state = net(x, state)
        runs = [net.profile(x, state) for _ in range(repeats)]
    stages = [[lowered.node for lowered in stage.nodes] for stage in net.schedule.stages]
    names = [" + ".join(n.name for n in nodes) for nodes in stages if any(n.type not in _VIEWS for n in nodes)]
    operators = [name for name, _ in runs[0]]
    times: dict[str, float] = {}
    for name, calls in zip(names if len(names) == len(operators) else operators, zip(*runs, strict=True), strict=True):
        times[name] = times.get(name, 0.0) + median(nanoseconds for _, nanoseconds in calls) / 1e3
    return times
