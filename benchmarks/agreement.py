"""Checks that a candidate has the same spikes as NeuroCUDA, or a first difference that rounding explains.

Sums may be rounded in another order elsewhere. Where the spikes of a sample differ, the first difference in it (the
earliest step, in it the first population) has had equal inputs up to there; it is accepted if there our own potential
lies so near the threshold that rounding decides. What follows in that sample is no longer comparable.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.problem import Neuron, Problem, Runner
from neurocuda import Discretization, load
from neurocuda.ops.backends import use_backend

ROUNDING = 1e-5
"""Of the largest potential or input of the neuron so far: about 170 roundings of float32."""


@dataclass(frozen=True)
class Truth:
    """The reference run, [T, B, *shape]: output, input and potential before the reset of every population."""

    output: Tensor
    emitted: Mapping[str, Tensor]
    potentials: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]


@dataclass(frozen=True)
class Agreement:
    """`equal`: the same results, or different only by rounding; `text` says which."""

    equal: bool
    text: str


def truth(problem: Problem, discretization: Discretization) -> Truth:
    """The run of a problem on the reference operators, with recordings."""
    record = {name: ("output", "input", "v", *_current(neuron)) for name, neuron in problem.neurons.items()}
    with use_backend("reference"):
        result = load(problem.graph, discretization).run(problem.x, record=record)
    recordings = result.recordings
    assert isinstance(result.output, Tensor)
    return Truth(
        result.output,
        {name: recordings[name]["output"] for name in record},
        {name: _potential(problem.neurons[name], recordings[name]) for name in record},
        {name: recordings[name]["input"] for name in record},
    )


def compare(problem: Problem, ours: Truth, theirs: Mapping[str, Tensor]) -> Agreement:
    """`theirs`: what every population of the candidate emitted, and under "" its output."""
    populations = [neuron for neuron in problem.neurons.values() if neuron.threshold is not None]
    for neuron in populations:
        if theirs[neuron.name].shape != ours.emitted[neuron.name].shape:
            found = f"{tuple(theirs[neuron.name].shape)} of {neuron.name!r}"
            return Agreement(False, f"shape {found} instead of {tuple(ours.emitted[neuron.name].shape)}")
    different = [_by_sample(problem, ours.emitted[n.name] != theirs[n.name]) for n in populations]
    first = torch.stack([_first_step(d) for d in different])  # [population, sample], T where none
    earliest = first.min(0)
    diverged = earliest.values < problem.steps
    gap = 0.0
    for index, neuron in enumerate(populations):
        samples = ((earliest.indices == index) & diverged).nonzero().flatten()
        if len(samples):
            gap = max(gap, _gap(problem, neuron, ours, different[index], samples, earliest.values[samples]))
    share = torch.cat([d.flatten() for d in different]).float().mean().item()
    if gap > 1:
        return Agreement(
            False,
            f"other spikes, {share:.2g} of them, {gap:.0f} times further from the threshold than rounding explains",
        )
    count, total = int(diverged.sum()), diverged.numel()
    if not count:
        return _compare_output(ours.output, theirs[""])
    what = "neurons" if problem.separate else "samples"
    text = (
        f"equal but for rounding: {count} of {total} {what} differ first within {gap * ROUNDING:.0e} of the threshold"
    )
    return Agreement(True, f"{text}, {share:.2g} of all spikes")


def verdict(problem: Problem, runner: Runner, truths: dict[Discretization, Truth]) -> tuple[bool, str]:
    """Compares the runner with NeuroCUDA under the runner's discretization; returns the verdict with a text."""
    if runner.signals is None:
        runner.run()
        return True, ""
    meaning = runner.discretization or problem.discretization
    if meaning not in truths:
        truths[meaning] = truth(problem, meaning)
    agreement = compare(problem, truths[meaning], {name: signal.cpu() for name, signal in runner.signals().items()})
    own = {name: value for name, value in vars(meaning).items() if value != getattr(problem.discretization, name)}
    with_own = f", with {', '.join(f'{name}={value}' for name, value in own.items())}" if own else ""
    return agreement.equal, agreement.text + with_own


def _compare_output(ours: Tensor, theirs: Tensor) -> Agreement:
    theirs = theirs.reshape(ours.shape)
    if torch.equal(ours, theirs):
        return Agreement(True, "equal")
    gap = ((ours - theirs).abs().max() / ours.abs().max()).item()
    return Agreement(gap <= ROUNDING, f"equal spikes, output differs by {gap:.0e} of its largest value")


def _gap(problem: Problem, neuron: Neuron, ours: Truth, different: Tensor, samples: Tensor, steps: Tensor) -> float:
    """The largest distance of a first difference from the threshold, over the bound of the rounding error there."""
    assert neuron.threshold is not None
    potential = _by_sample(problem, ours.potentials[neuron.name])[:, samples]
    current = _by_sample(problem, ours.inputs[neuron.name])[:, samples]
    size = torch.maximum(potential.abs(), current.abs()).cummax(0).values
    which = torch.arange(len(samples))
    at = different[steps, samples]
    distance = (potential[steps, which].double() - neuron.threshold).abs()
    return float((distance / (ROUNDING * size[steps, which].clamp(min=neuron.threshold)))[at].max())


def _first_step(different: Tensor) -> Tensor:
    """The first step at which a sample differs, T where it never does; [sample] of [T, sample, neuron]."""
    steps = different.any(2)
    return torch.where(steps.any(0), steps.float().argmax(0), different.shape[0])


def _by_sample(problem: Problem, signal: Tensor) -> Tensor:
    """[T, sample, neuron]: samples of the batch, or single neurons where they do not see each other."""
    return signal.flatten(1).unsqueeze(2) if problem.separate else signal.flatten(2)


def _potential(neuron: Neuron, recorded: Mapping[str, Tensor]) -> Tensor:
    """u of every step, from what was recorded of the step before."""
    v, current = recorded["v"], recorded["i" if neuron.decay_synapse is not None else "input"]
    return torch.cat([torch.zeros_like(v[:1]), v[:-1]]) * neuron.decay + current


def _current(neuron: Neuron) -> tuple[str, ...]:
    return () if neuron.decay_synapse is None else ("i",)
