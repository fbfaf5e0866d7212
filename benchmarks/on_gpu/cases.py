"""The cases: tables of sizes and dtypes. The minimum bytes of each follow from the dtypes."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.on_gpu.moved import BITS, STATE, bytes_of_state, bytes_per_step

NEURONS = tuple(2**n for n in range(12, 27, 2))
STEPS = (1, 8, 64, 512)
MOST = 2**31
"""Most neuron-steps of a case: larger cases exceed the memory."""

OUTPUTS = {
    "fp32": ("fp32", "uint8", BITS),
    "fp16": ("fp16", "uint8", BITS),
    "bf16": ("bf16", "uint8", BITS),
    "uint8": ("uint8", BITS),
    "bool": ("bool", "uint8", BITS),
}
"""Types of the branches, and for each those of the spikes."""


@dataclass(frozen=True)
class NeuronCase:
    """A population of LIF neurons over time: scalar coefficients, branches of one type.

    fused: one operator sums and updates; otherwise the sum becomes a float32 tensor in between.
    """

    neurons: int
    steps: int
    input: str
    output: str
    branches: int = 1
    fused: bool = True

    @property
    def group(self) -> str:
        return "neuron" if self.branches == 1 else "residual"

    @property
    def name(self) -> str:
        how = "" if self.branches == 1 else f", {self.branches} branches {'fused' if self.fused else 'unfused'}"
        return f"{self.input} to {self.output}, N = 2^{self.neurons.bit_length() - 1}, T = {self.steps}{how}"

    @property
    def batch(self) -> int:
        return 1

    @property
    def neuron_steps(self) -> int:
        return self.neurons * self.steps

    @property
    def per_step(self) -> float:
        """Bytes of a neuron and step."""
        branches = [self.input] * self.branches
        if self.fused:
            return bytes_per_step(branches, self.output)
        return bytes_per_step(branches, "fp32") + bytes_per_step(["fp32"], self.output)

    @property
    def bytes(self) -> float:
        return self.per_step * self.neuron_steps + bytes_of_state(self.neurons)


@dataclass(frozen=True)
class RecurrentCase:
    """A population of LIF neurons whose spikes come back through a weight, float32."""

    neurons: int
    batch: int
    steps: int = 256
    input: str = "fp32"
    output: str = "fp32"

    group = "recurrent"

    @property
    def name(self) -> str:
        return f"N = {self.neurons}, B = {self.batch}, T = {self.steps}"

    @property
    def neuron_steps(self) -> int:
        return self.neurons * self.batch * self.steps

    @property
    def per_step(self) -> float:
        return bytes_per_step([self.input], self.output)

    @property
    def bytes(self) -> float:
        """The weight is read once: it then stays on the chip. So do the spikes on their way back."""
        state = bytes_of_state(self.neurons * self.batch)
        return self.per_step * self.neuron_steps + state + STATE * (self.neurons**2 + 2 * self.neurons * self.batch)


Case = NeuronCase | RecurrentCase


def neuron_cases(quick: bool = False) -> Iterator[NeuronCase]:
    """All sizes, steps, types and outputs; quick: the smallest and a middle one of each."""
    for input_type, outputs in OUTPUTS.items():
        for output in outputs:
            for neurons in NEURONS[:5:4] if quick else NEURONS:
                for steps in STEPS[:2] if quick else STEPS:
                    if neurons * steps <= MOST:
                        yield NeuronCase(neurons, steps, input_type, output)


def residual_cases(quick: bool = False) -> Iterator[NeuronCase]:
    """A sum of two branches, in the operator and before it."""
    for input_type in ("fp32", "fp16"):
        for neurons in (2**12,) if quick else (2**16, 2**20, 2**24):
            for fused in (True, False):
                yield NeuronCase(neurons, 4 if quick else 32, input_type, input_type, 2, fused)


def recurrent_cases(quick: bool = False) -> Iterator[RecurrentCase]:
    """Sizes around those at which the weight leaves the shared memory of a block."""
    for neurons in (32, 128) if quick else (32, 64, 128, 240, 512, 1024):
        for batch in (1, 4) if quick else (1, 16, 64, 256, 1024):
            yield RecurrentCase(neurons, batch, 16 if quick else 256)
