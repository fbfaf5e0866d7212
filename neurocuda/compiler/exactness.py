"""Range analysis: proves for each layer and pool that its sum is exact in any order, or states why it is not.

Grids and bounds are followed from the inputs through the graph (`range_rules`). A spiking neuron emits 0 or 1 whatever
its membrane potential is, so a layer after one is exact by its own weights alone. Sums into nodes and updates of
neurons have one defined order and need no proof. The only assumption is the promised grid of the inputs, which the
executor checks. The analysis is sound: it may miss an exact sum, and never accepts an inexact one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from neurocuda.compiler import grids
from neurocuda.compiler.certificate import Certificate, Proof
from neurocuda.compiler.grids import Grid, InputGrid
from neurocuda.compiler.range_rules import Context, Lost, Signal, channels, follow, lost_sum, title
from neurocuda.compiler.schedule import Edge, schedule
from neurocuda.discretization.metadata import settled
from neurocuda.discretization.settings import Discretization
from neurocuda.errors import ArgumentError, check_integer
from neurocuda.graph import Graph, Node

InputGrids = InputGrid | Mapping[str, InputGrid]


def certify(
    graph: Graph,
    discretization: Discretization | None = None,
    *,
    input_grid: InputGrids | None = None,
    steps: int | None = None,
) -> Certificate:
    """Proves which sums of a graph are exact in any order (docs/exactness.md).

    Args:
        graph: The graph.
        discretization: As the graph will run. Default: that of the file, else `Discretization()`.
        input_grid: The promised grid of the inputs, one for all or by name. Default: the integers 0 .. 255.
        steps: The most time steps of a run, which bounds the membrane potentials of I neurons. None: these are on
            no grid.

    Returns:
        A proof for each layer and pool.

    Raises:
        ArgumentError: An argument does not fit.

    Example:
        >>> import neurocuda
        >>> graph = neurocuda.read("examples/digits/digits.nir")
        >>> neurocuda.certify(graph).exact
        True
    """
    d = settled(graph, discretization)
    if steps is not None:
        check_integer("steps", steps, 1)
    return Search(graph, d, promised(graph, input_grid), steps).certificate()


def promised(graph: Graph, input_grid: InputGrids | None) -> dict[str, InputGrid]:
    """The grid of each Input by name."""
    if input_grid is None or isinstance(input_grid, InputGrid):
        return dict.fromkeys(graph.inputs, input_grid or InputGrid())
    if not isinstance(input_grid, Mapping) or not all(isinstance(g, InputGrid) for g in input_grid.values()):
        raise ArgumentError(f"input_grid: expected an InputGrid, or a dict of them by input, found {input_grid!r}")
    unknown = sorted(set(input_grid) - set(graph.inputs))
    if unknown:
        raise ArgumentError(f"input_grid: expected the inputs {list(graph.inputs)}, found {unknown}")
    return {name: input_grid.get(name, InputGrid()) for name in graph.inputs}


class Search:
    """Follows grids through a graph in the order of its schedule; within a cycle, from spikes, whose range is known.

    signals: the grid of each node, or why it has none. replaced: returns the node to use in place of another, from the
    grid of its input sum.
    """

    def __init__(
        self,
        graph: Graph,
        d: Discretization,
        inputs: Mapping[str, InputGrid],
        steps: int | None,
        replaced: Callable[[Node, Grid], Node] | None = None,
    ) -> None:
        self.graph, self.d, self.inputs, self.steps, self.replaced = graph, d, inputs, steps, replaced
        self.proofs: list[Proof] = []
        self.from_state: set[str] = set()  # signals that depend on inputs of earlier steps
        self.signals: dict[str, Signal] = {
            name: grids.constant(channels(graph.nodes[name].output_shape), g.exponent, g.low, g.high, frozenset({name}))
            for name, g in inputs.items()
        }
        for name, node in graph.nodes.items():
            primitive = node.primitive
            if primitive.emits_spikes and not (primitive.is_spiking and d.spikes_per_step == "many"):
                self.signals[name] = grids.constant(channels(node.output_shape), 0, 0.0, 1.0)

    def certificate(self) -> Certificate:
        plan = schedule(self.graph, self.d)
        order = [name for stage in plan.stages for name in stage.nodes]
        waiting = [name for name in order if name not in self.signals]
        # A cycle may depend on the spikes of a node that the schedule has later.
        while waiting:
            left = [name for name in waiting if not self._visit(self.graph.nodes[name], plan.edges[name])]
            if len(left) == len(waiting):
                for name in left:
                    reason = "its output feeds back to it without bound"
                    lost = Lost(title(self.graph.nodes[name]), reason, "a spiking neuron in the cycle bounds it")
                    self._lose(self.graph.nodes[name], lost)
                break
            waiting = left
        self.proofs.sort(key=lambda proof: order.index(proof.node))
        return Certificate(self.graph.source, tuple(self.proofs), self.inputs, self.steps)

    def _lose(self, node: Node, lost: Lost) -> None:
        self.signals[node.name] = lost
        if node.primitive.is_weighted or node.primitive.is_pool:
            reason = f"its input is on no grid since {lost.node}: {lost.reason}"
            self.proofs.append(Proof(node.name, node.type, False, reason=reason, remedy=lost.remedy))

    def _visit(self, node: Node, edges: tuple[Edge, ...]) -> bool:
        """Follow the grid through a node; False while the grid of a source is unknown."""
        primitive = node.primitive
        arriving: list[Grid] = []
        exact = True
        for edge in edges:
            signal = self.signals.get(edge.source)
            if signal is None:
                return False
            if isinstance(signal, Lost) and primitive.is_spiking and signal.bounds is not None:
                signal, exact = signal.bounds, False
            if isinstance(signal, Lost):
                self._lose(node, replace(signal, bounds=None))
                return True
            arriving.append(signal.with_zero() if edge.delayed else signal)
            if edge.source in self.from_state or (edge.delayed and signal.inputs):
                self.from_state.add(node.name)
        total = grids.add(arriving, channels(node.input_shape))
        if total.grid.inputs and primitive.has_state:
            self.from_state.add(node.name)
        x = total.grid
        if primitive.is_spiking:
            x = x if exact and total.exact else total.rounded
        elif not total.exact:
            self._lose(node, lost_sum(node, total))
            return True
        node = node if self.replaced is None else self.replaced(node, x)
        context = Context(self.d, self.steps, node.name in self.from_state)
        self.signals[node.name], proof = follow(node, x, context)
        if proof is not None:
            self.proofs.append(proof)
        return True
