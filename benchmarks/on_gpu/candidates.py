"""Whole networks on a device: ours, PyTorch alone, and the peers that are installed, compared and timed."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import frameworks
from benchmarks.agreement import Truth, verdict
from benchmarks.on_gpu.clock import Bench
from benchmarks.on_gpu.graphs import graphed
from benchmarks.on_gpu.measurements import Measurement, timed
from benchmarks.on_gpu.rows import bytes_of, neuron_steps
from benchmarks.problem import Candidate, Problem, Runner
from neurocuda import Discretization, Executor, State


def measure(problem: Problem, bench: Bench, without: str | None = None) -> Iterator[Measurement]:
    """Every candidate of a row. `problem` is on the CPU, where ours is run once, on the reference operators.

    without: candidates whose name has this in it are named, and not run.
    """
    there = on_device(problem, bench.device)
    tools, _ = frameworks.available()
    candidates = [*ours(there), *(c for name, tool in tools.items() if name != "ours" for c in tool(there))]
    if bench.device.type == "cuda":
        candidates += [_graphed(c) for c in candidates if c.kind == "torch"]
    runners: dict[str, Runner] = {}
    verdicts: dict[str, str] = {}
    peaks: dict[str, float | None] = {}
    truths: dict[Discretization, Truth] = {}
    for c in candidates:
        if without is not None and without in c.name:
            verdicts[c.name] = "left out"
            continue
        try:
            with torch.device(bench.device):  # what a tool makes is made there
                runner = c.build(there)
            peaks[c.name] = bench.peak_mib(runner.run)
            agrees, verdicts[c.name] = verdict(problem, runner, truths)
        except Exception as error:  # whatever a foreign package raises, the others are still measured
            verdicts[c.name] = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        if agrees:
            runners[c.name] = runner
    truths.clear()
    times, copy = bench.time({name: runner.run for name, runner in runners.items()})
    amount = bytes_of(problem.graph, problem.steps, problem.batch)
    count = neuron_steps(problem.graph, problem.steps, problem.batch)
    for c in candidates:
        yield Measurement(
            group="network",
            case=problem.title,
            candidate=c.name,
            kind=c.kind,
            neurons=count // (problem.steps * problem.batch),
            batch=problem.batch,
            steps=problem.steps,
            neuron_steps=count,
            input="fp32",
            output="fp32",
            bytes_per_step=amount / count,
            bytes=amount,
            runs=bench.repeats if c.name in times else 0,
            copy=copy,
            peak_mib=peaks.get(c.name),
            results=verdicts[c.name],
            **timed(times.get(c.name)),
        )


def on_device(problem: Problem, device: torch.device) -> Problem:
    """The same problem with its input and layers on the device."""
    layers = {name: copy.deepcopy(layer).to(device) for name, layer in problem.layers.items()}
    return replace(problem, x=problem.x.to(device), layers=layers)


def ours(problem: Problem) -> Iterator[Candidate]:
    """The executor as it is, operator by operator, and compiled; the first captures its calls on a GPU, there also with
    its values as constants, and without the state after the last step. Where layers are the library's, also with all of
    them in the defined order.
    """
    if problem.x.is_cuda:
        yield Candidate("neurocuda, CUDA graph", "ours", partial(_executor, graph=True), batches_over_time=True)
        build = partial(_executor, graph=True, frozen=True)
        yield Candidate("neurocuda, CUDA graph, frozen", "ours", build, batches_over_time=True)
        if not problem.one_call_a_step:
            build = partial(_executor, graph=True, frozen=True, state=False)
            yield Candidate("neurocuda, CUDA graph, frozen, output alone", "ours", build, batches_over_time=True)
        schedule = Executor(problem.graph, problem.discretization).schedule
        if any(entry.how == "library" for stage in schedule.stages for entry in stage.nodes):
            build = partial(_executor, graph=True, ordered=True)
            yield Candidate("neurocuda, CUDA graph, ordered", "ours", build, batches_over_time=True)
    yield Candidate("neurocuda, eager", "ours", partial(_executor, graph=False), batches_over_time=True)
    yield Candidate("neurocuda, torch.compile", "ours", partial(_executor, graph=False, compiled=True), True)


def _executor(
    problem: Problem,
    graph: bool,
    compiled: bool = False,
    ordered: bool = False,
    frozen: bool = False,
    state: bool = True,
) -> Runner:
    net = Executor(problem.graph, problem.discretization, ordered=ordered, frozen=frozen).to(problem.x.device)
    net.cuda_graph = graph
    call: Callable[..., tuple[Any, State]] = torch.compile(net, dynamic=False) if compiled else net

    def run() -> Tensor:
        if not problem.one_call_a_step:
            output: Tensor = call(problem.x)[0] if state else net.output(problem.x)
            return output
        carried, pieces = None, []
        for x in torch.split(problem.x, 1):
            y, carried = call(x, carried)
            pieces.append(y)
        return torch.cat(pieces)

    def signals() -> dict[str, Tensor]:
        for _ in range(3):  # the first call, its capture, its replay
            output = run()
        recorded = net.run(problem.x, record=dict.fromkeys(problem.neurons, "output")).recordings
        return {"": output, **{name: by_quantity["output"] for name, by_quantity in recorded.items()}}

    return Runner(run, signals)


def _graphed(candidate: Candidate) -> Candidate:
    """The same in one CUDA graph."""

    def build(problem: Problem) -> Runner:
        runner = candidate.build(problem)
        signals = None if runner.signals is None else graphed(runner.signals)
        return Runner(graphed(runner.run), signals, runner.discretization)

    return Candidate(f"{candidate.name}, CUDA graph", candidate.kind, build, candidate.batches_over_time)
