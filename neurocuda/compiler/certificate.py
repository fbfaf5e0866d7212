"""`Certificate`: which sums of a graph are proved exact in any order (`exactness`), as data and as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from neurocuda.compiler.grids import InputGrid
from neurocuda.graph import table


@dataclass(frozen=True)
class Integers:
    """An int8 layer: signal 0 .. 255 times 2^signal_step, weights -127 .. 127 times 2^weight_steps, by channel.

    Only where the signal depends on the inputs of the same step alone. A state may come from an earlier chunk
    whose inputs were off-grid.
    """

    signal_step: int
    weight_steps: tuple[int, ...]


@dataclass(frozen=True)
class Proof:
    """Whether the sum of one layer or pool is the same in any order.

    steps_used: a bound of the sum of magnitudes, in units of the spacing of the terms' grid; 2^24 is the limit.
    signal_bits, weight_bits: the bits of either operand as an integer, with its sign. inputs: the inputs whose
    promised grids the proof assumes. reason and remedy: why the sum is not exact, and what would make it exact.
    """

    node: str
    type: str
    exact: bool
    steps_used: float | None = None
    signal_bits: int | None = None
    weight_bits: int | None = None
    inputs: frozenset[str] = frozenset()
    integers: Integers | None = None
    reason: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        if not self.exact:
            return f"node {self.node!r} ({self.type}): {self.reason}; {self.remedy}"
        return f"node {self.node!r} ({self.type}): exact in any order"


@dataclass(frozen=True)
class Certificate:
    """The proofs of all layers and pools. Its text is a table.

    If `exact`, the bits do not depend on the order of summation, batch, chunk, backend or the width of the operands.

    Args:
        source: The graph's file.
        proofs: In the order in which the nodes run.
        inputs: The grids that the inputs must be on.
        steps: Where membrane potentials are summed, the most steps of a run; None: no bound.

    Example:
        >>> import neurocuda
        >>> certificate = neurocuda.certify(neurocuda.read("examples/digits/digits.nir"))
        >>> certificate.of("conv1").exact
        True
    """

    source: str
    proofs: tuple[Proof, ...]
    inputs: Mapping[str, InputGrid]
    steps: int | None

    @property
    def exact(self) -> bool:
        """Whether every layer and pool is exact."""
        return self.first is None

    @property
    def first(self) -> Proof | None:
        """The first node that is not exact."""
        return next((proof for proof in self.proofs if not proof.exact), None)

    def of(self, node: str) -> Proof | None:
        """The proof of a layer or pool.

        Args:
            node: Its name.

        Returns:
            The proof; None for other nodes.
        """
        return next((proof for proof in self.proofs if proof.node == node), None)

    def rows(self) -> list[tuple[str, ...]]:
        """The table.

        Returns:
            A row of titles, then one row for each layer and pool.
        """
        rows: list[tuple[str, ...]] = [("node", "type", "exact", "steps of 2^24", "signal bits", "weight bits", "why")]
        for p in self.proofs:
            used = "" if p.steps_used is None else f"2^{math.log2(max(p.steps_used, 1)):.1f}"
            bits = ("" if count is None else str(count) for count in (p.signal_bits, p.weight_bits))
            rows.append((p.node, p.type, "yes" if p.exact else "no", used, *bits, p.reason))
        return rows

    @property
    def summary(self) -> str:
        """How many layers and pools are exact."""
        exact = sum(proof.exact for proof in self.proofs)
        return f"{exact} of {len(self.proofs)} layers and pools are exact in any order"

    def lines(self) -> list[str]:
        """A summary.

        Returns:
            What is proved, and under which conditions.
        """
        lines = [f"{self.source}: {self.summary}"]
        lines += [f"provided that input {name!r} has {grid}" for name, grid in self.inputs.items()]
        if self.steps is not None:
            lines.append(f"provided that a run has no more than {self.steps} steps")
        if self.first is not None:
            lines.append(f"not exact, first {self.first}")
        return lines

    def __str__(self) -> str:
        return "\n".join([*(table(self.rows()) if self.proofs else []), *self.lines()])
