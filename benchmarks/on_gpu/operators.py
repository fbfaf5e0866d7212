"""Our operators on one device: populations over time, residual sums, recurrent populations; outputs compared first.

Compared is every bit of the output and of the state, with the reference operators on the same device.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.frameworks.plain import PlainNeuron
from benchmarks.on_gpu.cases import Case, NeuronCase, RecurrentCase
from benchmarks.on_gpu.clock import Bench
from benchmarks.on_gpu.graphs import graphed
from benchmarks.on_gpu.measurements import Measurement, timed
from benchmarks.on_gpu.moved import BITS, TYPES
from benchmarks.problem import Neuron
from neurocuda.ops import NeuronCoefficients, NeuronState, Surrogate, reference
from neurocuda.ops.backends import backend_for, backends, is_usable, operators, use_backend

DECAY = 15 / 16
COMPARED = 2**26
"""Neuron-steps that are compared at a time, which take some GB."""


@dataclass(frozen=True)
class Candidate:
    """`run` gives the output [T, B, N] in its type, or packed, and the membrane potentials after the last step."""

    name: str
    kind: str
    run: Callable[[], tuple[Tensor, Tensor]]


def served(device: torch.device) -> dict[str, ModuleType]:
    """Our backends for the device, by name, without the reference."""
    found = {}
    for asked, state in backends().items():
        if is_usable(state):
            with use_backend(asked):
                if backend_for(device) != "reference":
                    found[backend_for(device)] = operators(device)
    return found


def measure(case: Case, bench: Bench, without: str | None = None) -> Iterator[Measurement]:
    """Every candidate of a case: built, compared with the reference, and timed if it agrees.

    without: candidates whose name has this in it are named, and not run.
    """
    candidates, check = _neuron(case, bench) if isinstance(case, NeuronCase) else _recurrent(case, bench)
    verdicts: dict[str, str] = {}
    peaks: dict[str, float | None] = {}
    for c in candidates:
        if without is not None and without in c.name:
            verdicts[c.name] = "left out"
            continue
        try:
            verdicts[c.name] = check(c.run())
            peaks[c.name] = bench.peak_mib(c.run)
        except Exception as error:  # one that fails leaves the others, and is named
            verdicts[c.name] = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    agreeing = {c.name: c.run for c in candidates if verdicts[c.name] == "equal"}
    times, copy = bench.time(agreeing, ahead=isinstance(case, NeuronCase))
    for c in candidates:
        yield Measurement(
            group=case.group,
            case=case.name,
            candidate=c.name,
            kind=c.kind,
            neurons=case.neurons,
            batch=case.batch,
            steps=case.steps,
            neuron_steps=case.neuron_steps,
            input=case.input,
            output=case.output,
            bytes_per_step=case.per_step,
            bytes=case.bytes,
            runs=bench.repeats if c.name in times else 0,
            copy=copy,
            peak_mib=peaks.get(c.name),
            results=verdicts[c.name],
            **timed(times.get(c.name)),
        )


Check = Callable[[tuple[Tensor, Tensor]], str]


def _neuron(case: NeuronCase, bench: Bench) -> tuple[list[Candidate], Check]:
    branches = [_signal(case, bench.device, seed) for seed in range(case.branches)]
    c = _lif(bench.device, gain=(1.0 if branches[0].is_floating_point() else 0.36) / case.branches)
    rest = torch.zeros(1, case.neurons, device=bench.device)
    dtype = torch.uint8 if case.output == BITS else TYPES[case.output]

    def run(ops: ModuleType) -> tuple[Tensor, Tensor]:
        signals = branches if case.fused else [ops.branch_sum(branches)]
        packed = case.output == BITS
        output, state, _ = ops.neuron(signals, c, NeuronState(rest), Surrogate(), dtype=dtype, packed=packed)
        return output, state.v

    proved: list[tuple[Tensor, Tensor]] = []

    def check(found: tuple[Tensor, Tensor]) -> str:
        if proved and all(torch.equal(a, b) for a, b in zip(found, proved[0], strict=True)):
            return "equal"
        spikes = _spikes(found[0], case)
        width = max(8, COMPARED // case.steps)
        for first in range(0, case.neurons, width):
            part = slice(first, first + width)
            state = NeuronState(rest[:, part])
            owed, after, _ = reference.neuron([b[..., part].float() for b in branches], c, state, Surrogate())
            if not torch.equal(spikes(part), owed) or not torch.equal(found[1][:, part], after.v):
                return f"differs from the reference in neurons {first} to {first + width - 1}"
        proved[:] = [found]  # the next is compared with it: the reference takes long
        return "equal"

    return [
        Candidate(f"neurocuda, {name}", "ours", partial(run, ops)) for name, ops in served(bench.device).items()
    ], check


def _spikes(output: Tensor, case: NeuronCase) -> Callable[[slice], Tensor]:
    """Spikes of some neurons as float32, from an output of any type."""
    if case.output != BITS:
        return lambda part: output[..., part].float()

    def unpacked(part: slice) -> Tensor:
        some = output[:, part.start // 8 : part.stop // 8].unsqueeze(-1)
        bits = some.bitwise_right_shift(torch.arange(8, dtype=torch.uint8, device=output.device)) & 1
        return bits.flatten(1).unsqueeze(1).float()

    return unpacked


def _signal(case: NeuronCase, device: torch.device, seed: int) -> Tensor:
    """Noise under which some of the neurons fire at every step."""
    g = torch.Generator(device).manual_seed(seed)
    shape, dtype = (case.steps, 1, case.neurons), TYPES[case.input]
    if dtype.is_floating_point:
        return torch.empty(shape, dtype=dtype, device=device).uniform_(0, 0.36, generator=g)
    return torch.randint(0, 2, shape, dtype=torch.uint8, device=device, generator=g).view(dtype)


def _lif(device: torch.device, gain: float = 1.0) -> NeuronCoefficients:
    one, zero = torch.ones(1, device=device), torch.zeros(1, device=device)
    return NeuronCoefficients(one * DECAY, one * gain, zero, threshold=one, v_reset=zero)


def _recurrent(case: RecurrentCase, bench: Bench) -> tuple[list[Candidate], Check]:
    """Weights and inputs on a grid, so that every order of summation gives the same bits."""
    g = torch.Generator().manual_seed(case.neurons)
    weight = torch.randint(-4, 5, (case.neurons, case.neurons), generator=g) / 64
    x = (torch.randint(0, 20, (case.steps, case.batch, case.neurons), generator=g) / 64).to(bench.device)
    weight = weight.to(bench.device)
    c, rest = _lif(bench.device), torch.zeros(case.batch, case.neurons, device=bench.device)
    neuron = PlainNeuron(Neuron("lif", (case.neurons,), DECAY, 1.0))

    def ours(ops: ModuleType) -> tuple[Tensor, Tensor]:
        output, state, _, _ = ops.recurrent_neuron([x], 1, weight, None, c, NeuronState(rest), rest, Surrogate())
        return output, state.v

    def plain() -> tuple[Tensor, Tensor]:
        neuron.reset()
        spikes, emitted = rest, []
        for x_t in x:
            spikes = neuron(x_t + spikes @ weight.t())
            emitted.append(spikes)
        assert isinstance(neuron.v, Tensor)
        return torch.stack(emitted), neuron.v

    owed, state, _, _ = reference.recurrent_neuron([x], 1, weight, None, c, NeuronState(rest), rest, Surrogate())

    def check(found: tuple[Tensor, Tensor]) -> str:
        same = torch.equal(found[0], owed) and torch.equal(found[1], state.v)
        return "equal" if same else f"differs from the reference, {(found[0] != owed).float().mean():.2g} of all spikes"

    candidates = [
        Candidate(f"neurocuda, {name}", "ours", partial(ours, ops)) for name, ops in served(bench.device).items()
    ]
    candidates.append(Candidate("plain torch, stepped", "torch", plain))
    if bench.device.type == "cuda":
        candidates.append(Candidate("plain torch, CUDA graph", "torch", graphed(plain)))
    return candidates, check
